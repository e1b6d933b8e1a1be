"""A reporter's own limits, which hold whatever it is asked, and by whom: anybody who may publish on the broker can ask.

A reporter counts its own requests, hears what other machines answer, and reads how many the publisher counted, which
was there while this machine slept. What it hears and reads can only make it ask less often. The publisher has its own
budget, and asks less often than this allows. Instants are seconds of one steady clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.sources.reporter_messages import parse_answer
from claude_usage_mqtt.sources.source import PolledSource
from claude_usage_mqtt.topics import Topics
from claude_usage_mqtt.untrusted import json_object

REQUESTS_PER_HOUR = 20
"""Two thirds of what the API was seen to allow; the rest is Claude Code's own."""

HOUR = 3630.0
"""Seconds in which they are counted: a request may take half a minute to arrive where the API counts it."""

SIMULTANEOUS = 2
"""Left free if other machines are asked too: they may be making requests that are not known here yet."""

SPACING = 60.0
"""Seconds between two requests: the numbers do not change faster, and bursts are punished."""

AFTER_START = 60.0
"""Seconds after the start in which a request of the run before, which nobody remembers, may still be recent."""

BELIEVED_FOR = 600.0
"""Seconds for which the publisher's count holds: it is published again every five minutes."""

ASK_AGAIN = 60.0
"""Seconds until the next try if the publisher's count is too high: it falls as time passes, nobody knows when."""

MAX_HEALTH = 64 * 1024


class RequestLimit:
    """When the API may be asked for one account.

    Requests of reporters on other machines count in the hour: their answers say how many there were.
    """

    def __init__(self) -> None:
        self._own: list[float] = []
        self._others: list[float] = []

    def wait(self, now: float) -> float:
        """Return how many seconds a request would have to wait from `now` on; 0 if it is allowed."""
        self._own, self._others = ([at for at in times if at > now - HOUR] for times in (self._own, self._others))
        earliest = max(now, self._own[-1] + SPACING) if self._own else now
        allowed = REQUESTS_PER_HOUR - (SIMULTANEOUS if self._others else 0)
        requests = sorted(self._own + self._others)
        if len(requests) >= allowed:
            earliest = max(earliest, requests[-allowed] + HOUR)
        return earliest - now

    def record(self, now: float) -> None:
        """Note a request that was made, or may have been."""
        self._own = [*self._own, now][-REQUESTS_PER_HOUR:]

    def record_elsewhere(self, now: float, count: int) -> None:
        """Note requests that another machine made for the account."""
        self._others = [*self._others, *[now] * count][-REQUESTS_PER_HOUR:]


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
