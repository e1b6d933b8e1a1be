"""What the demo brings so that a fresh machine needs neither a broker nor an account.

`simulated_api` plays the usage endpoint for a made-up subscription, `broker` runs an MQTT broker inside this
process. The service itself uses neither, and neither is reachable from another machine unless its caller asks for
that. The tests use both, because a real server reveals more than a mock.
"""
