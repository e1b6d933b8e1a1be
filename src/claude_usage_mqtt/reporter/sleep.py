"""Notices that the machine slept: asks that were waiting are old, and whoever sent them has given up. No I/O."""

from __future__ import annotations

import time

from claude_usage_mqtt.clock import Clock

SLEPT = 30.0
"""Seconds without a turn of the loop after which the machine was asleep: what was sent to it meanwhile is old."""

DEAF_FOR = 2.0
"""Real seconds after that in which asks are ignored: they come out of buffers."""


class Sleep:
    """When the machine was awake last; until `deaf_until`, an instant of `time.monotonic`, asks are ignored."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turned_at = self._moment()
        self.deaf_until = 0.0

    def has_ended(self) -> bool:
        """Whether the machine has slept since the last call."""
        before, self._turned_at = self._turned_at, self._moment()
        # Not every system's steady clock runs on while it sleeps, but its wall clock does.
        gap = max(now - then for now, then in zip(self._turned_at, before, strict=True))
        has_slept = self._clock.to_real(gap) > SLEPT
        if has_slept:
            self.deaf_until = time.monotonic() + DEAF_FOR
        return has_slept

    def _moment(self) -> tuple[float, float]:
        return self._clock.steady(), self._clock.now().timestamp()
