"""When to ask the API next: a pure policy, all instants passed in, all numbers argued for here.

The endpoint is undocumented and guards itself. Best measurement: 28 to 30 requests in any hour, then an hour
of refusals, for Claude Code on the same account too. So the policy is to ask rarely, at the right moment, and to
remember across restarts when it may ask again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import (
    ClaudeUsageError,
    CredentialsError,
    InsufficientScope,
    RateLimited,
    Unauthorized,
)
from claude_usage_mqtt.instants import format_instant, from_epoch, parse_instant
from claude_usage_mqtt.untrusted import number

HOUR = timedelta(hours=1)

BUDGET = 20
"""Requests in any 60 minutes: two thirds of what was seen to be allowed, the rest is Claude Code's own."""

BUDGET_SPAN = HOUR + timedelta(seconds=30)
"""The hour in which the budget counts, and the time that a request may take to arrive where it is counted too."""

RESERVE = 4
"""Of the budget, kept at most for the polls that follow the resets of the next hour, so that each is seen in time
whatever the interval and whoever asks by hand. No account was seen with more windows that reset apart."""

FLOOR = timedelta(seconds=60)
"""From any request to one that is asked for by hand: the answer does not change faster, and bursts are punished."""

SPACING = timedelta(seconds=30)
"""Between any two requests: as short as the shortest back-off, and short enough for a reset that follows a refresh."""

JITTER = 0.1
"""Share of the interval, both ways, so that the accounts of the world do not ask in step."""

AFTER_RESET = timedelta(seconds=60)
"""The poll that follows a reset: late enough for a jittering reset to have passed, early enough to be seen in 90 s."""

IDLE_AFTER = timedelta(hours=1)
IDLE_INTERVAL = timedelta(minutes=10)
"""If nothing has changed for an hour, nobody works; the first change brings back the normal interval."""

SAVED_INTERVALS = 4
"""While the status line reports the session and the week, only every fourth request is made: for the rest."""

TRANSIENT_FIRST = timedelta(seconds=30)
TRANSIENT_LONGEST = timedelta(seconds=600)
"""Back-off for faults of the network and the server, doubling: they end by themselves, often quickly."""

WINDOW_FULL_FIRST = timedelta(seconds=300)
WINDOW_FULL_FACTOR = 1.5
WINDOW_FULL_LONGEST = timedelta(seconds=1800)
"""429 without a time: the hourly window of this token is full, and empties slowly."""

SHUT_OUT_MARGIN = timedelta(minutes=15)
"""Added to a Retry-After: in one machine's log, 20 of 35 blocks were followed by another within 15 minutes."""

REFUSED_FIRST = timedelta(minutes=15)
REFUSED_THEN = timedelta(hours=1)
"""After a refusal of the login: a 401 was seen for good tokens, and not every login can be watched for changes."""

CONFIRM_AFTER = timedelta(seconds=60)
"""From an unlikely reading to the poll that confirms it: faults of the API were gone one poll later."""

SLOW_INTERVAL = timedelta(seconds=360)
SLOW_FOR = timedelta(hours=1)
"""After the wait that a 429 asks for, not faster than this for so long: who returns at once is refused at once."""

LONGEST_BLOCK = timedelta(hours=25)
"""A block of more is taken as this; none of more than an hour was ever seen."""

COUNTS = ("window_full", "failures", "faults", "refusals")
MAX_COUNT = 100_000
"""More failures in a row than this were never counted by anybody."""

TOKEN, ACCOUNT = "token", "account"  # what a block belongs to


@dataclass(slots=True, kw_only=True)
class Policy:
    """When one account may and should be asked.

    `limited` is False only against a loopback endpoint (tests, the demo): then neither floor nor budget apply.
    A method that takes `now` wants the same clock each time; if that clock is set, `clock_stepped` follows it.
    `requests` count in the budget: those sent, and those that may have been. `last_sent_at` is when one was last
    sent, `last_attempt_at` when one was last tried, sent or not. Of the `failures` in a row `faults` are those of the
    network and the server.
    """

    interval: timedelta
    limited: bool = True
    rng: random.Random = field(default_factory=random.Random, repr=False)
    requests: list[datetime] = field(default_factory=list)
    last_attempt_at: datetime | None = None
    last_sent_at: datetime | None = None
    next_regular: datetime | None = None
    blocked_until: datetime | None = None
    blocked_by: str | None = None
    slow_until: datetime | None = None
    failures: int = 0
    faults: int = 0
    window_full: int = 0
    refusals: int = 0
    refresh_wanted: bool = False
    confirm_at: datetime | None = None
    restored: frozenset[datetime] = frozenset()
    """Instants restored from the broker: a step of this machine's clock does not concern them."""

    def due(self, now: datetime, resets: Iterable[datetime] = ()) -> datetime:
        """Return when to poll next, never before `now`."""
        after_resets = [] if self.refusals else sorted(reset + AFTER_RESET for reset in resets)
        budget = BUDGET - min(RESERVE, sum(now < after <= now + BUDGET_SPAN for after in after_resets))
        due = self._allowed(now, self.next_regular or now, budget, SPACING)
        for after in after_resets:
            # One so shortly before that it would delay the more useful poll becomes that poll.
            if after - self._spacing(now) < due < after:
                due = after
        if self.confirm_at is not None:
            due = min(due, self._allowed(now, self.confirm_at, BUDGET, SPACING))
        for after in after_resets:
            # Responses of the first minute were seen with the old number: two of them would confirm it.
            if after - AFTER_RESET <= due < after:
                due = after
        if self.refresh_wanted:
            due = min(due, self._allowed(now, now, budget, FLOOR))
        for after in after_resets:
            # Once asked after it, the response has shown it, or nothing more can be learned by asking at once.
            if after > now - HOUR and (self.last_attempt_at is None or self.last_attempt_at < after):
                due = min(due, self._allowed(now, after, BUDGET, SPACING))
        return due

    def _allowed(self, now: datetime, wanted: datetime, budget: int, spacing: timedelta) -> datetime:
        """Return the first instant from `wanted` on that neither a block nor spacing nor budget forbids."""
        earliest = max(now, wanted, self.blocked_until or now)
        if self.last_sent_at is not None and self._is_slow(now):
            earliest = max(earliest, self.last_sent_at + SLOW_INTERVAL)
        if not self.limited:
            return earliest
        if self.last_sent_at is not None:
            earliest = max(earliest, self.last_sent_at + spacing)
        requests = sorted(self.requests)
        if len(requests) >= budget:
            earliest = max(earliest, requests[-budget] + BUDGET_SPAN)
        return earliest

    def _is_slow(self, now: datetime) -> bool:
        return self.slow_until is not None and now < self.slow_until

    def _spacing(self, now: datetime) -> timedelta:
        if self._is_slow(now):
            return SLOW_INTERVAL
        return FLOOR if self.limited else timedelta(0)

    def record_request(self, now: datetime) -> None:
        """Note that a request is being made."""
        self._forget(now)
        self.requests.append(now)
        self.last_attempt_at = self.last_sent_at = now
        self.refresh_wanted = False
        self.confirm_at = None
        self.next_regular = now + self._jittered(self.interval)

    def record_unasked(self, now: datetime, count: int) -> None:
        """Note requests that somebody else asked a reporter for; anybody can claim some, so their number is bounded."""
        self.requests += [now] * min(count, max(0, 2 * BUDGET - len(self.requests)))

    def record_sent(self, now: datetime, count: int) -> None:
        """Correct the last recorded request: it took `count`, or none, as the credentials did not allow sending it."""
        self.requests = self.requests[: len(self.requests) - (count == 0)] + [now] * (count - 1)
        self.last_sent_at = self.last_sent_at if count else max(self.requests, default=None)

    def status_line_seen(self, now: datetime, stale_after: timedelta) -> None:
        """Note that the status line reported the main numbers: the request for them can wait, for a while.

        The others come from requests alone, and become unknown after `stale_after`.
        """
        if self.requests and self.next_regular is not None:
            latest = max(self.requests) + min(SAVED_INTERVALS * self.interval, stale_after / 2)
            self.next_regular = max(self.next_regular, min(now + self.interval, latest))

    def confirm(self, now: datetime, repeats_for: timedelta = timedelta(0)) -> None:
        """Want one poll soon, as a reading was unlikely; the source repeats its last response for `repeats_for`."""
        self.confirm_at = now + max(CONFIRM_AFTER, repeats_for + CONFIRM_AFTER / 4)

    def succeeded(self, now: datetime, last_change: datetime | None = None) -> None:
        """Note a good answer; `last_change` is when an answer last differed from the one before it."""
        self.failures = self.faults = self.window_full = self.refusals = 0
        self.blocked_until = self.blocked_by = None
        interval = self.interval
        if last_change is not None and now - last_change >= IDLE_AFTER:
            interval = max(interval, IDLE_INTERVAL)
        if self._is_slow(now):
            interval = max(interval, SLOW_INTERVAL)
        self.next_regular = now + self._jittered(interval)

    def failed(self, now: datetime, error: ClaudeUsageError) -> None:
        """Note that there was no answer, and why."""
        self.failures += 1
        if isinstance(error, CredentialsError):
            # Nothing was sent. Looking at the credentials costs nobody anything: they are read again at the
            # normal pace, and at once when they change.
            self.next_regular = now + self._jittered(self.interval)
        elif isinstance(error, Unauthorized | InsufficientScope):
            self.next_regular = now + self._jittered(REFUSED_THEN if self.refusals else REFUSED_FIRST)
            self.refusals += 1
        elif isinstance(error, RateLimited):
            if error.retry_after is not None:
                self._block(now + min(error.retry_after + SHUT_OUT_MARGIN, LONGEST_BLOCK), ACCOUNT)
            else:
                wait = WINDOW_FULL_FIRST * WINDOW_FULL_FACTOR ** min(self.window_full, 10)
                self.window_full += 1
                self._block(now + min(wait, WINDOW_FULL_LONGEST), TOKEN)
        else:
            wait = min(TRANSIENT_FIRST * 2 ** min(self.faults, 10), TRANSIENT_LONGEST)
            self.faults += 1
            self.next_regular = now + self._jittered(wait)

    def _block(self, until: datetime, by: str) -> None:
        self.blocked_until, self.blocked_by = until, by
        self.next_regular = until
        self.slow_until = until + SLOW_FOR

    def credentials_changed(self, now: datetime) -> None:
        """Note other credentials: what waited for them waits no longer, what belongs to the account stays."""
        self.window_full = 0
        if self.refusals:
            self.refusals = 0
            self.next_regular = now
        if self.blocked_by == TOKEN:
            self.blocked_until = self.blocked_by = self.slow_until = None
            self.next_regular = now

    def account_changed(self, now: datetime) -> None:
        """Note that another account is logged in: a block of the one before does not concern it."""
        self.credentials_changed(now)
        self.blocked_until = self.blocked_by = self.slow_until = None
        self.poll_soon(now)

    def poll_soon(self, now: datetime) -> None:
        """Want the next request as soon as one by hand is allowed."""
        last = self.last_sent_at if self.limited else None
        self.next_regular = now if last is None else max(now, last + FLOOR)

    def was_cut_short(self) -> None:
        """Note that the program was stopped before its first answer: the next request need not be a regular one."""
        if self.next_regular is not None and self.last_sent_at is not None:
            self.next_regular = min(self.next_regular, self.last_sent_at + FLOOR)

    def refresh(self, now: datetime) -> datetime:
        """Want a request by hand; return when it will be made: `now`, or later."""
        self.refresh_wanted = True
        return self.due(now)

    def set_interval(self, now: datetime, interval: timedelta) -> None:
        """Change the normal interval; a shorter one is felt at once."""
        self.interval = interval
        if self.next_regular is not None and self.failures == 0:
            self.next_regular = min(self.next_regular, now + self._jittered(interval))

    def requests_last_hour(self, now: datetime) -> int:
        """Return how many requests the last 60 minutes saw."""
        return sum(now - at < HOUR for at in self.requests)

    def _forget(self, now: datetime) -> None:
        self.requests = [at for at in self.requests if now - at < BUDGET_SPAN]

    def _jittered(self, interval: timedelta) -> timedelta:
        return interval * self.rng.uniform(1 - JITTER, 1 + JITTER)

    def clock_stepped(self, step: timedelta, now: datetime) -> None:
        """Follow a clock that was set by `step` to `now`, and poll as soon as it is allowed.

        What was recorded moves with the clock, so that neither the budget nor a block becomes longer or shorter.
        """

        def moved(instant: datetime | None) -> datetime | None:
            return instant if instant is None or instant in self.restored else instant + step

        self.requests = [at if at in self.restored else at + step for at in self.requests]
        self.last_attempt_at, self.last_sent_at = moved(self.last_attempt_at), moved(self.last_sent_at)
        self.blocked_until, self.slow_until = moved(self.blocked_until), moved(self.slow_until)
        self.confirm_at = None if self.confirm_at is None else now
        self.next_regular = now

    def save(self) -> dict[str, Any]:
        """Return what must survive a restart, as a JSON object."""
        return {
            "requests": [math.ceil(at.timestamp()) for at in sorted(self.requests)[-2 * BUDGET :]],
            "next_regular": format_instant(self.next_regular),
            "blocked_until": format_instant(self.blocked_until),
            "blocked_by": self.blocked_by,
            "slow_until": format_instant(self.slow_until),
            "confirm_at": format_instant(self.confirm_at),
            **{name: getattr(self, name) for name in COUNTS},
        }

    def restore(self, saved: object, now: datetime, resets: Iterable[datetime] = ()) -> None:
        """Continue from `saved`, untrusted: nothing in it can wait longer than a block can last.

        A request that was due before now is counted as made: the program may have ended before it could say so.
        """
        if not isinstance(saved, dict):
            return
        requests = saved.get("requests")
        if isinstance(requests, list):
            known = [from_epoch(at) for at in requests[-2 * BUDGET :]]
            self.requests = sorted(min(at, now) for at in known if at is not None)
        self.last_attempt_at = self.last_sent_at = max(self.requests, default=None)
        self.next_regular = _within(saved.get("next_regular"), now, HOUR * (1 + JITTER))
        self.blocked_until = _within(saved.get("blocked_until"), now, LONGEST_BLOCK)
        if self.blocked_until is not None and self.blocked_until > now:
            self.blocked_by = TOKEN if saved.get("blocked_by") == TOKEN else ACCOUNT
        else:
            self.blocked_until = None
            self._count_lost(now, resets)
        self.slow_until = _within(saved.get("slow_until"), now, LONGEST_BLOCK + SLOW_FOR)
        for name in COUNTS:
            setattr(self, name, int(number(saved.get(name), maximum=MAX_COUNT) or 0))
        self.confirm_at = _within(saved.get("confirm_at"), now, HOUR)
        known_instants = (*self.requests, self.blocked_until, self.slow_until)
        self.restored = frozenset(instant for instant in known_instants if instant not in (None, now))
        self._forget(now)

    def _count_lost(self, now: datetime, resets: Iterable[datetime]) -> None:
        wanted = [self.next_regular, *(reset + AFTER_RESET for reset in resets)]
        due = [at for at in wanted if at is not None and (self.last_attempt_at is None or self.last_attempt_at < at)]
        # The budget may have delayed it: it was made at any time between then and now, or not at all.
        if due and now - 2 * HOUR < min(due) <= now:
            self.requests.append(now)


def _within(value: object, now: datetime, ahead: timedelta) -> datetime | None:
    """Return the instant, at most `ahead` of now; a clock may have been set meanwhile."""
    instant = parse_instant(value)
    return None if instant is None else min(instant, now + ahead)
