"""The login that an account is polled with, and its end: a sentence in its last days, and one event. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import format_instant, local_time, parse_instant
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.usage.events import LOGIN_EXPIRING, Event
from claude_usage_mqtt.usage.money import ACCOUNT_EVENT_LASTS

NOTICE = timedelta(days=3)
"""How long before its end: a weekend, and a day to act."""

SAME_END = timedelta(days=1)
"""Two ends this close are of one login: what was saved has no milliseconds, and there is one event a day at most."""


class AccountLogin:
    """The login, as far as it is known."""

    def __init__(self) -> None:
        self.known = Login()
        self.fingerprint: object = None
        """Changes when the login does."""
        self._notified: datetime | None = None
        """The end that was an event already."""

    def is_other_token(self, login: Login) -> bool:
        """Whether a login surely has another token; what an earlier run knew has no mark, but the token's expiry."""
        if login.mark is None or self.known.mark is not None:
            return login.mark not in (None, self.known.mark)
        return format_instant(login.token_expires_at) != format_instant(self.known.token_expires_at)

    def _is_ending(self, now: datetime) -> bool:
        ends_at = self.known.login_expires_at
        return ends_at is not None and ends_at - NOTICE <= now < ends_at

    def events(self, account: str, now: datetime) -> list[Event]:
        """Return the event if it is due, early enough to log in again; `resets_at` in it is when the login ends."""
        ends_at = self.known.login_expires_at
        if ends_at is None or not self._is_ending(now):
            return []
        if self._notified is not None and abs(ends_at - self._notified) < SAME_END:
            return []
        self._notified = ends_at
        lasts = now + ACCOUNT_EVENT_LASTS
        return [Event(event_type=LOGIN_EXPIRING, account=account, at=now, resets_at=ends_at, expires_at=lasts)]

    def changes_at(self, now: datetime) -> datetime | None:
        """Return when the event will be due, or after that when the login ends."""
        ends_at = self.known.login_expires_at
        moments = [] if ends_at is None else [ends_at - NOTICE, ends_at]
        return next((at for at in moments if at > now), None)

    def sentence(self, now: datetime) -> str | None:
        """Return what to do in the last days of a login, None before and after them."""
        ends_at = self.known.login_expires_at
        if ends_at is None or not self._is_ending(now):
            return None
        return (
            f"The login ends at {local_time(ends_at)}, and nothing renews it: log in with "
            "Claude Code again (/login) before that."
        )

    def save(self) -> str | None:
        """Return what must survive a restart apart from the health, for JSON."""
        return format_instant(self._notified)

    def restore(self, health: Mapping[str, Any], saved: object) -> None:
        """Continue from the health that was retained, and what else was saved; both are untrusted."""
        self.known = Login(
            token_expires_at=parse_instant(health.get("token_expires_at")),
            login_expires_at=parse_instant(health.get("login_expires_at")),
        )
        self._notified = parse_instant(saved)
