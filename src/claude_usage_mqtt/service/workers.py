"""The threads of the service: one for each poll under way, one for each login that is watched. They only report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.service.watched import Watched
from claude_usage_mqtt.sources.credentials.watch import CHECK_EVERY, LoginChanged, watch_login
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.usage.reading import REPORTER

WORKER_DEADLINE = 60.0
"""Real seconds after which a worker counts as hanging: a request is cut at 20, a file on a dead mount is not."""


class Workers:
    """Starts threads that report to `put` until they are stopped."""

    def __init__(self, clock: Clock, put: Callable[[PollResult | LoginChanged], None]) -> None:
        self._clock = clock
        self._put = put
        self._stopping = threading.Event()
        self._busy_since: dict[str, float] = {}  # accounts whose worker is under way, the oldest first

    def stop(self) -> None:
        """Let the threads end; none is waited for."""
        self._stopping.set()

    def poll(self, watched: Watched, *, may_retry: bool) -> None:
        """Poll an account's source."""
        source, name = watched.source, watched.state.name
        if source is not None:
            self._busy_since[name] = time.monotonic()
            job = lambda: self._put(source.poll(name, self._clock, may_retry=may_retry))  # noqa: E731
            threading.Thread(target=job, name="worker", daemon=True).start()

    def finished(self, account: str) -> None:
        """Note that a poll has reported."""
        self._busy_since.pop(account, None)

    def hanging(self) -> list[str]:
        """Return the accounts whose poll hangs, each once."""
        now = time.monotonic()
        found = [account for account, since in self._busy_since.items() if now - since > WORKER_DEADLINE]
        for account in found:
            del self._busy_since[account]
        return found

    def watch_login(self, watched: Watched) -> None:
        """Watch an account's login, if it is on this machine: other machines announce a login that changed."""
        if watched.source is None or watched.source.name == REPORTER:
            return
        state, every = watched.state, self._clock.to_real(CHECK_EVERY)
        arguments = (state.name, watched.source, lambda: state.fingerprint, self._put, every, self._stopping)
        threading.Thread(target=watch_login, args=arguments, name="login-watch", daemon=True).start()
