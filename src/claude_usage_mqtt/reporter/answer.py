"""From an ask to its answer: at most one poll of the source, in a worker thread, whatever happens there."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import ApiError, CredentialsError, CredentialsNotFound, InvalidResponse
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.reporter.budget import SPACING, Budget
from claude_usage_mqtt.sources.credentials.watch import MAX_HANGING
from claude_usage_mqtt.sources.reading_json import Busy
from claude_usage_mqtt.sources.reporter_messages import MAX_REQUESTS, Answer, Ask, encode_answer, parse_ask
from claude_usage_mqtt.sources.source import PolledSource

log = logging.getLogger(__name__)

HOLD = timedelta(seconds=5)
"""How long an ask may wait for its turn instead of being refused."""

MAX_WORKERS = 5
"""As many as the publisher asks for at the same time."""

HANGS_AFTER = 60.0
"""Real seconds after which a poll hangs, on a dead mount for example: it keeps its thread, and others get one."""

MAX_IDS = 2000
"""Remembered ids of asks, so that none is answered twice: more than can be honestly asked in a week."""


class Polls:
    """Begins polls until it is stopped, one at a time for each account; `put` gets the answers, in another thread."""

    def __init__(
        self, sources: Mapping[str, PolledSource], clock: Clock, budget: Budget, put: Callable[[Answer], None]
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._budget = budget
        self._put = put
        self._since: dict[str | None, float] = {}  # when the poll of an account began
        self._stopping = threading.Event()

    def has_room(self, account: str) -> bool:
        """Whether a poll of an account can begin."""
        hanging = sum(time.monotonic() - since > HANGS_AFTER for since in self._since.values())
        return account not in self._since and len(self._since) < MAX_WORKERS + min(hanging, MAX_HANGING)

    def begin(self, ask: Ask, account: str, wait: timedelta) -> None:
        """Poll an account after a wait."""
        self._since[account] = time.monotonic()
        threading.Thread(target=self._work, args=(ask, account, wait), name="worker", daemon=True).start()

    def finished(self, account: str | None) -> None:
        """Note that a worker has answered."""
        self._since.pop(account, None)

    def stop(self) -> None:
        """Begin no request anymore."""
        self._stopping.set()

    def _work(self, ask: Ask, account: str, wait: timedelta) -> None:
        if self._stopping.wait(self._clock.to_real(wait.total_seconds())):
            return
        try:
            answer = self._poll(ask, account)
        except Exception as fault:  # noqa: BLE001 - a worker must always report; the text could hold outside data
            sentence = f"The usage could not be read ({type(fault).__name__}); update this program."
            answer = Answer(id=ask.id, account=account, requests=1, error=InvalidResponse(sentence))
        self._put(answer)

    def _poll(self, ask: Ask, account: str) -> Answer:
        source, requests = self._sources[account], 0
        if not self._budget.is_recent(source):
            result = source.poll(account, self._clock, may_retry=False)
            requests = min(result.requests, MAX_REQUESTS)
            if result.reading is not None:
                return Answer(ask.id, account, requests, login=result.login, reading=result.reading)
            if isinstance(result.error, ApiError | CredentialsError):
                return Answer(ask.id, account, requests, error=result.error)
        return Answer(ask.id, account, requests, error=Busy("There is nothing new.", retry_after=SPACING))


class Answering:
    """Answers asks through `send`; `put` brings a worker's answer to the loop, which passes it to `finished`."""

    def __init__(
        self,
        sources: Mapping[str, PolledSource],
        clock: Clock,
        budget: Budget,
        put: Callable[[Answer], None],
        send: Callable[[bytes], None],
    ) -> None:
        self.polls = Polls(sources, clock, budget, put)
        self._sources = sources
        self._clock = clock
        self._budget = budget
        self._send = send
        self._seen: deque[str] = deque(maxlen=MAX_IDS)
        self._outages: dict[str | None, Outage] = {account: Outage(log) for account in sources}

    def asked(self, payload: bytes) -> None:
        """Process an ask; a repeated or malformed one gets no answer."""
        ask = parse_ask(payload)
        if ask is not None and ask.id not in self._seen:
            self._seen.append(ask.id)
            answer = self._at_once(ask)
            if answer is not None:
                self._answer(answer)

    def finished(self, answer: Answer) -> None:
        """Send a worker's answer, and log a failure."""
        outage = self._outages[answer.account]
        self.polls.finished(answer.account)
        if answer.reading is not None:
            outage.up(f"Account {answer.account}: the usage can be read again.")
        elif answer.error is not None and not isinstance(answer.error, Busy):
            outage.down(answer.error.status, f"Account {answer.account}: {answer.error}")
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        self._send(encode_answer(answer, self._clock.now()))

    def _at_once(self, ask: Ask) -> Answer | None:
        """Begin a poll, or return why not."""
        if ask.account is None:
            return Answer(id=ask.id, error=Busy("This reporter is running.", retry_after=timedelta(0)))
        if ask.account not in self._sources:
            names = ", ".join(list(self._sources)[:10])
            error = CredentialsNotFound(f"This reporter has no account {ask.account}; it has {names}.")
            return Answer(id=ask.id, account=ask.account, error=error)
        wait = self._budget.wait(ask.account)
        if wait > HOLD or not self.polls.has_room(ask.account):
            busy = Busy("The reporter's own request limit is reached.", retry_after=max(wait, HOLD))
            return Answer(id=ask.id, account=ask.account, error=busy)
        self._budget.record(ask.account, wait)
        self.polls.begin(ask, ask.account, wait)
        return None
