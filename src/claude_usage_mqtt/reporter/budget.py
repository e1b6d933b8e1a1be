"""What all machines together may request for each of a reporter's accounts, as far as one of them can know it.

A reporter counts its own requests, hears what the others answer, and reads how many the publisher counted, which was
there while this machine slept. It can only make this machine ask less often; it is not trusted beyond that.
"""

from __future__ import annotations

from collections.abc import Iterable

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.reporter.limit import AFTER_START, REQUESTS_PER_HOUR, SIMULTANEOUS, RequestLimit
from claude_usage_mqtt.sources.reporter_messages import parse_answer
from claude_usage_mqtt.sources.source import PolledSource
from claude_usage_mqtt.topics import Topics
from claude_usage_mqtt.untrusted import json_object

BELIEVED_FOR = 600.0
"""Seconds for which the publisher's count holds: it is published again every five minutes."""

ASK_AGAIN = 60.0
"""Seconds until the next try if the publisher's count is too high: it falls as time passes, nobody knows when."""

MAX_HEALTH = 64 * 1024


class Budget:
    """The limits of all accounts; `limited` is False only if the API is on loopback."""

    def __init__(self, base: str, accounts: Iterable[str], clock: Clock, *, limited: bool) -> None:
        self._clock = clock
        self._limited = limited
        self._started_at = clock.steady()
        self._limits = {account: RequestLimit() for account in accounts}
        self._health = {Topics(base=base, account=account).health: account for account in self._limits}
        self._counted: dict[str, tuple[int, float]] = {}  # account -> the publisher's count, and when it came

    @property
    def topics(self) -> list[str]:
        """Where the publisher's counts are retained."""
        return list(self._health)

    def wait(self, account: str) -> float:
        """Return how many seconds a request would have to wait, 0 if it may be made now."""
        if not self._limited:
            return 0.0
        now = self._clock.steady()
        wait = self._limits[account].wait(now)
        count, at = self._counted.get(account, (0, 0.0))
        is_full = count >= REQUESTS_PER_HOUR - SIMULTANEOUS and now - at < BELIEVED_FOR
        return max(wait, ASK_AGAIN) if is_full else wait

    def is_recent(self, source: PolledSource) -> bool:
        """Whether Claude Code's own numbers may be of a request of the run before, which nobody remembers."""
        if not self._limited or self._clock.steady() - self._started_at >= AFTER_START:
            return False
        now = self._clock.now()
        cached = source.cached(now)
        return cached is not None and (now - cached.read_at).total_seconds() < AFTER_START

    def record(self, account: str, wait: float) -> None:
        """Note a request that is made after so many seconds."""
        self._limits[account].record(self._clock.steady() + wait)

    def hear(self, payload: bytes) -> None:
        """Note the requests of another machine's answer, untrusted."""
        answer = parse_answer(payload, self._clock.now(), "")
        if answer is not None and answer.account in self._limits:
            self._limits[answer.account].record_elsewhere(self._clock.steady(), answer.requests)

    def take(self, message: Message) -> None:
        """Process a health message, untrusted."""
        count = json_object(message.payload, MAX_HEALTH).get("requests_last_hour")
        if type(count) is int and count >= 0:
            self._counted[self._health[message.topic]] = count, self._clock.steady()
