"""The requests of one account within the hour in which the API counts them, and when the budget allows another one.

The endpoint is undocumented and protects itself. Best measurement: 28 to 30 requests in any hour, then an hour
of refusals, for Claude Code on the same account too.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from claude_usage_mqtt.instants import from_epoch, moved

HOUR = timedelta(hours=1)

BUDGET = 20
"""Requests in any 60 minutes: two thirds of what the API was seen to allow; the rest is for Claude Code itself."""

BUDGET_SPAN = HOUR + timedelta(seconds=30)
"""The hour in which the budget counts, and the time that a request may take to arrive where it is counted too."""


class RequestLog:
    """`times` are those of requests that were sent, or may have been: they count toward the budget.

    `last_sent_at` is when one was last sent, `last_attempt_at` when one was last tried, sent or not. A step of this
    machine's clock does not affect what was restored from the broker. If it is not `limited`, there is no budget.
    """

    def __init__(self, *, limited: bool = True) -> None:
        self.limited = limited
        self._restored: frozenset[datetime] = frozenset()
        self.times: list[datetime] = []
        self.last_attempt_at: datetime | None = None
        self.last_sent_at: datetime | None = None

    def record(self, now: datetime) -> None:
        """Note that a request is being made."""
        self.forget(now)
        self.times.append(now)
        self.last_attempt_at = self.last_sent_at = now

    def record_sent(self, now: datetime, count: int) -> None:
        """Correct the last recorded request: it took `count`, or 0 if the credentials did not allow sending it."""
        self.times = self.times[: len(self.times) - (count == 0)] + [now] * (count - 1)
        self.last_sent_at = self.last_sent_at if count else max(self.times, default=None)

    def record_unasked(self, now: datetime, count: int) -> None:
        """Note requests that somebody else asked a reporter for; anybody can claim some, so their number is bounded."""
        self.times += [now] * min(count, max(0, 2 * BUDGET - len(self.times)))

    def forget(self, now: datetime) -> None:
        """Forget those that no longer count."""
        self.times = [at for at in self.times if now - at < BUDGET_SPAN]

    def last_hour(self, now: datetime) -> int:
        """Return how many requests there were in the last 60 minutes."""
        return sum(now - at < HOUR for at in self.times)

    def allows_another(self, now: datetime) -> bool:
        """Whether another one would be within the budget."""
        return self.last_hour(now) < BUDGET or not self.limited

    def earliest(self, wanted: datetime, budget: int, spacing: timedelta) -> datetime:
        """Return the first instant from `wanted` on at which another one is within the budget, and not too close."""
        if not self.limited:
            return wanted
        if self.last_sent_at is not None:
            wanted = max(wanted, self.last_sent_at + spacing)
        return max(wanted, sorted(self.times)[-budget] + BUDGET_SPAN) if len(self.times) >= budget else wanted

    def clock_stepped(self, step: timedelta) -> None:
        """Follow a clock that was set, except for what was restored."""
        self.times = [at if at in self._restored else at + step for at in self.times]
        self.last_attempt_at = moved(self.last_attempt_at, step, self._restored)
        self.last_sent_at = moved(self.last_sent_at, step, self._restored)

    def save(self) -> list[int]:
        """Return what must survive a restart, for JSON."""
        return [math.ceil(at.timestamp()) for at in sorted(self.times)[-2 * BUDGET :]]

    def restore(self, saved: object, now: datetime) -> None:
        """Continue from what was saved, untrusted."""
        known = [from_epoch(at) for at in saved[-2 * BUDGET :]] if isinstance(saved, list) else []
        self.times = sorted(min(at, now) for at in known if at is not None)
        self._restored = frozenset(self.times) - {now}
        self.last_attempt_at = self.last_sent_at = max(self.times, default=None)
