"""How long failures make us wait: network and server faults, refused logins, and the API's rate limit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import ClaudeUsageError, CredentialsError, InsufficientScope, RateLimited, Unauthorized
from claude_usage_mqtt.instants import format_instant, moved, parse_instant
from claude_usage_mqtt.untrusted import number

TRANSIENT_FIRST = timedelta(seconds=30)
TRANSIENT_LONGEST = timedelta(seconds=600)
"""Back-off for network and server faults, doubling: they pass by themselves, often quickly."""

WINDOW_FULL_FIRST = timedelta(seconds=300)
WINDOW_FULL_FACTOR = 1.5
WINDOW_FULL_LONGEST = timedelta(seconds=1800)
"""429 without a time: the hourly window of this token is full, and empties slowly."""

SHUT_OUT_MARGIN = timedelta(minutes=15)
"""Added to a Retry-After: in one machine's log, 20 of 35 blocks were followed by another within 15 minutes."""

REFUSED_FIRST = timedelta(minutes=15)
REFUSED_THEN = timedelta(hours=1)
"""After a refusal of the login: a 401 was seen for good tokens, and not every login can be watched for changes."""

SLOW_INTERVAL = timedelta(seconds=360)
SLOW_FOR = timedelta(hours=1)
"""After the wait that a 429 asks for, no faster than this for that long: a hasty client is refused again."""

LONGEST_BLOCK = timedelta(hours=25)
"""A longer block is cut to this; none of more than an hour was ever seen."""

MAX_COUNT = 100_000
"""Nobody ever counted more failures in a row than this."""

TOKEN, ACCOUNT = "token", "account"  # what a block belongs to


class Failures:
    """Those in a row: `faults` are of the network and the server, `refusals` of the login."""

    def __init__(self) -> None:
        self.count = self.faults = self.refusals = 0

    def wait(self, error: ClaudeUsageError, interval: timedelta) -> timedelta:
        """Note a failure other than a rate limit; return how long to wait, by default `interval`."""
        if isinstance(error, CredentialsError):
            # Nothing was sent. Looking at credentials is free: they are read again at the normal pace, and at once
            # after a change.
            return interval
        if isinstance(error, Unauthorized | InsufficientScope):
            self.refusals += 1
            return REFUSED_FIRST if self.refusals == 1 else REFUSED_THEN
        wait: timedelta = TRANSIENT_FIRST * 2 ** min(self.faults, 10)
        self.faults += 1
        return min(wait, TRANSIENT_LONGEST)

    def save(self) -> dict[str, int]:
        """Return what must survive a restart, as a JSON object."""
        return {"failures": self.count, "faults": self.faults, "refusals": self.refusals}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue from what was saved, untrusted."""
        self.count, self.faults = _count(saved.get("failures")), _count(saved.get("faults"))
        self.refusals = _count(saved.get("refusals"))


class RateLimit:
    """The API's refusals for too many requests: `blocked_by` says whether they are the token's or the account's.

    `window_full` counts those in a row that did not say for how long.
    """

    def __init__(self) -> None:
        self.blocked_until: datetime | None = None
        self.blocked_by: str | None = None
        self.slow_until: datetime | None = None
        self.window_full = 0
        self._restored: frozenset[datetime] = frozenset()

    def is_slow(self, now: datetime) -> bool:
        """Whether requests must still be rarer than usual."""
        return self.slow_until is not None and now < self.slow_until

    def refused(self, now: datetime, error: RateLimited) -> datetime:
        """Note a refusal; return until when it lasts."""
        if error.retry_after is not None:
            wait, self.blocked_by = min(error.retry_after + SHUT_OUT_MARGIN, LONGEST_BLOCK), ACCOUNT
        else:
            wait = min(WINDOW_FULL_FIRST * WINDOW_FULL_FACTOR ** min(self.window_full, 10), WINDOW_FULL_LONGEST)
            self.window_full += 1
            self.blocked_by = TOKEN
        self.blocked_until = now + wait
        self.slow_until = self.blocked_until + SLOW_FOR
        return self.blocked_until

    def ended(self) -> None:
        """Note that a request was answered."""
        self.blocked_until = self.blocked_by = None
        self.window_full = 0

    def lift(self) -> None:
        """Forget a block: it was another login's."""
        self.ended()
        self.slow_until = None

    def clock_stepped(self, step: timedelta) -> None:
        """Follow a clock that was set, so that no block becomes longer or shorter; what was restored stays."""
        self.blocked_until = moved(self.blocked_until, step, self._restored)
        self.slow_until = moved(self.slow_until, step, self._restored)

    def save(self) -> dict[str, Any]:
        """Return what must survive a restart, as a JSON object."""
        return {
            "blocked_until": format_instant(self.blocked_until),
            "blocked_by": self.blocked_by,
            "slow_until": format_instant(self.slow_until),
            "window_full": self.window_full,
        }

    def restore(self, saved: Mapping[str, Any], now: datetime) -> None:
        """Continue from what was saved, untrusted: nothing in it can wait longer than a block can last."""
        self.blocked_until = within(saved.get("blocked_until"), now, LONGEST_BLOCK)
        if self.blocked_until is not None and self.blocked_until > now:
            self.blocked_by = TOKEN if saved.get("blocked_by") == TOKEN else ACCOUNT
        else:
            self.blocked_until = None
        self.slow_until = within(saved.get("slow_until"), now, LONGEST_BLOCK + SLOW_FOR)
        self.window_full = _count(saved.get("window_full"))
        self._restored = frozenset(at for at in (self.blocked_until, self.slow_until) if at is not None)


def _count(value: object) -> int:
    return int(number(value, maximum=MAX_COUNT) or 0)


def within(value: object, now: datetime, ahead: timedelta) -> datetime | None:
    """Return a saved instant, at most `ahead` of now; a clock may have been set in between."""
    instant = parse_instant(value)
    return None if instant is None else min(instant, now + ahead)
