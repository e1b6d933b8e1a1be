"""A soak: the service for many minutes, a fault every few seconds, and at the end it must be as at the start.

    cd tests && python -m soak --minutes 20 --seed 1

The service runs in its own process, on a clock fast enough for fifty polls a second, against a Mosquitto and an
endpoint with everything that can go wrong. The same seed makes the same faults, though not to the millisecond.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from parts import faults, service
from parts.broker import Mosquitto
from parts.command import clean_environment
from parts.credentials import FILE_NAME, write_credentials, write_credentials_text
from parts.documents import sample_usage
from parts.endpoint import Endpoint
from parts.process import LoggedProcess
from parts.proxy import FaultyProxy
from parts.service import is_ok, is_online, session_is
from parts.watcher import Watcher

INTERVAL: Final = 300.0
POLLS_PER_SECOND: Final = 50.0
SPEED: Final = INTERVAL * POLLS_PER_SECOND
DEADLINE: Final = 0.5
CLIENT_ID: Final = "soaked"
WARM_UP: Final = 300
"""Polls before the first measurement: a day of them, as long as samples are kept."""
SESSION: Final = dt.timedelta(hours=5)
FINAL: Final = 37.25
ALLOCATOR: Final = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""As in the container; the Dockerfile says why."""
MEMORY_LIMIT: Final = 1024
"""KiB that the service may have grown by."""
BACK_WITHIN: Final = 60.0
"""Real seconds after the last fault: the longest wait between two attempts to connect is 30, and a bit."""


# In the process that is soaked


def serve(port: int, api_url: str, folder: Path, origin: float, start: float) -> None:
    """Run the service until SIGTERM; standard input moves its clock: `sleep SECONDS` or `set SECONDS`."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
    clock = service.Clock(SPEED, origin=origin, start=dt.datetime.fromtimestamp(start, dt.UTC))

    def move_clock() -> None:
        for line in sys.stdin:
            what, seconds = line.split()
            {"sleep": clock.sleep, "set": clock.set}[what](dt.timedelta(seconds=float(seconds)))
        ended.set()  # the process that started this is gone

    ended = threading.Event()
    threading.Thread(target=move_clock, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with service.running_service(
        port,
        api_url,
        folder,
        clock=clock,
        interval=INTERVAL,
        deadline=DEADLINE,
        client_id=CLIENT_ID,
        keepalive=5,
        log_kept=10,
    ):
        ended.wait()


@dataclass(frozen=True)
class Size:
    """What the process takes while nothing is under way."""

    memory: int
    threads: int
    descriptors: int

    def __str__(self) -> str:
        return f"{self.memory} KiB, {self.threads} threads, {self.descriptors} descriptors"


class World:
    """The service and everything around it; a context manager."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.truth: float | None = None
        self.clock = service.Clock(SPEED)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        self.folder = Path(enter(tempfile.TemporaryDirectory(prefix="soak-")))
        write_credentials(self.folder, expires_in=None)
        self.mosquitto = enter(Mosquitto())
        self.proxy = enter(FaultyProxy(self.mosquitto.port))
        self.endpoint = enter(Endpoint(lambda _: self.document()))
        self.elsewhere = enter(Endpoint())
        arguments = [self.proxy.port, self.endpoint.url, self.folder, self.clock.origin, self.clock.start.timestamp()]
        environment = clean_environment(self.folder, {"PYTHONPATH": Path(__file__).parent, **ALLOCATOR})
        soaked = LoggedProcess(
            [sys.executable, __file__, "--serve", *arguments], env=environment, stdin=subprocess.PIPE
        )
        self.process, self.log = enter(soaked).process, soaked.log
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # The truth

    def document(self) -> dict[str, Any]:
        """Return what the endpoint answers now: a session that fills over its five hours, and starts again."""
        now = self.clock.now()
        since = (now - self.clock.start) % SESSION
        used = self.truth if self.truth is not None else round(110 * (since / SESSION), 1)
        jitter = dt.timedelta(seconds=self.rng.uniform(-2, 2))
        return sample_usage(now=now, five_hour=used, resets_at=now - since + SESSION + jitter)

    # Measuring

    def measure(self) -> Size:
        """Pause the polling and look at the process."""
        with Watcher(self.mosquitto.port, (service.HEALTH,)) as watcher:
            watcher.publish(service.command("polling"), "OFF")
            watcher.wait_topic(service.HEALTH, lambda m: not m.retain and m.json()["status"] == "paused")
            time.sleep(2 * DEADLINE)  # what is under way ends by itself, and nothing says when
            size = self.look()
            watcher.publish(service.command("polling"), "ON")
        return size

    def look(self) -> Size:
        """Return what the process takes now."""
        folder = Path("/proc") / str(self.process.pid)
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return Size(int(status["VmRSS"].split()[0]), int(status["Threads"]), len(list((folder / "fd").iterdir())))

    def move_clock(self, what: str, seconds: float) -> None:
        """Let the host sleep, or set its clock."""
        {"sleep": self.clock.sleep, "set": self.clock.set}[what](dt.timedelta(seconds=seconds))
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {seconds}\n")
        self.process.stdin.flush()


# Faults: each lasts as long as its context

Fault = contextlib.AbstractContextManager[None]


@contextlib.contextmanager
def _api(world: World, fault: Any) -> Iterator[None]:
    world.endpoint.fault = fault
    yield
    world.endpoint.fault = None
    world.endpoint.release()


@contextlib.contextmanager
def _logged_out(world: World) -> Iterator[None]:
    world.endpoint.fault = faults.unauthorized()
    yield
    world.endpoint.fault = None
    write_credentials(world.folder, token=f"token-{world.rng.random()}", expires_in=None)


@contextlib.contextmanager
def _from(act: Callable[[], object], until: Callable[[], object] = lambda: None) -> Iterator[None]:
    act()
    yield
    until()


def _network(act: Callable[[FaultyProxy], object]) -> Callable[[World], Fault]:
    return lambda world: _from(lambda: act(world.proxy), world.proxy.heal)


def _credentials(spoil: Callable[[World], object]) -> Callable[[World], Fault]:
    return lambda world: _from(lambda: spoil(world), lambda: write_credentials(world.folder, expires_in=None))


def _forget(mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    (mosquitto.folder / "mosquitto.db").unlink(missing_ok=True)


@contextlib.contextmanager
def _taken_over(world: World) -> Iterator[None]:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    twin = paho.Client(CallbackAPIVersion.VERSION2, client_id=CLIENT_ID)
    twin.connect("127.0.0.1", world.mosquitto.port)
    twin.loop_start()
    yield
    twin.disconnect()
    twin.loop_stop()


def _noise(world: World) -> None:
    with Watcher(world.mosquitto.port, ("nothing",)) as watcher:
        for _ in range(50):
            name = world.rng.choice(["refresh", "interval", "polling", "{{ 1 }}", "é" * 20])
            payload = world.rng.choice([b"", b"\xff" * 30, b"NaN", b"{" * 1000, b"-1", b"refresh"])
            watcher.publish(service.command(name), payload)
        watcher.publish(service.BIRTH, "online")
        watcher.publish(service.HEALTH, '{"status": "ok"}')


FAULTS: Final[dict[str, Callable[[World], Fault]]] = {
    "API refuses": lambda world: _api(world, faults.server_error()),
    "API overloaded": lambda world: _api(world, faults.overloaded()),
    "API window full": lambda world: _api(world, faults.rate_limited()),
    "API shuts out": lambda world: _api(world, faults.rate_limited(600)),
    "API knows no token": _logged_out,
    "API hangs": lambda world: _api(world, faults.Hang()),
    "API drips headers": lambda world: _api(world, faults.DripHeaders()),
    "API drips": lambda world: _api(world, faults.DripBody()),
    "API sends too much": lambda world: _api(world, faults.HugeBody(8 * faults.MEGABYTE)),
    "API sends a bomb": lambda world: _api(world, faults.GzipBomb(8 * faults.MEGABYTE)),
    "API sends HTML": lambda world: _api(world, faults.html_page()),
    "API sends no JSON": lambda world: _api(world, faults.invalid_json()),
    "API sends deep JSON": lambda world: _api(world, faults.deep_json()),
    "API sends wrong types": lambda world: _api(world, faults.wrong_json(world.rng.choice(faults.WRONG_TYPES))),
    "API cuts": lambda world: _api(world, faults.CutBody()),
    "API closes": lambda world: _api(world, faults.CloseAtOnce(reset=world.rng.random() < 0.5)),
    "API redirects": lambda world: _api(world, faults.redirect(world.elsewhere)),
    "broker refuses": _network(FaultyProxy.refuse),
    "broker half-open": _network(FaultyProxy.freeze),
    "broker slow": _network(lambda proxy: proxy.slow(2000)),
    "broker cuts": lambda world: _from(lambda: world.proxy.cut_after(world.rng.randrange(20000)), world.proxy.heal),
    "broker drops": _network(FaultyProxy.drop),
    "broker restarts": lambda world: _from(world.mosquitto.stop, world.mosquitto.start),
    "broker forgets": lambda world: _from(lambda: _forget(world.mosquitto), world.mosquitto.start),
    "broker frozen": lambda world: _from(world.mosquitto.freeze, world.mosquitto.thaw),
    "client id taken": _taken_over,
    "noise": lambda world: _from(lambda: _noise(world)),
    "credentials gone": _credentials(lambda world: (world.folder / FILE_NAME).unlink()),
    "credentials cut": _credentials(lambda world: write_credentials_text(world.folder, '{"claudeAi')),
    "credentials expired": _credentials(
        lambda world: write_credentials(world.folder, now=world.clock.now(), expires_in=dt.timedelta(minutes=-1))
    ),
    "host asleep": lambda world: _from(lambda: world.move_clock("sleep", 86400)),
    "clock set back": lambda world: _from(lambda: world.move_clock("set", -3600)),
    "clock set forward": lambda world: _from(lambda: world.move_clock("set", 3600)),
}


def soak(seconds: float, seed: int, pause: float = 1.5) -> str:
    """Run for this long; return the report. Raises AssertionError if the service is not as before."""
    rng = random.Random(seed)
    with World(rng) as world:
        world.endpoint.wait_for_requests(WARM_UP, 60)
        first, began = world.measure(), time.monotonic()
        said = began
        _say(f"seed {seed}; after {world.endpoint.count} polls: {first}")
        inflicted: Counter[str] = Counter()
        while time.monotonic() - began < seconds:
            assert world.process.poll() is None, f"the service ended:\n{world.log.text[-2000:]}"
            name = rng.choice(list(FAULTS))
            inflicted[name] += 1
            with FAULTS[name](world):
                time.sleep(rng.uniform(0.2, 2) * pause)
            time.sleep(rng.uniform(0.2, 2) * pause)
            if time.monotonic() - said > 60:
                said = time.monotonic()
                _say(f"{said - began:.0f} s, {inflicted.total()} faults, {world.endpoint.count} polls: {world.look()}")
        world.truth = FINAL
        with Watcher(world.mosquitto.port, (service.STATE, service.STATUS, service.HEALTH)) as watcher:
            watcher.wait_topic(service.STATUS, is_online, BACK_WITHIN)
            since = watcher.mark()
            watcher.wait_topic(service.STATE, lambda m: not m.retain and session_is(FINAL)(m), BACK_WITHIN, since=since)
            watcher.wait_topic(service.HEALTH, is_ok, BACK_WITHIN, since=since)
        last = world.measure()
        assert not world.elsewhere.requests, "a redirect was followed"
        assert "Traceback" not in world.log.text, world.log.text
        report = (
            f"seed {seed}: {inflicted.total()} faults of {len(inflicted)} kinds, {world.endpoint.count} polls, "
            f"{len(world.log.lines)} log lines; at first {first}; at last {last}"
        )
        assert last.memory - first.memory <= MEMORY_LIMIT, report
        assert (last.threads, last.descriptors) == (first.threads, first.descriptors), report
        return report


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Soak as the arguments say; the exit status is 1 if something is left."""
    if sys.argv[1:2] == ["--serve"]:
        port, url, folder, origin, start = sys.argv[2:]
        serve(int(port), url, Path(folder), float(origin), float(start))
        return 0
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    arguments = parser.parse_args()
    try:
        _say(soak(arguments.minutes * 60, arguments.seed))
    except AssertionError as error:
        _say(f"failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
