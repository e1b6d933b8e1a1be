"""Turns an ask into its answer: at most one poll of the source, in a worker thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import CredentialsNotFound
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.reporter.budget import SPACING, Budget
from claude_usage_mqtt.sources.credentials.watch import MAX_HANGING
from claude_usage_mqtt.sources.reading_json import Busy
from claude_usage_mqtt.sources.reporter_messages import MAX_REQUESTS, Answer, Ask, encode_answer, parse_ask
from claude_usage_mqtt.sources.source import PolledSource, PollResult

log = logging.getLogger(__name__)

HOLD = timedelta(seconds=5)
"""How long an ask may wait for its turn instead of being refused."""

MAX_WORKERS = 5
"""As many as the publisher asks for at a time."""

HANGS_AFTER = 60.0
"""Real seconds after which a poll counts as hanging, on a dead mount for example: it keeps its thread."""

MAX_IDS = 2000
"""Remembered ids of asks, so that none is answered twice: more than an honest publisher can ask in a week."""


class Answering:
    """Answers asks through `send`, polling each account at most once at a time.

    `put` brings the answer of a worker's thread to the loop, which passes it to `finished`.
    """

    def __init__(
        self,
        sources: Mapping[str, PolledSource],
        clock: Clock,
        budget: Budget,
        put: Callable[[Answer], None],
        send: Callable[[bytes], None],
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._budget = budget
        self._put = put
        self._send = send
        self._seen: deque[str] = deque(maxlen=MAX_IDS)
        self._outages: dict[str | None, Outage] = {account: Outage(log) for account in sources}
        self._since: dict[str | None, float] = {}  # when the poll of an account began
        self._stopping = threading.Event()

    def asked(self, payload: bytes) -> None:
        """Process an ask; a repeated or malformed one gets no answer."""
        ask = parse_ask(payload)
        if ask is None or ask.id in self._seen:
            return
        self._seen.append(ask.id)
        error = self._begin(ask)
        if error is not None:
            self._answer(Answer(ask.id, ask.account, error=error))

    def finished(self, answer: Answer) -> None:
        """Send a worker's answer, and log a failure."""
        outage = self._outages[answer.account]
        del self._since[answer.account]
        if answer.reading is not None:
            outage.up(f"Account {answer.account}: the usage can be read again.")
        elif answer.error is not None and not isinstance(answer.error, Busy):
            outage.down(answer.error.status, f"Account {answer.account}: {answer.error}")
        self._answer(answer)

    def stop(self) -> None:
        """Begin no more requests."""
        self._stopping.set()

    def _answer(self, answer: Answer) -> None:
        self._send(encode_answer(answer, self._clock.now()))

    def _begin(self, ask: Ask) -> Busy | CredentialsNotFound | None:
        """Begin a poll, or return why not."""
        if ask.account is None:
            return Busy("This reporter is running.", retry_after=timedelta(0))
        if ask.account not in self._sources:
            names = ", ".join(list(self._sources)[:10])
            return CredentialsNotFound(f"This reporter has no account {ask.account}; it has {names}.")
        wait = self._budget.wait(ask.account)
        if wait > HOLD or not self._has_room(ask.account):
            return Busy("The reporter's own request limit is reached.", retry_after=max(wait, HOLD))
        self._budget.record(ask.account, wait)
        self._since[ask.account] = time.monotonic()
        threading.Thread(target=self._work, args=(ask.id, ask.account, wait), name="worker", daemon=True).start()
        return None

    def _has_room(self, account: str) -> bool:
        """Whether a poll of an account can begin."""
        hanging = sum(time.monotonic() - since > HANGS_AFTER for since in self._since.values())
        return account not in self._since and len(self._since) < MAX_WORKERS + min(hanging, MAX_HANGING)

    # In a worker's thread

    def _work(self, identifier: str, account: str, wait: timedelta) -> None:
        if self._stopping.wait(self._clock.to_real(wait.total_seconds())):
            return
        source = self._sources[account]
        if self._budget.is_recent(source):
            result = PollResult(account=account, source=source.name)
        else:
            result = source.poll(account, self._clock, may_retry=False)
        error = result.error
        if result.reading is None and error is None:
            error = Busy("There is nothing new.", retry_after=SPACING)
        requests = min(result.requests, MAX_REQUESTS)
        self._put(Answer(identifier, account, requests, result.login, result.reading, error))
