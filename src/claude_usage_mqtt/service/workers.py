"""The threads of the service: a pool that polls, and one that watches the logins. They only report.

A service with 200 accounts has at most 16 threads: these, two of the connection to the broker, the loop's, and one for
each request under way. A thread that dies of an unexpected error ends the program (`cli/until.py`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
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
from claude_usage_mqtt.sources.source import PollResult, Source
from claude_usage_mqtt.usage.reading import REPORTER

WORKER_DEADLINE = 60.0
"""Real seconds after which a poll counts as hanging: a request is cut at 20, a file on a dead mount is not."""

MAX_THREADS = 5
"""Polls at the same time; each takes a second, and 200 accounts have five minutes for theirs."""

MAX_HANGING = 10
"""Polls that hang, beyond the pool: each keeps its thread, and another one takes its place."""


class Workers:
    """Starts threads that report to `put` until they are stopped."""

    def __init__(self, clock: Clock, put: Callable[[PollResult | LoginChanged | CachedReading], None]) -> None:
        self._clock = clock
        self._put = put
        self._jobs: queue.Queue[tuple[str, Source, bool] | None] = queue.Queue()  # None ends a thread
        self._busy_since: dict[str, float] = {}  # accounts whose poll is under way, the oldest first
        self._hanging: set[str] = set()
        self._threads = 0
        self._unfinished = 0
        self._lock = threading.Lock()
        self._logins: LoginWatch[LoginChanged | CachedReading] = LoginWatch(clock.now, put, clock.to_real(CHECK_EVERY))

    def stop(self) -> None:
        """Let the threads end; none is waited for."""
        self._logins.stop()
        with self._lock:
            for _ in range(self._threads):
                self._jobs.put(None)

    def poll(self, account: str, source: Source, *, may_retry: bool) -> None:
        """Poll an account's source, as soon as a thread of the pool is free."""
        with self._lock:
            self._unfinished += 1
            self._jobs.put((account, source, may_retry))
            self._grow()

    def _grow(self) -> None:
        """Start a thread if there is work for one more, and room: what hangs does not count."""
        if self._threads < min(self._unfinished, MAX_THREADS + min(len(self._hanging), MAX_HANGING)):
            self._threads += 1
            threading.Thread(target=self._work, name="worker", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            name, source, may_retry = job
            with self._lock:
                self._busy_since[name] = time.monotonic()
            result = source.poll(name, self._clock, may_retry=may_retry)
            with self._lock:
                self._unfinished -= 1
                self._busy_since.pop(name, None)
                self._hanging.discard(name)
                is_replaced = self._threads > MAX_THREADS + len(self._hanging)  # it hung, and its place is taken
                self._threads -= is_replaced
            self._put(result)
            if is_replaced:
                return

    def hanging(self) -> list[str]:
        """Return the accounts whose poll hangs, each once; what waits behind them gets other threads."""
        self._logins.replace_hanging()
        now = time.monotonic()
        with self._lock:
            found = [account for account, since in self._busy_since.items() if now - since > WORKER_DEADLINE]
            for account in found:
                del self._busy_since[account]
                self._hanging.add(account)
                self._grow()
        return found

    def watch_logins(self, accounts: Iterable[tuple[AccountState, Source | None]]) -> None:
        """Watch the logins that are on this machine: other machines announce one that changed."""
        self._logins.start(
            [
                WatchedLogin(state.name, source, partial(getattr, state.login, "fingerprint"))
                for state, source in accounts
                if source is not None and source.name != REPORTER
            ]
        )
