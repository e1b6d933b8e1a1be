"""When to ask the API next: a pure policy, with all instants passed in and all numbers explained here.

We ask rarely, at the right moment, and remember across restarts when we may ask again: why, and how often at most, is
in `request_log`; how long to wait after a failure is in `backoff`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import ClaudeUsageError, RateLimited
from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.sources.backoff import SLOW_INTERVAL, TOKEN, Failures, RateLimit, within
from claude_usage_mqtt.sources.request_log import BUDGET, BUDGET_SPAN, HOUR, RequestLog

RESERVE = 4
"""Of the budget, kept at most for the polls that follow the resets of the next hour, so that each is seen in time
whatever the interval and whoever asks by hand. No account was seen with more separate resets."""

CONFIRMING = 1
"""Of the budget, kept for the poll that confirms an unlikely reading, also at the shortest interval."""

SHORTEST = BUDGET_SPAN / (BUDGET - CONFIRMING)
"""A shorter interval would use up the budget early in the hour and leave a gap."""

FLOOR = timedelta(seconds=60)
"""From any request to one that is asked for by hand: the answer does not change faster, and bursts are punished."""

SPACING = timedelta(seconds=30)
"""Between any two requests: as short as the shortest back-off, and short enough for a reset that follows a refresh."""

JITTER = 0.1
"""Share of the interval, both ways, so that accounts around the world do not ask in step."""

AFTER_RESET = timedelta(seconds=60)
"""The poll that follows a reset: late enough for a jittering reset to have passed, early enough to be seen in 90 s."""

IDLE_AFTER = timedelta(hours=1)
IDLE_INTERVAL = timedelta(minutes=10)
"""If nothing has changed for an hour, nobody is working; the first change brings back the normal interval."""

SAVED_INTERVALS = 4
"""While the status line reports the session and the week, only every fourth request is made, for the rest."""

CONFIRM_AFTER = timedelta(seconds=60)
"""From an unlikely reading to the poll that confirms it: faults of the API were gone one poll later."""


class Policy:
    """When one account may and should be asked.

    `limited` is False only against a loopback endpoint (tests, the demo): then neither floor nor budget apply.
    A method that takes `now` wants the same clock each time; if that clock is set, `clock_stepped` follows it.
    """

    def __init__(self, interval: timedelta, rng: random.Random, *, limited: bool = True) -> None:
        self.interval = interval
        self.requests = RequestLog(limited=limited)
        self.rate_limit = RateLimit()
        self.failures = Failures()
        self.next_regular: datetime | None = None
        self.confirm_at: datetime | None = None
        self.refresh_wanted = False
        self._rng = rng

    def due(self, now: datetime, resets: Iterable[datetime] = ()) -> datetime:
        """Return when to poll next, never before `now`."""
        after_resets = [] if self.failures.refusals else sorted(reset + AFTER_RESET for reset in resets)
        budget = BUDGET - CONFIRMING - min(RESERVE, sum(now < after <= now + BUDGET_SPAN for after in after_resets))
        due = self._allowed(now, self.next_regular or now, budget, SPACING)
        for after in after_resets:
            # A poll that would come just before the more useful one, and delay it, becomes that one.
            if after - self._spacing(now) < due < after:
                due = after
        if self.confirm_at is not None:
            due = min(due, self._allowed(now, self.confirm_at, BUDGET, SPACING))
        for after in after_resets:
            # Responses in the first minute were seen with the old number: two of them would confirm it.
            if after - AFTER_RESET <= due < after:
                due = after
        if self.refresh_wanted:
            due = min(due, self._allowed(now, now, budget, FLOOR))
        last = self.requests.last_attempt_at
        for after in after_resets:
            # Once we have asked after it, the response has shown it, or asking again at once would not help.
            if after > now - HOUR and (last is None or last < after):
                due = min(due, self._allowed(now, after, BUDGET, SPACING))
        return due

    def _allowed(self, now: datetime, wanted: datetime, budget: int, spacing: timedelta) -> datetime:
        """Return the first instant from `wanted` on that neither a block nor spacing nor budget forbids."""
        earliest = max(now, wanted, self.rate_limit.blocked_until or now)
        last = self.requests.last_sent_at
        if last is not None and self.rate_limit.is_slow(now):
            earliest = max(earliest, last + SLOW_INTERVAL)
        return self.requests.earliest(earliest, budget, spacing)

    def _spacing(self, now: datetime) -> timedelta:
        if self.rate_limit.is_slow(now):
            return SLOW_INTERVAL
        return FLOOR if self.requests.limited else timedelta(0)

    def record_request(self, now: datetime) -> None:
        """Note that a request is being made."""
        self.requests.record(now)
        self.refresh_wanted = False
        self.confirm_at = None
        self.next_regular = now + self._jittered(self._pace)

    def numbers_arrived(self, now: datetime, stale_after: timedelta) -> None:
        """Note that the main numbers arrived without a request: the next request can wait for a while.

        The other numbers come only from requests, and become unknown after `stale_after`.
        """
        if self.requests.times and self.next_regular is not None:
            latest = max(self.requests.times) + min(SAVED_INTERVALS * self.interval, stale_after / 2)
            self.next_regular = max(self.next_regular, min(now + self.interval, latest))

    def confirm(self, now: datetime, repeats_for: timedelta = timedelta(0)) -> None:
        """Poll soon, as a reading was unlikely; the source repeats its last response for `repeats_for`."""
        self.confirm_at = now + max(CONFIRM_AFTER, repeats_for + CONFIRM_AFTER / 4)

    def succeeded(self, now: datetime, stale_after: timedelta, last_change: datetime | None = None) -> None:
        """Note a good answer, whose numbers become unknown after `stale_after`.

        `last_change` is when an answer last differed from the one before it.
        """
        self.failures = Failures()
        self.rate_limit.ended()
        interval = self._pace
        if last_change is not None and now - last_change >= IDLE_AFTER:
            interval = max(interval, min(IDLE_INTERVAL, stale_after / 2))
        if self.rate_limit.is_slow(now):
            interval = max(interval, SLOW_INTERVAL)
        self.next_regular = now + self._jittered(interval)

    def failed(self, now: datetime, error: ClaudeUsageError) -> None:
        """Note that there was no answer, and why."""
        self.failures.count += 1
        if isinstance(error, RateLimited):
            self.next_regular = self.rate_limit.refused(now, error)
        else:
            self.next_regular = now + self._jittered(self.failures.wait(error, self.interval))

    def excuse_failures(self) -> None:
        """Count none of the failures so far: what failed is not missed."""
        self.failures.count = 0

    def credentials_changed(self, now: datetime) -> None:
        """Note other credentials: waits for them end; what belongs to the account stays."""
        self.rate_limit.window_full = 0
        if self.failures.refusals:
            self.failures.refusals = 0
            self.next_regular = now
        if self.rate_limit.blocked_by == TOKEN:
            self.rate_limit.lift()
            self.next_regular = now

    def account_changed(self, now: datetime) -> None:
        """Note that another account is logged in: a block of the one before does not apply to it."""
        self.credentials_changed(now)
        self.rate_limit.lift()
        self.poll_soon(now)

    def poll_soon(self, now: datetime) -> None:
        """Make the next request as soon as one by hand is allowed."""
        last = self.requests.last_sent_at if self.requests.limited else None
        self.next_regular = now if last is None else max(now, last + FLOOR)

    def was_cut_short(self) -> None:
        """Note that the program was stopped before its first answer: the next request need not be a regular one."""
        if self.next_regular is not None and self.requests.last_sent_at is not None:
            self.next_regular = min(self.next_regular, self.requests.last_sent_at + FLOOR)

    def refresh(self, now: datetime) -> datetime:
        """Make a request by hand; return when it will be made: `now`, or later."""
        self.refresh_wanted = True
        return self.due(now)

    def set_interval(self, now: datetime, interval: timedelta) -> None:
        """Change the normal interval; a shorter one takes effect at once."""
        self.interval = interval
        if self.next_regular is not None and self.failures.count == 0:
            self.next_regular = min(self.next_regular, now + self._jittered(interval))

    @property
    def _pace(self) -> timedelta:
        return max(self.interval, SHORTEST) if self.requests.limited else self.interval

    def _jittered(self, interval: timedelta) -> timedelta:
        return interval * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def clock_stepped(self, step: timedelta, now: datetime) -> None:
        """Follow a clock that was set by `step` to `now`, and poll as soon as it is allowed.

        What was recorded moves with the clock, so that neither the budget nor a block becomes longer or shorter.
        """
        self.requests.clock_stepped(step)
        self.rate_limit.clock_stepped(step)
        self.confirm_at = None if self.confirm_at is None else now
        self.next_regular = now

    def save(self) -> dict[str, Any]:
        """Return what must survive a restart, as a JSON object."""
        return {
            "requests": self.requests.save(),
            "next_regular": format_instant(self.next_regular),
            "confirm_at": format_instant(self.confirm_at),
            **self.rate_limit.save(),
            **self.failures.save(),
        }

    def restore(self, saved: object, now: datetime, resets: Iterable[datetime] = ()) -> None:
        """Continue from `saved`, untrusted: nothing in it can wait longer than a block can last.

        A request that was due before now counts as made: the program may have ended before it could note that.
        """
        if not isinstance(saved, dict):
            return
        self.requests.restore(saved.get("requests"), now)
        self.next_regular = within(saved.get("next_regular"), now, HOUR * (1 + JITTER))
        self.confirm_at = within(saved.get("confirm_at"), now, HOUR)
        self.rate_limit.restore(saved, now)
        self.failures.restore(saved)
        if self.rate_limit.blocked_until is None:
            self._count_lost(now, resets)
        self.requests.forget(now)

    def _count_lost(self, now: datetime, resets: Iterable[datetime]) -> None:
        last, wanted = self.requests.last_attempt_at, [self.next_regular, *(reset + AFTER_RESET for reset in resets)]
        due = [at for at in wanted if at is not None and (last is None or last < at)]
        # The budget may have delayed it: it was made at any time between then and now, or not at all.
        if due and now - 2 * HOUR < min(due) <= now:
            self.requests.times.append(now)
