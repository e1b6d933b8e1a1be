"""The threads of the service: a pool that polls, and one that watches the logins. They only report.

A service with 200 accounts has at most 16 threads: these, two of the connection to the broker, the loop's, and one for
each request under way. A thread that dies of an unexpected error ends the program (`cli/until.py`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.sources.credentials.watch import (
    CHECK_EVERY,
    CachedReading,
    LoginChanged,
    LoginWatch,
    WatchedLogin,
)
from claude_usage_mqtt.sources.source import PolledSource, PollResult

WORKER_DEADLINE = 60.0
"""Real seconds after which a poll counts as hanging: a request is cut at 20, a file on a dead mount is not."""

MAX_THREADS = 5
"""Polls at the same time; each takes a second, and 200 accounts have five minutes for theirs."""

MAX_HANGING = 10
"""Polls that hang, beyond the pool: each keeps its thread, and another one takes its place."""


@dataclass(slots=True, eq=False)
class Poll:
    """A poll that has not ended; `began` is when a thread took it."""

    account: str
    source: PolledSource
    may_retry: bool
    began: float | None = None
    hangs: bool = False


class Workers:
    """Starts threads that report to `put` until they are stopped."""

    def __init__(self, clock: Clock, put: Callable[[PollResult | LoginChanged | CachedReading], None]) -> None:
        self._clock = clock
        self._put = put
        self._queue: queue.Queue[Poll | None] = queue.Queue()  # None ends a thread
        self._polls: list[Poll] = []
        self._threads = 0
        self._lock = threading.Lock()
        self._logins: LoginWatch[LoginChanged | CachedReading] = LoginWatch(clock.now, put, clock.to_real(CHECK_EVERY))

    def stop(self) -> None:
        """Let the threads end; none is waited for."""
        self._logins.stop()
        with self._lock:
            for _ in range(self._threads):
                self._queue.put(None)

    def poll(self, account: str, source: PolledSource, *, may_retry: bool) -> None:
        """Poll an account's source, as soon as a thread of the pool is free."""
        poll = Poll(account, source, may_retry)
        with self._lock:
            self._polls.append(poll)
            self._grow()
        self._queue.put(poll)

    def _room(self) -> int:
        """Return how many threads there may be: those whose poll hangs do not count."""
        return MAX_THREADS + min(sum(poll.hangs for poll in self._polls), MAX_HANGING)

    def _grow(self) -> None:
        """Start a thread if there is work for one more, and room."""
        if self._threads < min(len(self._polls), self._room()):
            self._threads += 1
            threading.Thread(target=self._work, name="worker", daemon=True).start()

    def _work(self) -> None:
        while (poll := self._queue.get()) is not None:
            poll.began = time.monotonic()
            result = poll.source.poll(poll.account, self._clock, may_retry=poll.may_retry)
            with self._lock:
                self._polls.remove(poll)
                is_replaced = self._threads > self._room()  # it hung, and its place is taken
                self._threads -= is_replaced
            self._put(result)
            if is_replaced:
                return

    def hanging(self) -> list[str]:
        """Return the accounts whose poll hangs, each once; what waits behind them gets other threads."""
        self._logins.replace_hanging()
        now = time.monotonic()
        with self._lock:
            found = [poll for poll in self._polls if not poll.hangs and now - (poll.began or now) > WORKER_DEADLINE]
            for poll in found:
                poll.hangs = True
                self._grow()
        return [poll.account for poll in found]

    def watch_logins(self, accounts: Iterable[tuple[AccountState, PolledSource | None]]) -> None:
        """Watch the logins that are on this machine: other machines announce one that changed."""
        self._logins.start(
            [
                WatchedLogin(state.name, source, partial(getattr, state.health.login, "fingerprint"))
                for state, source in accounts
                if source is not None and source.is_local
            ]
        )
