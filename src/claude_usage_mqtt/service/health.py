"""How an account's polling is going: the health document."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from claude_usage_mqtt.instants import format_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The health document; instants are aware UTC datetimes, `poll_interval` is in seconds.

    `retry_at`: before this the API must not be asked. `alive_until`: after this, whoever reads this retained
    message must not trust what this service published.
    """

    status: str
    detail: str | None
    fresh: bool
    alive_until: datetime | None
    last_success: datetime | None
    next_poll: datetime | None
    retry_at: datetime | None
    token_expires_at: datetime | None
    login_expires_at: datetime | None
    poll_interval: int
    polling: bool
    requests_last_hour: int
    consecutive_failures: int
    reporters: list[dict[str, Any]]
    other_instance: bool
    version: str

    def document(self) -> dict[str, Any]:
        """Return the JSON object of the health topic."""
        return {
            "status": self.status,
            "detail": self.detail,
            "fresh": self.fresh,
            "alive_until": format_instant(self.alive_until),
            "last_success": format_instant(self.last_success),
            "next_poll": format_instant(self.next_poll),
            "retry_at": format_instant(self.retry_at),
            "token_expires_at": format_instant(self.token_expires_at),
            "login_expires_at": format_instant(self.login_expires_at),
            "poll_interval": self.poll_interval,
            "polling": self.polling,
            "requests_last_hour": self.requests_last_hour,
            "consecutive_failures": self.consecutive_failures,
            "reporters": self.reporters,
            "other_instance": self.other_instance,
            "version": self.version,
        }
