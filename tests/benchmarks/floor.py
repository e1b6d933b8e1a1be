"""The floor: the three libraries, and a bare GET and publish per poll.

`python -m benchmarks.floor URL PORT TOPIC COUNT PAUSE` does it COUNT times, each after PAUSE seconds, prints `done`,
and stays until killed.
"""

import sys
import time

import httpx
import paho.mqtt.client as paho
import pydantic_settings


def main(url: str, port: int, topic: str, count: int, pause: float) -> None:
    """Ask and publish."""
    assert pydantic_settings
    broker = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    broker.connect("127.0.0.1", port)
    broker.loop_start()
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), trust_env=False, verify=False) as client:  # noqa: S501
        for number in range(count):
            time.sleep(pause)
            body = client.get(url).content
            # no two alike, as in reality
            broker.publish(topic, b"%d%b" % (number, body), qos=1, retain=True).wait_for_publish(10)
    print("done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
