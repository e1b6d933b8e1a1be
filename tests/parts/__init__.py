"""The real parts that the tests run against: brokers, an HTTP endpoint, a faulty network, credentials.

- `broker`: a real Mosquitto, or the embedded broker where there is none
- `watcher`: an independent MQTT client that remembers what it saw
- `endpoint`: an HTTP server that answers like the usage endpoint; `faults` and `documents` are what it answers
- `proxy`: a TCP proxy that freezes, slows, cuts and refuses
- `credentials`: Claude Code's credentials file
- `certificates`: an authority for TLS tests
- `net`: loopback ports and listeners that the others are made of
"""
