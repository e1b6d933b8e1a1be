"""Whether an account is polled, and when: the policy, a person's switch, and the poll under way."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from claude_usage_mqtt.sources.policy import Policy


class Polling:
    """One poll at a time: none is due while one is under way."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.is_on = True
        """The switch: if it is off, only a refresh that a person asks for is due."""
        self.is_under_way = False
        self.has_ended_once = False

    def due(self, now: datetime, resets: Iterable[datetime]) -> datetime | None:
        """Return when to poll next, None if not for now; `resets` are those of the windows, soonest first."""
        if self.is_under_way or not (self.is_on or self.policy.refresh_wanted):
            return None
        return self.policy.due(now, resets)

    def begin(self, now: datetime) -> bool:
        """Note that a poll begins; return whether a second request would be within the budget."""
        self.is_under_way = True
        self.policy.record_request(now)
        return self.policy.requests.allows_another(now)

    def end(self, now: datetime, requests: int) -> None:
        """Note that it has ended, after this many requests."""
        self.is_under_way, self.has_ended_once = False, True
        self.policy.requests.record_sent(now, requests)
