"""What lets the demo run on a machine that has neither a broker nor an account.

`simulated_account` is a made-up subscription, `simulated_api` is its usage endpoint, `broker` runs an MQTT
broker inside this process. The service itself uses none of them, and none is reachable from another machine unless its
caller asks for that. The tests use them, because a real server reveals more than a mock.
"""
