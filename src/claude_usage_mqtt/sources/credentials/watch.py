"""Looks at logins, in places that may hang, such as a dead network mount or a pipe. It only reports.

While a service or a reporter runs, one thread looks at all accounts in turn, for logins that change between polls and
numbers that somebody else asked for. A look that hangs keeps its thread: another one then takes over for the other
accounts, and the account that hangs is looked at again once that look has ended.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from claude_usage_mqtt.errors import CredentialsUnreadable
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.sources.credentials.token import CredentialSource
from claude_usage_mqtt.sources.source import Login, PolledSource, usable_login
from claude_usage_mqtt.usage.reading import Reading

log = logging.getLogger(__name__)

CHECK_EVERY = 30.0
"""Seconds between the looks at one account."""

HANGS_AFTER = 20.0
"""Real seconds after which a look counts as hanging; the Keychain is given up after 10."""

PATIENCE = 15.0
"""Seconds that a command waits; the Keychain is given up after 10."""

MAX_HANGING = 8
"""Looks that hang at the same time; with more, nothing else is looked at until one of them ends."""


class LoginChanged(NamedTuple):
    """What an account's login is now, None if it cannot be used; no request was made."""

    account: str
    fingerprint: object
    login: Login | None


class CachedReading(NamedTuple):
    """Numbers of an account that were there without a request, with their own time."""

    account: str
    reading: Reading


Found = TypeVar("Found")


class Watched(ABC, Generic[Found]):
    """One account that is looked at."""

    def __init__(self, account: str, source: PolledSource) -> None:
        self.account = account
        self.source = source
        self.is_hanging = False
        self.outage = Outage(log)

    def look(self, now: datetime) -> Iterator[Found]:
        """Yield what is new. Whatever a look raises, there is another: nothing else may wake a waiting account."""
        try:
            yield from self._changes(now)
            self.outage.up(f"Account {self.account}: the login can be checked again.")
        except Exception as error:  # noqa: BLE001 - the text of an unknown error could hold outside data
            kind = type(error).__name__
            self.outage.down(kind, f"Account {self.account}: the login cannot be checked ({kind}); trying again.")

    @abstractmethod
    def _changes(self, now: datetime) -> Iterator[Found]:
        """Yield what is new; may raise anything, and may hang."""


class WatchedLogin(Watched[LoginChanged | CachedReading]):
    """A login as the service watches it; `known` returns the fingerprint of the login that its owner knows."""

    def __init__(self, account: str, source: PolledSource, known: Callable[[], object]) -> None:
        super().__init__(account, source)
        self._known = known
        self._last_read_at: datetime | None = None

    def _changes(self, now: datetime) -> Iterator[LoginChanged | CachedReading]:
        fingerprint = self.source.fingerprint()
        if fingerprint != self._known():
            yield LoginChanged(account=self.account, fingerprint=fingerprint, login=usable_login(self.source))
        reading = self.source.cached(now)
        if reading is not None and reading.read_at != self._last_read_at:
            self._last_read_at = reading.read_at
            yield CachedReading(account=self.account, reading=reading)


class LoginWatch(Generic[Found]):
    """Looks at logins at regular intervals, in real seconds, until it is stopped."""

    def __init__(self, now: Callable[[], datetime], report: Callable[[Found], None], every: float) -> None:
        self._now = now
        self._report = report
        self._every = every
        self._logins: Sequence[Watched[Found]] = ()  # empty once it is stopped
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._looking: tuple[Watched[Found], float] | None = None
        self._turn = 0  # of the thread that looks; a thread that was given up finds a later one

    def start(self, logins: Sequence[Watched[Found]]) -> None:
        """Begin to look, at once and then repeatedly."""
        self._logins = logins
        if logins:
            self._take_over()

    def stop(self) -> None:
        """Let the thread end; it is not waited for."""
        self._logins = ()
        self._wake.set()

    def look_now(self) -> None:
        """Begin the next round at once."""
        self._wake.set()

    def replace_hanging(self) -> str | None:
        """Start another thread if the one that looks hangs, and return that login's account; called now and then."""
        with self._lock:
            if self._looking is None or time.monotonic() - self._looking[1] < HANGS_AFTER:
                return None
            if sum(login.is_hanging for login in self._logins) >= MAX_HANGING:
                return None
            login, self._looking = self._looking[0], None
            login.is_hanging = True
            self._take_over()
        login.outage.down("hangs", f"Account {login.account}: the login cannot be checked: reading it hangs.")
        return login.account

    def _take_over(self) -> None:
        self._turn += 1
        threading.Thread(target=self._run, args=(self._turn,), name="login-watch", daemon=True).start()

    def _run(self, turn: int) -> None:
        while self._logins:
            for login in self._logins:
                if login.is_hanging:
                    continue
                with self._lock:
                    self._looking = login, time.monotonic()
                for found in login.look(self._now()):
                    self._report(found)
                with self._lock:
                    if turn != self._turn:
                        login.is_hanging = False  # it was given up, and looks work again
                        return
                    self._looking = None
            self._wake.wait(self._every)
            self._wake.clear()


def require_answer(login: PolledSource | CredentialSource, read: Callable[[], object]) -> None:
    """Try to read a login in advance; raises CredentialsUnreadable if that hangs.

    What hangs stays in a thread that ends with the program; even asking whether a login can be watched may hang. Only a
    login that can be watched is read: a pipe can be read only once.
    """
    has_ended = threading.Event()

    def look() -> None:
        with contextlib.suppress(Exception):
            if login.can_be_watched:
                read()
        has_ended.set()

    threading.Thread(target=look, name="login-look", daemon=True).start()
    if not has_ended.wait(PATIENCE):
        raise hangs(login.place)


def hangs(place: str) -> CredentialsUnreadable:
    """Return the error of a place that does not answer."""
    return CredentialsUnreadable(f"{place} cannot be read: reading it hangs.")
