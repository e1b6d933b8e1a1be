"""The usage of one account as one answer told it: frozen values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from claude_usage_mqtt.usage import derived

SESSION = timedelta(hours=5)
WEEK = timedelta(days=7)

MAX_UTILIZATION = 100_000.0
"""Beyond this a percentage is nonsense; above 100 is not, it happens."""

MAX_AMOUNT = 1e12
"""More money than this is nonsense in any currency."""

OAUTH = "oauth"
STATUSLINE = "statusline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One usage window at the moment `read_at`.

    `utilization` is percent used and may exceed 100. `resets_at` is None while the window has not started,
    or where the answer did not say. `duration` is 5 hours or 7 days. The methods tell of the moment of the
    reading, or of the `now` that they are given.
    """

    key: str
    label: str
    duration: timedelta
    utilization: float
    resets_at: datetime | None
    read_at: datetime
    source: str = OAUTH

    @property
    def remaining(self) -> float:
        """Percent left, never below 0."""
        return max(0.0, 100 - self.utilization)

    @property
    def is_idle(self) -> bool:
        """Whether the window has not started: 0 % and no reset."""
        return self.resets_at is None and self.utilization == 0

    @property
    def is_limit_reached(self) -> bool:
        """Whether 100 % is reached."""
        return self.utilization >= 100

    def elapsed(self, now: datetime | None = None) -> float | None:
        """Percent of the window that has passed, None where the reset is not known."""
        return derived.elapsed(self.resets_at, self.duration, now or self.read_at)

    def pace(self, now: datetime | None = None) -> float | None:
        """Points ahead (above 0) or behind an even pace."""
        return derived.pace(self.utilization, self.elapsed(now))

    def projected(self, now: datetime | None = None) -> float | None:
        """Percent at the reset if the average pace holds; None in the first 5 % of the window."""
        return derived.projected(self.utilization, self.elapsed(now))

    def is_on_pace(self, now: datetime | None = None) -> bool | None:
        """Whether the window lasts to its reset at the average pace; None where that is not known."""
        return derived.on_pace(self.utilization, self.resets_at, self.projected(now))

    def time_until_reset(self, now: datetime | None = None) -> timedelta | None:
        """Time until the reset, never below zero; None where the reset is not known."""
        return derived.time_remaining(self.resets_at, now or self.read_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraUsage:
    """Paid usage beyond the plan; amounts in whole units of `currency`, None where not known or unlimited."""

    enabled: bool
    used: float | None
    limit: float | None
    utilization: float | None
    currency: str | None

    @property
    def remaining(self) -> float | None:
        """What is left of the limit, never below 0."""
        if self.used is None or self.limit is None:
            return None
        return max(0.0, self.limit - self.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One answer of the usage endpoint, or of the status line.

    `windows` maps a window's key (`five_hour`, `seven_day`, `seven_day_<model>`) to its reading.
    `malformed` and `ignored` name sections of the answer that could not be used or are not known.
    """

    read_at: datetime
    windows: Mapping[str, Window]
    extra_usage: ExtraUsage | None = None
    plan: str | None = None
    malformed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = field(default=(), repr=False)

    @property
    def five_hour(self) -> Window | None:
        """The session window."""
        return self.windows.get("five_hour")

    @property
    def seven_day(self) -> Window | None:
        """The weekly window over all models."""
        return self.windows.get("seven_day")

    def __getitem__(self, key: str) -> Window:
        return self.windows[key]

    def __iter__(self) -> Iterator[Window]:
        return iter(self.windows.values())
