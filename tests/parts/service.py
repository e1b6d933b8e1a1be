"""The service itself: as its own process, run as a container runs it, or inside the test with another clock."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from claude_usage_mqtt.errors import ClaudeUsageError
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.reporter.loop import Reporter
from claude_usage_mqtt.service.loop import Service
from claude_usage_mqtt.service.options import AccountOptions, ServiceOptions
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.credentials.token import CredentialSource
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.reporter_exchange import ReporterExchange
from claude_usage_mqtt.sources.select import pushed_sources
from claude_usage_mqtt.topics import Topics
from claude_usage_mqtt.usage.account import Rules
from claude_usage_mqtt.usage.reading import OAUTH, REPORTER
from parts.command import QUICK_REPORTER, clean_environment, command_line
from parts.net import LOOPBACK
from parts.process import END_TIMEOUT, Log, LoggedProcess
from parts.watcher import Message

BASE: Final = "claude-usage"
STATE: Final = f"{BASE}/default/state"
HEALTH: Final = f"{BASE}/default/health"
MEMORY: Final = f"{BASE}/default/memory"
STATUS: Final = f"{BASE}/status"
CONFIG: Final = "homeassistant/device/claude_usage_default/config"
BIRTH: Final = "homeassistant/status"


def command(name: str, account: str = "default") -> str:
    """Return the topic of a command."""
    return f"{BASE}/{account}/command/{name}"


def has_status(status: str) -> Callable[[Message], bool]:
    """Return whether a health message has this status."""
    return lambda message: bool(message.payload) and message.json()["status"] == status


def is_ok(message: Message) -> bool:
    """Whether a health message says that all is well."""
    return has_status("ok")(message)


def is_online(message: Message) -> bool:
    """Whether a status message says that the service is there."""
    return message.payload == "online"


def session_is(percent: float | None) -> Callable[[Message], bool]:
    """Return whether a state message shows this for the session."""
    return lambda message: bool(message.payload) and _session(message).get("utilization") == percent


def _session(message: Message) -> dict[str, Any]:
    window: dict[str, Any] = message.json()["windows"].get("five_hour", {})
    return window


class ServiceProcess(LoggedProcess):
    """`run`, or another command, in its own process with its own home."""

    def __init__(self, home: Path, arguments: tuple[str, ...] = ("run",), **settings: object) -> None:
        home.mkdir(parents=True, exist_ok=True)
        is_reporter = arguments == ("report",)
        super().__init__(
            [sys.executable, "-W", "error", "-c", QUICK_REPORTER] if is_reporter else command_line(*arguments),
            env=clean_environment(home, {"MQTT_HOST": LOOPBACK, "CLAUDE_CONFIG_DIR": home, **settings}),
            cwd=home,
        )


class Clock:
    """A clock for the service that the test may set, put to sleep, and run fast."""

    def __init__(self, speed: float = 1.0, *, origin: float | None = None, start: dt.datetime | None = None) -> None:
        """Begin at `start` when the system's monotonic clock says `origin`: two processes can share a clock."""
        self._speed = speed
        self.start = start or dt.datetime.now(dt.UTC)
        self.origin = time.monotonic() if origin is None else origin
        self._slept = 0.0
        self._set_by = 0.0

    def now(self) -> dt.datetime:
        """Return the wall clock."""
        return self.start + dt.timedelta(seconds=self.steady() + self._set_by)

    def steady(self) -> float:
        """Return seconds that never step."""
        return (time.monotonic() - self.origin) * self._speed + self._slept

    def to_real(self, seconds: float) -> float:
        """Return real seconds."""
        return seconds / self._speed

    def sleep(self, span: dt.timedelta) -> None:
        """Make it seem that the host has slept, or that time has passed."""
        self._slept += span.total_seconds()

    def set(self, step: dt.timedelta) -> None:
        """Set the wall clock alone."""
        self._set_by += step.total_seconds()


class Impatient(random.Random):
    """Chance that always returns the least."""

    def uniform(self, a: float, _: float) -> float:
        """Return the lower bound."""
        return a


class _LogHandler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.DEBUG)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.add(f"{record.levelname} {record.getMessage()}")


@contextlib.contextmanager
def listen_to_log(log: Log, level: int = logging.INFO) -> Iterator[Log]:
    """Collect what the package logs inside this process."""
    logger = logging.getLogger("claude_usage_mqtt")
    handler, before = _LogHandler(log), logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield log
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class Running:
    """A service or a reporter in a thread; `error` is what ended it, if it did not end by `stop`."""

    def __init__(self, program: Service | Reporter, clock: Any, log: Log) -> None:
        self.program = program
        self.clock = clock
        self.log = log
        self.error: ClaudeUsageError | None = None
        self.thread = threading.Thread(target=self._run, name="program")

    def _run(self) -> None:
        try:
            self.program.run()
        except ClaudeUsageError as error:
            self.error = error

    def stop(self) -> None:
        """Stop it."""
        self.program.stop()
        self.thread.join(END_TIMEOUT)
        assert not self.thread.is_alive(), f"the {type(self.program).__name__} does not end"


@contextlib.contextmanager
def in_a_thread(program: Service | Reporter, clock: Any, log_kept: int = 20_000) -> Iterator[Running]:
    """Run a program inside this process."""
    with listen_to_log(Log(log_kept)) as log:
        running = Running(program, clock, log)
        running.thread.start()
        try:
            yield running
        finally:
            running.stop()


Start = Callable[..., ServiceProcess]
"""Starts `run` with a test's broker and endpoint: in its home, or in another folder, with more settings."""

Serve = Callable[..., contextlib.AbstractContextManager[Running]]
"""Runs a service inside the test with its broker and endpoint: with its login or another one, and other options."""


@contextlib.contextmanager
def running_service(
    port: int,
    api_url: str,
    credentials: Path | Mapping[str, CredentialSource],
    *,
    clock: Any = None,
    interval: float = 300.0,
    limited: bool = False,
    deadline: float = 5.0,
    stale_after: float = 3600.0,
    selected: tuple[str, ...] = (OAUTH,),
    discovery: bool = True,
    log_kept: int = 20_000,
    instance: str = "",
    base: str = BASE,
    rng: random.Random | None = None,
    **broker: Any,
) -> Iterator[Running]:
    """Run a service inside this process; `credentials` is the folder of one account, or a source for each."""
    sources = credentials if isinstance(credentials, Mapping) else {"default": CredentialsFile(credentials)}
    clock = clock or Clock()
    api = UsageApi(api_url, "tests", deadline)
    options = BrokerOptions(host=broker.pop("host", LOOPBACK), port=port, **broker)
    reporters = ReporterExchange(base, sources if REPORTER in selected else ())
    accounts = tuple(
        AccountOptions(
            topics=Topics(base=base, account=name),
            label=None if name == "default" else name,
            interval=dt.timedelta(seconds=interval),
            limited=limited,
            rules=Rules(dt.timedelta(seconds=stale_after), (75.0, 90.0), (75.0, 90.0)),
            discovery=discovery,
            instance=instance,
            source=in_order([*([ApiSource(source, api)] if OAUTH in selected else []), *reporters.sources(name)]),
            pushed=pushed_sources(selected),
        )
        for name, source in sources.items()
    )
    settings = ServiceOptions(
        broker=options,
        status_topic=BIRTH,
        accounts=accounts,
        reporters=reporters,
    )
    with contextlib.closing(api), in_a_thread(Service(settings, clock, rng), clock, log_kept) as running:
        yield running
