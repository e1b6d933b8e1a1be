"""Notices that the wall clock was set, by comparing it with the steady one."""

from __future__ import annotations

from datetime import timedelta

from claude_usage_mqtt.clock import Clock

CLOCK_SET = 2.0
"""Seconds between wall clock and steady clock that say that the wall clock was set."""


class Steps:
    """The steps of a clock, each told once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._measure()

    def latest(self) -> timedelta | None:
        """Return by how much the wall clock was set since the last call, None where it was not."""
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
        """Return wall clock minus steady clock; None where we were held up between the two."""
        before, now = self._clock.steady(), self._clock.now().timestamp()
        return now - before if self._clock.steady() - before < CLOCK_SET / 2 else None
