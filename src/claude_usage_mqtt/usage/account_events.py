"""What happened to an account as a whole: it was blocked, or not any longer, or work continues at cost."""

from __future__ import annotations

from datetime import datetime

from claude_usage_mqtt.usage.events import BLOCKED, EXTRA_USAGE_STARTED, UNBLOCKED, Event
from claude_usage_mqtt.usage.money import ACCOUNT_EVENT_LASTS
from claude_usage_mqtt.usage.standing import Standing


class AccountEvents:
    """Remembers what was last known for certain, so that each change is an event once."""

    def __init__(self, *, was_blocked: bool | None = None, was_active: bool | None = None) -> None:
        self.was_blocked = was_blocked
        self.was_active = was_active

    def update(self, account: str, where: Standing, now: datetime) -> list[Event]:
        """Return what has happened since the last reading."""
        happened: list[str] = []
        if where.active is not None:
            if where.active and self.was_active is False:
                happened.append(EXTRA_USAGE_STARTED)
            self.was_active = where.active
        if where.blocked is not None:
            if self.was_blocked is not None and where.blocked != self.was_blocked:
                happened.append(BLOCKED if where.blocked else UNBLOCKED)
            self.was_blocked = where.blocked
        tightest = where.tightest
        return [
            Event(
                event_type=event_type,
                account=account,
                at=now,
                label=None if tightest is None else tightest.label,
                utilization=None if tightest is None else tightest.utilization,
                resets_at=where.blocked_until,
                expires_at=now + ACCOUNT_EVENT_LASTS,
            )
            for event_type in happened
        ]
