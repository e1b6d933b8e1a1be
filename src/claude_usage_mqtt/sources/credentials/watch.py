"""Notices logins that change between polls, and numbers that somebody else asked for. Only reports.

One thread looks at all accounts in turn. A look that hangs, on a dead mount for example, keeps its thread: another one
then takes over for the other accounts, and the account that hangs is looked at again once that look has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from claude_usage_mqtt.errors import CredentialsError
from claude_usage_mqtt.sources.source import Login, Source
from claude_usage_mqtt.usage.reading import Reading

log = logging.getLogger(__name__)

CHECK_EVERY = 30.0
"""Seconds between the looks at one account."""

HANGS_AFTER = 20.0
"""Real seconds after which a look counts as hanging; the Keychain is given up after 10."""

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


@dataclass(slots=True)
class WatchedLogin:
    """One account that is looked at; `known` returns the fingerprint of the login that its owner knows."""

    account: str
    source: Source
    known: Callable[[], object]
    is_hanging: bool = False
    last_failure: str | None = None
    last_read_at: datetime | None = None

    def look(self, now: datetime) -> Iterator[LoginChanged | CachedReading]:
        """Yield what is new. Whatever a look raises, there is a next one: nothing else may wake a waiting account."""
        try:
            fingerprint = self.source.fingerprint()
            if fingerprint != self.known():
                yield LoginChanged(account=self.account, fingerprint=fingerprint, login=self._login())
            reading = self.source.cached(now)
            if reading is not None and reading.read_at != self.last_read_at:
                self.last_read_at = reading.read_at
                yield CachedReading(account=self.account, reading=reading)
            self.last_failure = None
        except Exception as error:  # noqa: BLE001 - the text of an unknown error could hold outside data
            if type(error).__name__ != self.last_failure:
                self.last_failure = type(error).__name__
                log.warning(
                    "Account %s: the login cannot be checked (%s); trying again.", self.account, self.last_failure
                )

    def _login(self) -> Login | None:
        try:
            return self.source.login()
        except CredentialsError:
            return None


class LoginWatch:
    """Looks at logins every so many real seconds until it is stopped."""

    def __init__(
        self, now: Callable[[], datetime], report: Callable[[LoginChanged | CachedReading], None], every: float
    ) -> None:
        self._now = now
        self._report = report
        self._every = every
        self._logins: list[WatchedLogin] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._looking: tuple[WatchedLogin, float] | None = None
        self._turn = 0  # of the thread that looks; one that was given up finds a later one

    def start(self, logins: list[WatchedLogin]) -> None:
        """Begin to look, at once and then again and again."""
        self._logins = logins
        if logins:
            self._take_over()

    def stop(self) -> None:
        """Let the thread end; it is not waited for."""
        self._stopping.set()

    def replace_hanging(self) -> None:
        """Start another thread if the one that looks hangs; called now and then."""
        with self._lock:
            if self._looking is None or time.monotonic() - self._looking[1] < HANGS_AFTER:
                return
            if sum(login.is_hanging for login in self._logins) >= MAX_HANGING:
                return
            login, self._looking = self._looking[0], None
            login.is_hanging = True
        log.warning("Account %s: the login cannot be checked: reading it hangs.", login.account)
        self._take_over()

    def _take_over(self) -> None:
        self._turn += 1
        threading.Thread(target=self._run, args=(self._turn,), name="login-watch", daemon=True).start()

    def _run(self, turn: int) -> None:
        while True:
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
            if self._stopping.wait(self._every):
                return
