"""Clocks, passed in wherever time matters: the system's, or a faster one for the demo and the tests."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the service needs to know about time."""

    def now(self) -> datetime:
        """Return the wall clock, aware, UTC; it may be set at any moment."""

    def steady(self) -> float:
        """Return seconds that never step, and that also pass while the host sleeps."""

    def to_real(self, seconds: float) -> float:
        """Return how many real seconds a wait of `seconds` takes."""


class SystemClock:
    """The system's clock."""

    # Linux counts the host's sleep in this one only; elsewhere, a sleep looks as if the clock had been set.
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


CLOCK_SET = 2.0
"""Seconds of drift between wall clock and steady clock that mean that the wall clock was set."""


class StepDetector:
    """The steps of a clock, each reported once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._measure()

    def latest(self) -> timedelta | None:
        """Return by how much the wall clock was set since the last call, None if it was not."""
        offset = self._measure()
        if offset is None:
            return None
        known = offset if self._offset is None else self._offset
        if abs(offset - known) < CLOCK_SET:
            self._offset = known  # small differences add up to a step
            return None
        self._offset = offset
        return timedelta(seconds=offset - known)

    def _measure(self) -> float | None:
        """Return wall clock minus steady clock; None if we were held up between the two."""
        before, now = self._clock.steady(), self._clock.now().timestamp()
        return now - before if self._clock.steady() - before < CLOCK_SET / 2 else None
