"""How fast and how small the service is, as ratios to unavoidable costs, all measured in one run.

    cd tests && python -m benchmarks [--full]

The floor is a bare Python that imports the three libraries (paho-mqtt, httpx, pydantic-settings), or that makes one
bare GET and one bare publish per poll. Linux only; needs Mosquitto. Exit status 3 if a target is missed.

- `__main__`: which measurements there are, and the table
- `world`: the broker, the endpoint and the watcher, each next to the process that is measured
- `endpoint`: the lean HTTP server, in its own process
- `service`: the real service under a fast clock, in its own process
- `floor`: the bare GET and publish, in its own process
- `moment`: the fast time that these processes share
- `process`: what a process has used, from /proc
"""
