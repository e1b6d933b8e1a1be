"""Time, passed in wherever it matters: the system's, or a faster one for the demo and the tests."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the service needs to know of time."""

    def now(self) -> datetime:
        """Return the wall clock, aware, UTC; it may be set at any moment."""

    def steady(self) -> float:
        """Return seconds that never step and go on while the host sleeps."""

    def to_real(self, seconds: float) -> float:
        """Return how many real seconds a wait of `seconds` takes."""


class SystemClock:
    """The system's clock."""

    # Linux counts the host's sleep in this one only; elsewhere a sleep looks like a clock that was set.
    _steady = getattr(time, "CLOCK_BOOTTIME", None)

    def now(self) -> datetime:
        """Return the wall clock."""
        return datetime.now(UTC)

    def steady(self) -> float:
        """Return seconds since the boot."""
        return time.monotonic() if self._steady is None else time.clock_gettime(self._steady)

    def to_real(self, seconds: float) -> float:
        """Return `seconds`."""
        return seconds


class FastClock:
    """A clock that runs `speed` times as fast, from `start` (default: now) on."""

    def __init__(self, speed: float, start: datetime | None = None) -> None:
        self._speed = speed
        self._start = start or datetime.now(UTC)
        self._origin = time.monotonic()

    def now(self) -> datetime:
        """Return the fast wall clock."""
        return self._start + timedelta(seconds=self.steady())

    def steady(self) -> float:
        """Return fast seconds since this clock was made."""
        return (time.monotonic() - self._origin) * self._speed

    def to_real(self, seconds: float) -> float:
        """Return `seconds` divided by the speed."""
        return seconds / self._speed
