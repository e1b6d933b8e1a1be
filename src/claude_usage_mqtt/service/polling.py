"""Whether and when an account is polled: the policy, while people have not switched polling off. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from claude_usage_mqtt.sources.policy import Policy


class Polling:
    """`is_busy` says that a poll is under way."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.is_on = True
        self.is_busy = False

    def due(self, now: datetime, resets: Iterable[datetime]) -> datetime | None:
        """Return when to poll next; None while a poll is under way, or none is to be made."""
        if self.is_busy or not (self.is_on or self.policy.refresh_wanted):
            return None
        return self.policy.due(now, resets)

    def begin(self, now: datetime) -> bool:
        """Note that a poll begins; return whether a second request would be within the budget."""
        self.policy.record_request(now)
        self.is_busy = True
        return self.policy.requests.allows_another(now)

    def end(self, now: datetime, requests: int) -> None:
        """Note that it has ended."""
        self.is_busy = False
        self.policy.requests.record_sent(now, requests)
