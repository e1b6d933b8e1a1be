"""The broker, the endpoint and the watcher around the process that is measured."""

import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import paho.mqtt.client as paho

from benchmarks.process import Process, cpu_seconds, first_line, resident_megabytes, running, threads
from parts.broker import Mosquitto
from parts.credentials import write_credentials

POLL_INTERVAL = 300
LONGEST_WAIT = 600.0


@dataclass
class Reading:
    """What a service had done and used at one moment."""

    polls: int
    cpu: float
    resident: float
    messages: int
    size: int
    threads: int


@dataclass
class Counter:
    """An MQTT client that counts what the service publishes, and knows when a topic first came."""

    port: int
    filters: tuple[str, ...]
    messages: int = 0
    size: int = 0
    came: dict[str, float] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._on_message
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()
        self._client.subscribe([(topic, 0) for topic in self.filters])
        assert subscribed.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        with self.changed:
            self.messages += 1
            self.size += len(message.topic) + len(message.payload)
            self.came.setdefault(message.topic, time.perf_counter())
            self.changed.notify_all()

    def wait_for(self, topic: str) -> float:
        """Return when a topic first came."""
        with self.changed:
            assert self.changed.wait_for(lambda: topic in self.came, 30), f"nothing came on {topic}"
            return self.came[topic]


@dataclass
class World:
    """A broker, and a folder with credentials."""

    broker: Mosquitto
    folder: Path
    names: Iterator[str] = field(default_factory=lambda: (f"b{number}" for number in range(10_000)))

    def environment(self, prefix: str, url: str, accounts: int = 1) -> dict[str, str]:
        """Return the settings of a service."""
        names = {f"a{number}": str(self.folder) for number in range(accounts)}
        where = {"CLAUDE_CONFIG_DIR": str(self.folder)} if accounts == 1 else {"CLAUDE_ACCOUNTS": json.dumps(names)}
        return where | {
            "MQTT_HOST": "127.0.0.1",
            "MQTT_PORT": str(self.broker.port),
            "MQTT_BASE_TOPIC": prefix,
            "HOMEASSISTANT_PREFIX": f"ha-{prefix}",
            "CLAUDE_API_URL": url,
            "POLL_INTERVAL": str(POLL_INTERVAL),
        }


@contextmanager
def world() -> Iterator[World]:
    """Run a broker, one that holds no small packet back: by default it sometimes does, for 40 ms that are not ours."""
    at_once = ["set_tcp_nodelay true"]
    with tempfile.TemporaryDirectory() as folder, Mosquitto(persistence=False, extra_lines=at_once) as broker:
        write_credentials(Path(folder), expires_in=None)
        yield World(broker, Path(folder))


@contextmanager
def endpoint(*, alike: int = 1, origin: float = 0.0, speed: float = 1.0) -> Iterator[str]:
    """Run an endpoint; return its URL."""
    with running("-m", "benchmarks.endpoint", str(alike), str(origin), str(speed)) as process:
        yield f"http://127.0.0.1:{first_line(process)}"


@dataclass
class Run:
    """A service under a fast clock."""

    url: str
    counter: Counter
    process: Process

    def reading_after(self, polls: int) -> Reading:
        """Return what was done and used when it has polled that often in all."""
        until = time.monotonic() + LONGEST_WAIT
        while (done := self._polls()) < polls:
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError(f"the service made {done} of {polls} polls")
            time.sleep(0.05)
        return Reading(
            done,
            cpu_seconds(self.process),
            resident_megabytes(self.process),
            self.counter.messages,
            self.counter.size,
            threads(self.process),
        )

    def _polls(self) -> int:
        with urllib.request.urlopen(f"{self.url}/count", timeout=10) as answer:  # noqa: S310 - our own
            return int(answer.read())


@contextmanager
def run(around: World, *, alike: int = 1, accounts: int = 1, polls_per_second: float) -> Iterator[Run]:
    """Run a service under a fast clock."""
    origin, speed, prefix = time.monotonic(), polls_per_second * POLL_INTERVAL / accounts, next(around.names)
    command = ("-m", "benchmarks.service", str(origin), str(speed))
    with (
        endpoint(alike=alike, origin=origin, speed=speed) as url,
        Counter(around.broker.port, (f"{prefix}/#", f"ha-{prefix}/#")) as counter,
        running(*command, environment=around.environment(prefix, url, accounts)) as process,
    ):
        yield Run(url, counter, process)
