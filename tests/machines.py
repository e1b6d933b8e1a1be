"""Three machines and a service without a login, for simulated days; `python -m machines --help`.

    cd tests && python -m machines --days 3 --seed 1

Each machine is a process with a reporter behind a network that can be cut, on a clock that all of them share and that
runs many times as fast. A laptop and a desktop have the account's login; somebody else is logged in on the third, under
the same account name. Machines sleep and wake up, tokens expire and are renewed, broker and service restart, and a
stranger publishes anything on all topics of the reporters. `verdict` says what must not have happened.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import datetime as dt
import json
import logging
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.reporter import announcement, loop, publishing
from claude_usage_mqtt.sources import reporter as source
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.usage.reading import REPORTER
from parts import reporter, service
from parts.broker import Mosquitto
from parts.command import clean_environment
from parts.credentials import write_credentials
from parts.documents import sample_usage
from parts.endpoint import Endpoint, Request
from parts.process import LoggedProcess
from parts.proxy import FaultyProxy
from parts.service import HEALTH, STATE, has_status
from parts.watcher import Message, Watcher

SPEED: Final = 1800.0
INTERVAL: Final = 300.0
SESSION: Final = dt.timedelta(hours=5)
RISE: Final = 60.0
"""Percent at the end of each session: no threshold is reached."""

HOUR: Final = 3600.0
MOST_REQUESTS: Final = 20

OF_ANOTHER: Final = 99.0
"""Percent of the account of somebody else, and in what a stranger makes up."""

OURS: Final = "6a3c1f0e"
ANOTHER: Final = "77777777"
"""How the ids of two organizations begin."""

TOKENS: Final = {name: f"sk-ant-oat01-canary-{name}" for name in ("laptop", "desktop", "stranger")}
CACHED_FOR: Final = {"laptop": 0.0, "desktop": 200.0, "stranger": 0.0}
"""Seconds for which a machine's source repeats its last answer: its numbers are older than the other's."""


def be_quick() -> None:
    """Shorten what is waited for in real seconds: a second is half an hour here."""
    publishing.NAME_CHECK, loop.IGNORE_FOR, announcement.REASSERT_AFTER = 0.2, 0.05, 0.5
    source.ANSWER_WITHIN, source.FIRST_WITHIN = 1.0, 0.5


# In the process of a machine


class Cached(ApiSource):
    """The API behind a source that repeats its last answer for a while, like Claude Code itself."""

    def __init__(self, credentials: CredentialsFile, api: UsageApi, seconds: float) -> None:
        super().__init__(credentials, api)
        self._span = dt.timedelta(seconds=seconds)
        self._last: PollResult | None = None

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        """Ask, or repeat the last answer, with the time at which it was read."""
        last = self._last
        if last is None or last.reading is None or clock.now() - last.reading.read_at > self._span:
            self._last = last = super().poll(account, clock, may_retry=may_retry)
        return last


def serve(machine: str, port: int, api_url: str, folder: Path, origin: float, start: float) -> None:
    """Run a reporter until SIGTERM."""
    be_quick()
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
    clock = service.Clock(SPEED, origin=origin, start=dt.datetime.fromtimestamp(start, dt.UTC))
    api = UsageApi(api_url, "tests", 5.0)
    sources = {"default": Cached(CredentialsFile(folder), api, CACHED_FOR[machine])}
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with reporter.running_reporter(
        port, api_url, folder, machine=machine, clock=clock, limited=True, sources=sources, keepalive=5
    ):
        ended.wait()


# Around them


class Machine:
    """One of the machines; a context manager."""

    def __init__(self, world: World, name: str, organization: str) -> None:
        self.name = name
        self.is_awake = True
        self._world = world
        self._organization = organization
        self._folder = world.folder / name
        self._stack = contextlib.ExitStack()
        self.renew()

    def __enter__(self) -> Self:
        world = self._world
        self._proxy = self._stack.enter_context(FaultyProxy(world.mosquitto.port))
        clock = world.clock
        arguments = [self._proxy.port, world.endpoint.url, self._folder, clock.origin, clock.start.timestamp()]
        command = [sys.executable, "-W", "error", __file__, "--serve", self.name, *arguments]
        environment = clean_environment(self._folder, {"PYTHONPATH": Path(__file__).parent})
        self._process = self._stack.enter_context(LoggedProcess(command, env=environment)).process
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sleep(self) -> None:
        """Close the lid: everything stops, and the broker soon notices."""
        self.is_awake = False
        self._process.send_signal(signal.SIGSTOP)
        self._proxy.refuse()

    def wake(self) -> None:
        """Open the lid."""
        self._proxy.heal()
        self._process.send_signal(signal.SIGCONT)
        self.is_awake = True

    def expire(self) -> None:
        """Let the token have expired while Claude Code is not used."""
        self._write(dt.timedelta(hours=-1))

    def renew(self) -> None:
        """Let Claude Code renew the token."""
        self._write(dt.timedelta(days=300))

    def _write(self, expires_in: dt.timedelta) -> None:
        now = self._world.clock.now()
        write_credentials(self._folder, TOKENS[self.name], expires_in, now, self._organization)


@dataclass(frozen=True)
class Served:
    """An answer of the API: to whom, when in simulated seconds, and the session's percent."""

    token: str
    at: float
    percent: float


class World:
    """Everything; a context manager. The service can be restarted, the machines are there from the start."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        # The first session ends an hour and a half after the start.
        self.clock = service.Clock(SPEED, start=dt.datetime(2026, 11, 20, 8, 0, tzinfo=dt.UTC))
        self.first_reset = self.clock.start + dt.timedelta(hours=1.5)
        self.week_ends = self.clock.start + dt.timedelta(days=6)
        self.served: list[Served] = []
        self._stack = contextlib.ExitStack()
        self._service = contextlib.ExitStack()

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        self.folder = Path(enter(tempfile.TemporaryDirectory(prefix="machines-")))
        self.mosquitto = enter(Mosquitto(persistence=False))
        self.endpoint = enter(Endpoint(self._answer))
        self.watcher = enter(Watcher(self.mosquitto.port))
        enter(self._service)
        self.machines = {
            name: enter(Machine(self, name, organization))
            for name, organization in (("laptop", OURS), ("desktop", OURS))
        }
        self.start_service()
        self.wait_for_numbers()  # from now on the owner of the numbers is known
        self.machines["stranger"] = enter(Machine(self, "stranger", ANOTHER))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_service(self) -> None:
        """Start the service."""
        self.running = self._service.enter_context(
            service.running_service(
                self.mosquitto.port,
                "http://127.0.0.1:1",
                self.folder / "nothing",
                clock=self.clock,
                interval=INTERVAL,
                limited=True,
                selected=(REPORTER,),
                keepalive=5,
            )
        )

    def restart_service(self) -> None:
        """Restart the service; its only memory is on the broker."""
        self._service.close()
        self.start_service()

    def restart_broker(self) -> None:
        """Restart the broker, which forgets everything."""
        self.mosquitto.restart(wipe=True)
        self.watcher.wait_connected()

    # The truth

    def session(self, now: dt.datetime) -> tuple[float, dt.datetime]:
        """Return what is used of the session, and its reset."""
        reset = self.first_reset + max(0, -((self.first_reset - now) // SESSION)) * SESSION
        return round(RISE * (1 - (reset - now) / SESSION), 2), reset

    def _answer(self, request: Request) -> dict[str, Any]:
        now = self.clock.now()
        percent, reset = self.session(now)
        if request.bearer == TOKENS["stranger"]:
            percent = OF_ANOTHER
        self.served.append(Served(request.bearer or "", self.clock.steady(), percent))
        return sample_usage(five_hour=percent, resets_at=reset, seven_day=20.0, seven_day_resets_at=self.week_ends)

    # What happens

    def wait_for_numbers(self, machine: str | None = None) -> None:
        """Wait until numbers are published that were read from now on, by this machine."""
        now = self.clock.now()

        def is_new(message: Message) -> bool:
            window = message.json()["windows"]["five_hour"]
            return dt.datetime.fromisoformat(window["read_at"]) >= now and machine in (None, window["machine"])

        self.watcher.wait_topic(STATE, is_new, since=self.watcher.mark())

    def pester(self, count: int) -> None:
        """Let a stranger publish anything on all topics of the reporters."""
        for _ in range(count):
            machine = self.rng.choice([*self.machines, "ghost", "a b", "x" * 80])
            topic = f"{service.BASE}/reporter/{machine}{self.rng.choice(['', '/ask', '/answer', '/ask/x'])}"
            self.watcher.publish(topic, self._nonsense(), retain=self.rng.random() < 0.3)
        self.watcher.publish(f"{service.BASE}/reporter/ghost", "", retain=True)

    def storm(self, count: int) -> None:
        """Let a stranger ask for readings as fast as he can."""
        for _ in range(count):
            topic = f"{service.BASE}/reporter/{self.rng.choice(list(self.machines))}/ask"
            self.watcher.publish(topic, json.dumps({"id": uuid.uuid4().hex, "account": "default"}))

    def _nonsense(self) -> str | bytes:
        window = {"label": "Session", "utilization": OF_ANOTHER, "resets_at": "2026-11-20T23:00:00+00:00"}
        login = {"source": "oauth", "status": "ok", "organization": "0123456789abcdef"}
        message: dict[str, Any] = self.rng.choice(
            [
                {"id": uuid.uuid4().hex, "account": "default"},
                {"id": "again", "account": "default"},
                {"id": uuid.uuid4().hex, "account": "default", "requests": 2, "error": {"status": "rate_limited"}},
                {"id": uuid.uuid4().hex, "reading": {"age": 0, "windows": {"five_hour": window}}},
                {"online": True, "accounts": {"default": login}},
                {"online": False},
                {"online": [], "accounts": 7, "id": {}},
            ]
        )
        return self.rng.choice([json.dumps(message), json.dumps(message)[:-5], b"\xff\x00", "[" * 5000])


def story(world: World) -> None:
    """Let everything important happen once, in one short night."""
    machines = world.machines
    world.wait_for_numbers()
    world.pester(30)
    machines["laptop"].sleep()
    world.wait_for_numbers("desktop")
    machines["desktop"].expire()
    world.watcher.wait_topic(HEALTH, has_status("no_reporter"))
    machines["laptop"].wake()
    world.wait_for_numbers("laptop")
    machines["desktop"].renew()
    world.restart_service()
    world.wait_for_numbers()
    world.storm(100)
    world.restart_broker()
    world.wait_for_numbers()
    world.watcher.wait_topic("+/+/event/five_hour")
    world.wait_for_numbers()


def days(world: World, count: float) -> None:
    """Let some days pass in which anything may happen at any time."""
    machines = list(world.machines.values())
    actions: list[Callable[[], None]] = [
        lambda: world.pester(20),
        lambda: world.storm(200),
        world.restart_service,
        world.restart_broker,
    ]
    for machine in machines:
        actions += [machine.expire, machine.renew] + [machine.sleep, machine.wake] * 2
    ends = world.clock.start + dt.timedelta(days=count)
    while world.clock.now() < ends:
        world.rng.choice(actions)()
        time.sleep(world.rng.uniform(0.1, 3.0))
    for machine in machines:
        machine.wake()
        machine.renew()
    world.wait_for_numbers()


def verdict(world: World) -> str:
    """Return what happened in one line; raises AssertionError if anything happened that must not."""
    messages = world.watcher.messages()
    secrets = [each for each in messages if "sk-ant" in each.payload or str(world.folder) in each.payload]
    assert not secrets, secrets[:3]

    def most_in_an_hour(tokens: set[str]) -> int:
        at = sorted(each.at for each in world.served if each.token in tokens)
        return max((bisect.bisect_left(at, moment + HOUR) - number for number, moment in enumerate(at)), default=0)

    most = most_in_an_hour({TOKENS["laptop"], TOKENS["desktop"]})
    assert most <= MOST_REQUESTS, f"{most} requests in one hour"
    assert most_in_an_hour({TOKENS["stranger"]}) <= MOST_REQUESTS

    honest = {each.percent for each in world.served if each.token != TOKENS["stranger"]}
    newest = ("", 0.0)
    for message in messages:
        if message.topic != STATE or not message.payload:
            continue
        window = message.json()["windows"]["five_hour"]
        if window["utilization"] is None:
            continue
        assert window["utilization"] in honest | {0.0}, message
        shown = window["resets_at"] or "", window["utilization"]
        assert shown >= newest or not window["resets_at"], f"{shown} after {newest}"
        newest = max(newest, shown)

    by_id = {each.json()["id"]: each.json() for each in messages if "/event/" in each.topic and each.payload}
    events = Counter((each["event_type"], each.get("window"), each.get("resets_at")) for each in by_id.values())
    assert all(by_id)
    assert set(events.values()) <= {1}, events
    return f"{len(world.served)} requests, at most {most} in an hour, {len(messages)} messages, {len(events)} events"


def run(seed: int, act: Callable[[World], None]) -> str:
    """Run a world and return the verdict."""
    be_quick()
    with World(random.Random(seed)) as world:
        act(world)
        return verdict(world)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        machine, port, url, folder, origin, start = options.serve
        serve(machine, int(port), url, Path(folder), float(origin), float(start))
    else:
        sys.stdout.write(run(options.seed, lambda world: days(world, options.days)) + "\n")


if __name__ == "__main__":
    main()
