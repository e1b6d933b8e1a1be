"""What one source reported about an account at one moment, and whose login it has: frozen values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from claude_usage_mqtt.usage import derived

SESSION = timedelta(hours=5)
WEEK = timedelta(days=7)

MAX_UTILIZATION = 200.0
"""Percent; a higher number is a fault: 130 % was real, 900 % was not (public reports)."""

MAX_AMOUNT = 1e12
"""More money than this is nonsense in any currency."""

MAX_WINDOWS = 40
"""The most windows that are followed: each has a dozen entities, and responses could name new ones forever."""

MINOR_DIGITS: Mapping[str, int] = (
    dict.fromkeys(["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"], 0)
    | dict.fromkeys(["RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"], 0)
    | dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3)
)
"""Currencies whose minor unit is not a hundredth. Source: ISO 4217."""

FIVE_HOUR, SEVEN_DAY, POOL = "five_hour", "seven_day", "pool_"

OAUTH, CLAUDE_CODE, STATUSLINE, REPORTER = "oauth", "claude_code", "statusline", "reporter"
SOURCES = (OAUTH, CLAUDE_CODE, STATUSLINE, REPORTER)


WINDOW_KEY = re.compile(r"(?=.{1,60}$)(five_hour|seven_day(_[a-z0-9]+)*|pool(_[a-z0-9]+)+)")


def duration_of(key: str) -> timedelta | None:
    """Return how long a window with this key is; None for a pool of dollars."""
    return None if key.startswith(POOL) else SESSION if key == FIVE_HOUR else WEEK


def stops_all_work(key: str) -> bool:
    """Whether a window limits the whole account: session, week, or a pool of dollars; not one model or surface."""
    return key in (FIVE_HOUR, SEVEN_DAY) or key.startswith(POOL)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowNumbers:
    """What a source says about a window at the moment `read_at`.

    `utilization` is percent used and may exceed 100. `resets_at` is None while the window has not started, or if
    it was not reported. `duration` is None for a pool of dollars.
    The methods describe the moment of the reading, or the `now` that they are given.
    """

    source: str = OAUTH
    machine: str | None = None
    severity: str | None = None
    locked: bool = False
    key: str
    label: str
    duration: timedelta | None
    utilization: float
    resets_at: datetime | None
    read_at: datetime

    @property
    def remaining(self) -> float:
        """Percent left, never below 0."""
        return max(0.0, 100 - self.utilization)

    @property
    def is_idle(self) -> bool:
        """Whether the window has not started: 0 % and no reset."""
        return self.resets_at is None and self.utilization == 0

    @property
    def length(self) -> timedelta | None:
        """How long the window lasts."""
        return self.duration

    @property
    def is_limit_reached(self) -> bool:
        """Whether the window cannot be used: 100 % is reached, or it is locked."""
        return self.utilization >= 100 or self.locked

    def elapsed(self, now: datetime | None = None) -> float | None:
        """Percent of the window that has passed, None if the reset is not known."""
        return derived.elapsed(self.resets_at, self.length, now or self.read_at)

    def pace(self, now: datetime | None = None) -> float | None:
        """Points ahead of (above 0) or behind an even pace."""
        elapsed = self.elapsed(now)
        return None if elapsed is None else self.utilization - elapsed

    def projected(self, now: datetime | None = None) -> float | None:
        """Percent at the reset if the average pace holds; None in the first 5 % of the window."""
        return derived.projected(self.utilization, self.elapsed(now))

    def is_on_pace(self, now: datetime | None = None) -> bool | None:
        """Whether the window lasts to its reset at the average pace; None if that is not known.

        An idle window is on pace, a locked one is not; otherwise it is known only if `projected` is.
        """
        projected = self.projected(now)
        if self.locked:
            return False
        if projected is None:
            return True if self.is_idle else None
        return projected <= 100

    def time_until_reset(self, now: datetime | None = None) -> timedelta | None:
        """Time until the reset, never below zero; None if the reset is not known."""
        return None if self.resets_at is None else max(timedelta(0), self.resets_at - (now or self.read_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(WindowNumbers):
    """One usage window as it was read.

    `is_placeholder`: a section that exists for everybody and says nothing (0 %, no reset). `at_least`: the source does
    not count beyond this number. `may_be_old`: the number may not be from a current response; `is_first`:
    it is what a terminal shows before its first response, perhaps for hours.
    """

    is_placeholder: bool = False
    at_least: bool = False
    may_be_old: bool = False
    is_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraUsage:
    """Paid usage beyond the plan; amounts in whole units of `currency`, None if not known or unlimited.

    `balance` is what is left of prepaid credit, `disabled_reason` why the API refuses extra usage now.
    """

    enabled: bool
    used: float | None
    limit: float | None
    utilization: float | None
    currency: str | None
    balance: float | None = None
    disabled_reason: str | None = None

    @property
    def remaining(self) -> float | None:
        """What can still be spent: the rest of the limit, or of the prepaid balance if that is less; never below 0."""
        left = None if self.used is None or self.limit is None else max(0.0, self.limit - self.used)
        known = [amount for amount in (left, self.balance) if amount is not None]
        return min(known, default=None)

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more can be spent."""
        return self.remaining == 0 or (self.utilization is not None and self.utilization >= 100)

    @property
    def covers(self) -> bool:
        """Whether work continues at cost after a window is used up."""
        return self.enabled and self.disabled_reason is None and not self.is_used_up


class Owner(NamedTuple):
    """Short hashes of an account and its organization; None means not known."""

    account: str | None = None
    organization: str | None = None

    def is_same(self, other: Owner) -> bool | None:
        """Return whether both are one account: by account if both are known, else by organization, else None.

        Colleagues share an organization; an account that is learned later is not a change.
        """
        if self.account is not None and other.account is not None:
            return self.account == other.account
        if self.organization is not None and other.organization is not None:
            return self.organization == other.organization
        return None

    def completed(self, known: Owner) -> Owner:
        """Return the same owner, with what was `known` before if it is not known now."""
        return Owner(self.account or known.account, self.organization or known.organization)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one source reported.

    `windows` maps a window's key (`five_hour`, `seven_day`, `seven_day_<model or surface>`, `pool_<name>`) to its
    reading. `malformed` names sections that could not be used, `ignored` those that are not known. Only a reading
    that is not `is_partial` says that what it lacks does not exist.
    """

    read_at: datetime
    windows: Mapping[str, Window]
    extra_usage: ExtraUsage | None = None
    plan: str | None = None
    tier: str | None = None
    malformed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = field(default=(), repr=False)
    is_partial: bool = False

    @property
    def five_hour(self) -> Window | None:
        """The session window."""
        return self.windows.get(FIVE_HOUR)

    @property
    def seven_day(self) -> Window | None:
        """The weekly window over all models."""
        return self.windows.get(SEVEN_DAY)

    def __getitem__(self, key: str) -> Window:
        return self.windows[key]

    def __iter__(self) -> Iterator[Window]:
        return iter(self.windows.values())
