"""The event `login_expiring`: once for each end of a login, early enough to log in again. No I/O."""

from __future__ import annotations

from datetime import datetime, timedelta

from claude_usage_mqtt.instants import format_instant, parse_instant
from claude_usage_mqtt.usage.events import LOGIN_EXPIRING, Event
from claude_usage_mqtt.usage.money import ACCOUNT_EVENT_LASTS

NOTICE = timedelta(days=3)
"""How long before: a weekend, and a day to act."""


class LoginNotice:
    """Remembers the end of a login that was notified already."""

    def __init__(self) -> None:
        self._notified: datetime | None = None

    def due(self, account: str, expires_at: datetime | None, now: datetime) -> list[Event]:
        """Return the event if it is due; `resets_at` in it is when the login ends."""
        if expires_at is None or expires_at == self._notified or not expires_at - NOTICE <= now < expires_at:
            return []
        self._notified = expires_at
        lasts = now + ACCOUNT_EVENT_LASTS
        return [Event(event_type=LOGIN_EXPIRING, account=account, at=now, resets_at=expires_at, expires_at=lasts)]

    def next_at(self, expires_at: datetime | None, now: datetime) -> datetime | None:
        """Return when it will be due."""
        at = None if expires_at is None else expires_at - NOTICE
        return at if at is not None and at > now else None

    def save(self) -> str | None:
        """Return what must survive a restart, for JSON."""
        return format_instant(self._notified)

    def restore(self, saved: object) -> None:
        """Continue from what was saved, untrusted."""
        self._notified = parse_instant(saved)
