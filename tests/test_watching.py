"""Watching logins: whatever happens to one place, the others are still watched, and an account that waits is woken."""

import datetime as dt
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.clock import Clock, SystemClock
from claude_usage_mqtt.errors import NO_THREADS, CredentialsNotFound, CredentialsUnreadable
from claude_usage_mqtt.reporter.logins import ReportedLogin
from claude_usage_mqtt.service import workers
from claude_usage_mqtt.service.workers import MAX_THREADS, Workers
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.credentials import watch
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.credentials.watch import CachedReading, LoginChanged, LoginWatch, WatchedLogin
from claude_usage_mqtt.sources.source import Login, PolledSource, PollResult
from claude_usage_mqtt.usage.reading import OAUTH, Reading
from parts.broker import Broker
from parts.command import run_python
from parts.credentials import break_mount, write_credentials
from parts.endpoint import Connect, Endpoint
from parts.waiting import eventually

NOW = dt.datetime(2026, 11, 26, 12, 0, tzinfo=dt.UTC)


class Place:
    """A source whose login can change, break and hang."""

    name = OAUTH
    can_be_watched = True
    outlives_token = False
    place = "a place"

    def __init__(self, fingerprint: object = "a") -> None:
        self.now: Any = fingerprint
        self.released = threading.Event()
        self.is_hanging = threading.Event()
        self.reading: Reading | None = None
        self.hangs = False

    def login(self) -> Login:
        """Return a login, unless it is broken."""
        if self.now == "missing":
            raise CredentialsNotFound("no")
        return Login(mark=hash(self.now))

    def fingerprint(self) -> object:
        """Return or raise what the test wants, or hang."""
        if self.hangs:
            self.is_hanging.set()
            self.released.wait(30)
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    def cached(self, now: dt.datetime) -> Reading | None:  # noqa: ARG002
        """Return what is there without a request."""
        return self.reading

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:  # noqa: ARG002
        """Hang or return nothing."""
        self.fingerprint()
        return PollResult(account=account, source=self.name)


class Watching:
    """A watch over some places, what it reported, and what its owner knows."""

    def __init__(self, **places: PolledSource) -> None:
        self.reported: list[LoginChanged | CachedReading] = []
        self.known: dict[str, object] = dict.fromkeys(places)
        self.watch = LoginWatch(lambda: NOW, self._report, 0.01)
        self.watch.start(
            [WatchedLogin(name, place, lambda name=name: self.known[name]) for name, place in places.items()]
        )

    def _report(self, found: LoginChanged | CachedReading) -> None:
        if isinstance(found, LoginChanged):
            self.known[found.account] = found.fingerprint
        self.reported.append(found)

    def saw(self, account: str, fingerprint: object) -> bool:
        """Whether a change was reported."""
        return any(
            isinstance(found, LoginChanged) and (found.account, found.fingerprint) == (account, fingerprint)
            for found in self.reported
        )


@pytest.fixture
def watching() -> Iterator[Callable[..., Watching]]:
    """Return what starts a watch."""
    started: list[Watching] = []

    def start(**places: PolledSource) -> Watching:
        started.append(Watching(**places))
        return started[-1]

    yield start
    for found in started:
        found.watch.stop()


def test_a_login_is_noticed_from_the_start_and_whatever_a_look_raised(watching: Callable[..., Watching]) -> None:
    """A login that is unreadable, missing, and then there, is reported each time, without a poll."""
    place = Place(OSError("stale mount"))
    seen = watching(default=place)
    for fingerprint in ("missing", "new"):
        place.now = fingerprint
        eventually(lambda fingerprint=fingerprint: seen.saw("default", fingerprint))  # type: ignore[misc]
    logins = [found.login for found in seen.reported if isinstance(found, LoginChanged)]
    assert logins[0] is None
    assert logins[-1] == Login(mark=hash("new"))


@pytest.mark.skipif(os.name == "nt", reason="not everybody may make a symbolic link")
def test_a_mount_that_comes_back(watching: Callable[..., Watching], tmp_path: Path, connect: Connect) -> None:
    """While it is gone its login is reported as unreadable, and when it is back the login is noticed without a poll."""
    mount = tmp_path / "mount"
    break_mount(mount)
    source = ApiSource(CredentialsFile(mount), connect())
    result = source.poll("default", SystemClock(), may_retry=False)
    assert (type(result.error), result.requests) == (CredentialsUnreadable, 0)
    seen = watching(default=source)
    seen.known["default"] = "before it was gone"
    eventually(lambda: seen.saw("default", None))
    mount.unlink()
    write_credentials(mount)
    eventually(lambda: seen.saw("default", source.fingerprint()))
    logins = [found.login for found in seen.reported if isinstance(found, LoginChanged)]
    assert logins == [None, source.login()]


def test_numbers_that_are_there_are_reported_once(watching: Callable[..., Watching]) -> None:
    """The numbers that Claude Code keeps are reported at the start and whenever they are newer."""
    place = Place()
    place.reading = Reading(read_at=NOW, windows={})
    seen = watching(default=place)
    eventually(lambda: len(seen.reported) == 2)
    place.reading = Reading(read_at=NOW + dt.timedelta(minutes=1), windows={})
    eventually(lambda: len(seen.reported) == 3)
    found = [found.reading.read_at for found in seen.reported if isinstance(found, CachedReading)]
    assert found == [NOW, NOW + dt.timedelta(minutes=1)]


def test_one_place_that_hangs_does_not_stop_the_others(
    watching: Callable[..., Watching], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while another thread looks at the rest; when the place works again it is looked at too."""
    monkeypatch.setattr(watch, "HANGS_AFTER", 0.0)
    dead, alive = Place(), Place()
    dead.hangs = True
    seen = watching(dead=dead, alive=alive)
    assert dead.is_hanging.wait(20)
    seen.watch.replace_hanging()
    eventually(lambda: seen.saw("alive", "a"))
    alive.now = "b"
    eventually(lambda: seen.saw("alive", "b"))
    dead.hangs, dead.now = False, "back"
    dead.released.set()
    eventually(lambda: seen.saw("dead", "back"))
    dead.now = "again"
    eventually(lambda: seen.saw("dead", "again"))


def test_a_reporter_reads_a_login_again_that_could_not_be_read() -> None:
    """A file that was read while it was replaced is read again, even if it does not change once more."""

    class Stumbling(Place):
        stumbles = False

        def login(self) -> Login:
            if self.stumbles:
                raise RuntimeError("in the middle of it")
            return super().login()

    place = Stumbling("old")
    login = ReportedLogin("default", place)
    assert [found.login.login for found in login.look(NOW)] == [Login(mark=hash("old"))]
    place.now, place.stumbles = "new", True
    assert list(login.look(NOW)) == []
    place.stumbles = False
    assert [found.login.login for found in login.look(NOW)] == [Login(mark=hash("new"))]


class Accounts:
    """Polls for many accounts in a pool."""

    def __init__(self, *places: Place) -> None:
        self._reported: deque[Any] = deque()
        self._finished: set[str] = set()
        self.pool = Workers(SystemClock(), self._reported.append)
        for number, place in enumerate(places):
            self.poll(f"a{number}", place)

    def poll(self, name: str, place: Place) -> None:
        """Poll one account."""
        self.pool.poll(name, place, may_retry=True)

    def finished(self) -> set[str]:
        """Process the polls that have reported, as the loop does; return whose they were."""
        while self._reported:
            account = self._reported.popleft().account
            self.pool.finished(account)
            self._finished.add(account)
        return self._finished


def worker_threads() -> int:
    """Return how many threads of pools there are."""
    return sum(thread.name == "worker" for thread in threading.enumerate())


def test_polls_that_hang_do_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead mount stops its own account, not the pool; each such account is named once."""
    monkeypatch.setattr(workers, "WORKER_DEADLINE", 0.0)
    before, dead = worker_threads(), [Place() for _ in range(MAX_THREADS)]
    for place in dead:
        place.hangs = True
    accounts = Accounts(*dead)
    for place in dead:
        assert place.is_hanging.wait(20)
    accounts.poll("alive", Place())
    assert accounts.pool.hanging() == {f"a{number}" for number in range(MAX_THREADS)}
    eventually(lambda: "alive" in accounts.finished())
    assert accounts.pool.hanging() == set()
    for place in dead:
        place.released.set()
    eventually(lambda: len(accounts.finished()) == MAX_THREADS + 1)
    eventually(lambda: worker_threads() - before <= MAX_THREADS)
    accounts.pool.stop()
    eventually(lambda: worker_threads() == before)


def test_a_poll_waits_for_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    """If the system has no thread left for a while, the service goes on, logs why, and polls later."""
    accounts, usual = Accounts(), threading.stack_size(2**48)  # more than there is
    try:
        accounts.poll("a", Place())
        assert accounts.pool.hanging() == set()
    finally:
        threading.stack_size(usual)
    assert caplog.messages == [NO_THREADS]
    assert accounts.pool.hanging() == set()  # the loop's next turn
    eventually(lambda: accounts.finished() == {"a"})
    accounts.pool.stop()


def test_a_thread_that_dies_ends_the_program(running_broker: Broker, endpoint: Endpoint, tmp_path: Path) -> None:
    """Without one of its threads the service would be useless: it ends, and its supervisor restarts it."""
    code = """
from claude_usage_mqtt.sources.api.source import ApiSource
def poll(*_, **__):
    raise ArithmeticError("canary")
ApiSource.poll = poll
from claude_usage_mqtt.cli import main
raise SystemExit(main(["run"]))
"""
    settings = {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": running_broker.port, "CLAUDE_API_URL": endpoint.url}
    ended = run_python(tmp_path, "-c", code, **settings, CLAUDE_CONFIG_DIR=tmp_path, CLAUDE_SOURCE="oauth")
    assert ended.returncode == 1
    assert "internal error, please report it: ArithmeticError" in ended.stderr
    assert "canary" not in ended.stderr
