"""Whether another instance publishes the same account, and what to do about it. No I/O."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from claude_usage_mqtt.topics import Topics

log = logging.getLogger(__name__)

MENTIONED_FOR = timedelta(hours=1)
"""After its last message."""


class OtherInstance:
    """Another instance of one account, as far as it is known."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._seen_at: datetime | None = None

    @property
    def sentence(self) -> str | None:
        """What to do; None if there is no other instance."""
        if self._seen_at is None:
            return None
        return (
            f"Another instance publishes under {self._topics.base}/{self._topics.account} too; "
            "stop one of them: one service can publish several accounts (CLAUDE_ACCOUNTS)."
        )

    @property
    def ends_at(self) -> datetime | None:
        """When it counts as gone."""
        return None if self._seen_at is None else self._seen_at + MENTIONED_FOR

    def seen(self, now: datetime) -> None:
        """Note a message from it."""
        is_new, self._seen_at = self._seen_at is None, now
        if is_new:
            log.warning("Account %s: %s", self._topics.account, self.sentence)

    def tick(self, now: datetime) -> None:
        """Forget it if it has been silent for long enough."""
        if self.ends_at is not None and now >= self.ends_at:
            self._seen_at = None
            log.info("Account %s: the other instance is gone.", self._topics.account)

    def clock_stepped_back(self, step: timedelta) -> None:
        """Follow a clock that was set back."""
        if self._seen_at is not None:
            self._seen_at += step
