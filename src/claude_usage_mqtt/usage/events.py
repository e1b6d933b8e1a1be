"""What happened to a window or to an account between two readings: the events, each detected once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.usage.derived import rounded

RESET = "reset"
RESET_EARLY = "reset_early"
THRESHOLD_REACHED = "threshold_reached"
LIMIT_REACHED = "limit_reached"
EVENT_TYPES = (RESET, RESET_EARLY, THRESHOLD_REACHED, LIMIT_REACHED)
"""Of a window."""

EXTRA_USAGE_STARTED = "extra_usage_started"
EXTRA_USAGE_THRESHOLD_REACHED = "extra_usage_threshold_reached"
EXTRA_USAGE_LIMIT_REACHED = "extra_usage_limit_reached"
BLOCKED = "blocked"
UNBLOCKED = "unblocked"
LOGIN_EXPIRING = "login_expiring"
ACCOUNT_EVENT_TYPES = (
    EXTRA_USAGE_THRESHOLD_REACHED,
    EXTRA_USAGE_LIMIT_REACHED,
    EXTRA_USAGE_STARTED,
    BLOCKED,
    UNBLOCKED,
    LOGIN_EXPIRING,
)
"""The events of an account, in the order in which one reading reports them."""

ACCOUNT = "account"
"""The last topic level of events that belong to no window."""

LIMIT = 100.0


class Event(NamedTuple):
    """Something that happened: to a window, or to the account if `window` is None.

    `at` is when it was noticed, `expires_at` when it is no longer worth delivering. `resets_at` belongs to the window
    that the event is about: for a reset, when the window that ended was due to reset; for `blocked`, when that ends.
    `utilization` is the one read now, `previous_utilization` the one before, or 0 for what was reached in a window that
    began since. `thresholds` are all thresholds reached by this change, `threshold` the highest of them.
    """

    event_type: str
    at: datetime
    expires_at: datetime
    window: str | None = None
    label: str | None = None
    utilization: float | None = None
    previous_utilization: float | None = None
    resets_at: datetime | None = None
    thresholds: tuple[float, ...] = ()

    @property
    def threshold(self) -> float | None:
        """The highest threshold reached."""
        return max(self.thresholds, default=None)

    def __str__(self) -> str:
        if self.label and self.window is None and self.utilization is not None:
            return f"{self.event_type} (closest to its limit: {self.label}, {self.utilization:g} %)"
        label = f"{self.label} " if self.label else ""
        threshold = "" if self.threshold is None else f" {self.threshold:g} %"
        numbers = "" if self.utilization is None else f": {self.utilization:g} %"
        before = "" if self.previous_utilization is None else f" (before: {self.previous_utilization:g} %)"
        return f"{label}{self.event_type}{threshold}{numbers}{before}"

    def document(self, account: str) -> dict[str, Any]:
        """Return the JSON object of the event topic; its id is the same in every delivery, and no other event's."""
        return {
            "event_type": self.event_type,
            "id": f"{account}-{self.window or ACCOUNT}-{self.event_type}-{round(self.at.timestamp() * 1000)}",
            "at": self.at.isoformat(timespec="milliseconds"),
            "window": self.window,
            "label": self.label,
            "utilization": rounded(self.utilization),
            "previous_utilization": rounded(self.previous_utilization),
            "resets_at": format_instant(self.resets_at),
            "threshold": self.threshold,
            "thresholds": list(self.thresholds),
        }


def newly_reached(peak: float, utilization: float, thresholds: Iterable[float]) -> tuple[float, ...]:
    """Return the thresholds above the highest earlier `peak` that `utilization` has reached, lowest first."""
    return tuple(sorted(threshold for threshold in set(thresholds) if peak < threshold <= utilization))
