"""The end of a login: a sentence in its last days, and one event, early enough to log in again. No I/O."""

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
        """Return when it will be due, or after that when the login ends."""
        moments = [] if expires_at is None else [expires_at - NOTICE, expires_at]
        return next((at for at in moments if at > now), None)

    def sentence(self, expires_at: datetime | None, now: datetime) -> str | None:
        """Return what to do in the last days of a login, None before and after them."""
        if expires_at is None or not expires_at - NOTICE <= now < expires_at:
            return None
        return (
            f"The login ends at {format_instant(expires_at)}, and nothing renews it: log in with Claude Code "
            "again (/login) before that."
        )

    def save(self) -> str | None:
        """Return what must survive a restart, for JSON."""
        return format_instant(self._notified)

    def restore(self, saved: object) -> None:
        """Continue from what was saved, untrusted."""
        self._notified = parse_instant(saved)
