"""A reporter's own limits, whatever it is asked and by whom: anybody who may publish on the broker can ask.

A reporter counts its own requests, sees other machines' answers, and reads how many requests the publisher counted,
which was there while this machine slept. What it sees and reads can only make it ask less often. The publisher has its
own budget, and asks less often than this allows. Instants are seconds of one steady clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.sources.reporter_messages import Answer
from claude_usage_mqtt.sources.request_log import BUDGET, BUDGET_SPAN, RequestLog
from claude_usage_mqtt.sources.source import PolledSource
from claude_usage_mqtt.topics import Topics
from claude_usage_mqtt.untrusted import json_object

SIMULTANEOUS = 2
"""Left free if other machines are asked too: they may be making requests that are not known here yet."""

SPACING = timedelta(seconds=60)
"""Between two requests: the numbers do not change faster, and bursts are punished."""

AFTER_START = timedelta(seconds=60)
"""After the start, a request of the previous run, which is not remembered, may still be recent for this long."""

BELIEVED_FOR = timedelta(minutes=10)
"""For how long the publisher's count holds: it is published again every five minutes."""

ASK_AGAIN = timedelta(seconds=60)
"""Until the next try if the publisher's count is too high: it falls as time passes, but when is not known."""

MAX_HEALTH = 64 * 1024

LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Budget:
    """The limits of all accounts; `limited` is False only if the API is on loopback."""

    def __init__(self, base: str, accounts: Iterable[str], clock: Clock, *, limited: bool) -> None:
        self._clock = clock
        self._limited = limited
        self._started_at = self._now()
        self._requests = {account: RequestLog(limited=limited) for account in accounts}
        self._health = {Topics(base=base, account=account).health: account for account in self._requests}
        self._others_asked_at = dict.fromkeys(self._requests, LONG_AGO)
        self._counted: dict[str, tuple[int, datetime]] = {}  # account -> the publisher's count, and when it came

    def _now(self) -> datetime:
        """Return an instant of the steady clock."""
        return datetime.fromtimestamp(self._clock.steady(), UTC)

    @property
    def topics(self) -> list[str]:
        """Where the publisher's counts are retained."""
        return list(self._health)

    def wait(self, account: str) -> timedelta:
        """Return how long a request would have to wait, 0 if it may be made now."""
        now, requests = self._now(), self._requests[account]
        requests.forget(now)
        others_ask = now - self._others_asked_at[account] < BUDGET_SPAN
        wait = requests.earliest(now, BUDGET - (SIMULTANEOUS if others_ask else 0), SPACING) - now
        count, at = self._counted.get(account, (0, LONG_AGO))
        is_full = self._limited and count >= BUDGET - SIMULTANEOUS and now - at < BELIEVED_FOR
        return max(wait, ASK_AGAIN) if is_full else wait

    def is_recent(self, source: PolledSource) -> bool:
        """Whether Claude Code's own numbers may come from a request of the previous run, which is not remembered."""
        if not self._limited or self._now() - self._started_at >= AFTER_START:
            return False
        now = self._clock.now()
        cached = source.cached(now)
        return cached is not None and now - cached.read_at < AFTER_START

    def record(self, account: str, wait: timedelta) -> None:
        """Note a request that is made after a wait."""
        self._requests[account].record(self._now() + wait)

    def note_answer(self, answer: Answer) -> None:
        """Note the requests of another machine's answer."""
        if answer.account in self._requests and answer.requests:
            self._others_asked_at[answer.account] = self._now()
            self._requests[answer.account].record_unasked(self._now(), answer.requests)

    def take(self, message: Message) -> None:
        """Process a health message, untrusted."""
        count = json_object(message.payload, MAX_HEALTH).get("requests_last_hour")
        if type(count) is int and count >= 0:
            self._counted[self._health[message.topic]] = count, self._now()
