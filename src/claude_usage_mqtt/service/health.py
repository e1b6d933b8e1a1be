"""How an account's polling is doing: the health document."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from claude_usage_mqtt.instants import format_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The health document; instants are aware UTC datetimes, `poll_interval` is in seconds."""

    status: str
    detail: str | None
    fresh: bool
    last_success: datetime | None
    next_poll: datetime | None
    blocked_until: datetime | None
    token_expires_at: datetime | None
    poll_interval: int
    polling: bool
    requests_last_hour: int
    consecutive_failures: int
    version: str

    def document(self, memory: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object of the health topic, with what a restart goes on from under `memory`."""
        return {
            "status": self.status,
            "detail": self.detail,
            "fresh": self.fresh,
            "last_success": format_instant(self.last_success),
            "next_poll": format_instant(self.next_poll),
            "blocked_until": format_instant(self.blocked_until),
            "token_expires_at": format_instant(self.token_expires_at),
            "poll_interval": self.poll_interval,
            "polling": self.polling,
            "requests_last_hour": self.requests_last_hour,
            "consecutive_failures": self.consecutive_failures,
            "version": self.version,
            "memory": memory,
        }
