"""The real parts that the tests run against, and what the tests have in common.

- `broker`: a real Mosquitto, or the embedded broker if there is none; `watcher`: an MQTT client that remembers
- `endpoint`: an HTTP server that answers like the usage endpoint; `faults` and `documents` are what it answers
- `proxy`: a TCP proxy that freezes, slows, cuts and refuses; `net`: the ports and listeners of these
- `service`, `reporter`, `command`: the program itself, as a process or inside the test; `process`: what it logs
- `credentials`, `claude_code`, `supervisor`, `certificates`: its surroundings
- `simulation`, `true_account`, `worker`, `readings`: accounts in simulated time
- `patience`, `waiting`: what tests wait for, and for how long; `hostile`: malicious input
- `templates`: rendered as Home Assistant does; `garbage`: objects that wait for the garbage collector
"""
