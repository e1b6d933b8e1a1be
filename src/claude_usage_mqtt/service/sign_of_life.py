"""Until when what is retained may be trusted: renewed with each poll, and in between if polls are rare. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

ALIVE_FOR = timedelta(minutes=8)
RENEWED_EVERY = timedelta(minutes=5)

POLL_WITHIN = timedelta(minutes=1)
"""A renewal waits this long for a poll, which also renews it; Home Assistant waits for seven minutes in all."""


@dataclass(slots=True)
class SignOfLife:
    """`until` is when the trust ends; None before the first renewal."""

    until: datetime | None = None

    def renew(self, now: datetime) -> None:
        """Say that the service is alive."""
        self.until = now + ALIVE_FOR

    def renewal(self, poll_at: datetime | None, *, is_polling: bool) -> datetime | None:
        """Return when to renew it; `poll_at` is when the next poll is due."""
        if self.until is None:
            return None
        regular = self.until - ALIVE_FOR + RENEWED_EVERY
        waits = is_polling or (poll_at is not None and poll_at <= regular + POLL_WITHIN)
        return regular + POLL_WITHIN if waits else regular

    def tick(self, now: datetime, poll_at: datetime | None, *, is_polling: bool) -> None:
        """Renew it if it is time, or if the clock was set back."""
        at = self.renewal(poll_at, is_polling=is_polling)
        if at is None or self.until is None or now >= at or self.until > now + ALIVE_FOR:
            self.renew(now)
