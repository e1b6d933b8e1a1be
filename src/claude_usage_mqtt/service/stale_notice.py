"""The log line when an account's numbers become too old to be shown, and the one when they are back."""

from __future__ import annotations

import logging
from datetime import datetime

from claude_usage_mqtt.logs import Outage

log = logging.getLogger(__name__)


class StaleNotice:
    """Remembers whether the numbers were shown: what is old already at the start is not worth a line."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._outage = Outage(log)
        self._was_fresh = False

    def look(self, *, is_fresh: bool, last_success: datetime | None) -> None:
        """Log what has changed since the last look."""
        if is_fresh:
            self._outage.up(f"Account {self._account}: the numbers are current again.")
        elif self._was_fresh and last_success is not None:
            read_at = last_success.astimezone().strftime("%H:%M")
            self._outage.down(
                "stale", f"Account {self._account}: the numbers, read at {read_at}, are not shown any longer."
            )
        self._was_fresh = is_fresh
