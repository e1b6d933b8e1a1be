"""What happened between two readings of a window: the events, each fired once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from claude_usage_mqtt.instants import format_instant

RESET = "reset"
RESET_EARLY = "reset_early"
THRESHOLD_REACHED = "threshold_reached"
LIMIT_REACHED = "limit_reached"
EVENT_TYPES = (RESET, RESET_EARLY, THRESHOLD_REACHED, LIMIT_REACHED)

LIMIT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a window.

    `resets_at` belongs to the window that the event is about: for a reset, when the window that ended was
    due to reset. `utilization` is the one read now, `previous_utilization` the last one read before, or 0
    for what was reached in a window that has begun since.
    """

    event_type: str
    window: str
    utilization: float
    previous_utilization: float
    resets_at: datetime | None
    threshold: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON object of the window's event topic."""
        return {
            "event_type": self.event_type,
            "window": self.window,
            "utilization": self.utilization,
            "previous_utilization": self.previous_utilization,
            "resets_at": format_instant(self.resets_at),
            "threshold": self.threshold,
        }


def crossed(
    window: str,
    *,
    peak: float,
    utilization: float,
    previous: float,
    resets_at: datetime | None,
    thresholds: Iterable[float],
) -> list[Event]:
    """Return an event for each threshold, and for the limit, that `utilization` reached for the first time.

    `peak` is the highest utilization seen in this window before: what it reached has fired already.
    """
    marks = [(mark, THRESHOLD_REACHED) for mark in sorted(set(thresholds))] + [(LIMIT, LIMIT_REACHED)]
    return [
        Event(
            event_type=event_type,
            window=window,
            utilization=utilization,
            previous_utilization=previous,
            resets_at=resets_at,
            threshold=mark if event_type == THRESHOLD_REACHED else None,
        )
        for mark, event_type in marks
        if peak < mark <= utilization
    ]
