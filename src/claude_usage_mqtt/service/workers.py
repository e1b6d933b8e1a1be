"""The threads of the service: those that poll, and one that watches the logins. They only report.

A service with 200 accounts has at most 16 threads: these, two of the connection to the broker, the loop's, and one for
each request under way. A thread that ends with an unexpected error ends the program (`cli/until.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import NO_THREADS
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.sources.credentials.watch import (
    CHECK_EVERY,
    CachedReading,
    LoginChanged,
    LoginWatch,
    WatchedLogin,
)
from claude_usage_mqtt.sources.source import PolledSource, PollResult

log = logging.getLogger(__name__)

WORKER_DEADLINE = 60.0
"""Real seconds after which a poll counts as hanging: a request is cut off at 20, a file on a dead mount is not."""

MAX_THREADS = 5
"""Polls at the same time; each takes a second, and 200 accounts have five minutes for theirs."""

MAX_HANGING = 10
"""Hanging polls, in addition to those: each keeps its thread, and another one takes its place."""


class Workers:
    """Starts threads that report to `put` until they are stopped; its methods are for the loop's thread."""

    def __init__(self, clock: Clock, put: Callable[[PollResult | LoginChanged | CachedReading], None]) -> None:
        self._clock = clock
        self._put = put
        self._waiting: deque[tuple[str, Callable[[], PollResult]]] = deque()
        self._began: dict[str, float] = {}  # when the poll of an account began
        self._hanging: set[str] = set()
        self._outage = Outage(log)
        self._logins: LoginWatch[LoginChanged | CachedReading] = LoginWatch(clock.now, put, clock.to_real(CHECK_EVERY))

    def stop(self) -> None:
        """Begin nothing more; no thread is waited for."""
        self._logins.stop()
        self._waiting.clear()

    def poll(self, account: str, source: PolledSource, *, may_retry: bool) -> None:
        """Poll an account's source, as soon as there is room for another thread; `finished` must follow."""
        self._waiting.append((account, partial(source.poll, account, self._clock, may_retry=may_retry)))
        self._begin()

    def _begin(self) -> None:
        room = MAX_THREADS + min(len(self._hanging), MAX_HANGING)
        while self._waiting and len(self._began) < room:
            account, poll = self._waiting[0]
            try:
                threading.Thread(target=self._work, args=(poll,), name="worker", daemon=True).start()
            except RuntimeError:  # this passes if something else took too many: the loop's next turn tries again
                self._outage.down("threads", NO_THREADS)
                return
            self._outage.up("Threads can be started again.")
            self._waiting.popleft()
            self._began[account] = time.monotonic()

    def _work(self, poll: Callable[[], PollResult]) -> None:
        self._put(poll())

    def finished(self, account: str) -> None:
        """Note that a poll has reported."""
        del self._began[account]
        self._hanging.discard(account)
        self._begin()

    def hanging(self) -> set[str]:
        """Return the accounts whose poll hangs, each once; other threads take over what waits behind them."""
        self._logins.replace_hanging()
        now = time.monotonic()
        late = {account for account, began in self._began.items() if now - began > WORKER_DEADLINE}
        found, self._hanging = late - self._hanging, late
        self._begin()
        return found

    def watch_logins(self, accounts: Iterable[AccountState]) -> None:
        """Watch the logins that are on this machine: other machines announce changes of theirs."""
        self._logins.start(
            [
                WatchedLogin(state.name, source, partial(getattr, state.health.login, "fingerprint"))
                for state in accounts
                if (source := state.options.source) is not None and source.is_local
            ]
        )
