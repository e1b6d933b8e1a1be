"""From an ask to its answer: at most one poll of the source, in a worker thread, whatever happens there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import ApiError, CredentialsError, CredentialsNotFound, InvalidResponse
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.reporter.budget import Budget
from claude_usage_mqtt.reporter.limit import SPACING, SeenIds
from claude_usage_mqtt.sources.credentials.watch import MAX_HANGING
from claude_usage_mqtt.sources.reporter_messages import MAX_REQUESTS, Answer, Ask, Busy, parse_ask
from claude_usage_mqtt.sources.source import Source

log = logging.getLogger(__name__)

HOLD = 5.0
"""Seconds that an ask may wait for its turn instead of being refused."""

MAX_WORKERS = 4

HANGS_AFTER = 60.0
"""Real seconds after which a poll hangs, on a dead mount for example: it keeps its thread, and others get one."""


class Answered(NamedTuple):
    """A worker's result: the answer to an ask."""

    account: str
    answer: Answer


class Answering:
    """Answers asks, at once or through `put`, within the budget, until it is stopped.

    `newest_cache` returns the age of Claude Code's own cached numbers of an account.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        clock: Clock,
        budget: Budget,
        newest_cache: Callable[[str], timedelta | None],
        put: Callable[[Answered], None],
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._budget = budget
        self._newest_cache = newest_cache
        self._put = put
        self._seen = SeenIds()
        self._busy: dict[str, float] = {}  # accounts that are polled, and since when
        self._outages = {account: Outage(log) for account in sources}
        self._stopping = threading.Event()

    def asked(self, payload: bytes) -> Answer | None:
        """Take in an ask; return the answer if there is one at once. A repeated or malformed one gets none."""
        ask = parse_ask(payload)
        if ask is None or not self._seen.add(ask.id):
            return None
        if ask.account is None:
            return Answer(id=ask.id, busy=Busy(detail="This reporter is running.", retry_after=timedelta(0)))
        if ask.account not in self._sources:
            names = ", ".join(list(self._sources)[:10])
            error = CredentialsNotFound(f"This reporter has no account {ask.account}; it has {names}.")
            return Answer(id=ask.id, account=ask.account, error=error)
        wait = self._budget.wait(ask.account)
        if wait > HOLD or ask.account in self._busy or self._is_full():
            retry_after = timedelta(seconds=max(wait, HOLD))
            busy = Busy(detail="The reporter's own limit of requests is reached.", retry_after=retry_after)
            return Answer(id=ask.id, account=ask.account, busy=busy)
        self._budget.record(ask.account, wait)
        self._busy[ask.account] = time.monotonic()
        threading.Thread(target=self._work, args=(ask, ask.account, wait), name="worker", daemon=True).start()
        return None

    def finished(self, answered: Answered) -> None:
        """Note that a worker has answered, and log a failure."""
        account, answer = answered
        self._busy.pop(account, None)
        if answer.error is not None:
            self._outages[account].down(answer.error.status, f"Account {account}: {answer.error}")
        elif answer.reading is not None:
            self._outages[account].up(f"Account {account}: the usage can be read again.")

    def _is_full(self) -> bool:
        hanging = sum(time.monotonic() - since > HANGS_AFTER for since in self._busy.values())
        return len(self._busy) >= MAX_WORKERS + min(hanging, MAX_HANGING)

    def stop(self) -> None:
        """Begin no request anymore."""
        self._stopping.set()

    def _work(self, ask: Ask, account: str, wait: float) -> None:
        if wait and self._stopping.wait(self._clock.to_real(wait)):
            return
        is_recent = self._budget.is_recent(self._newest_cache(account))
        answer = nothing_new(ask) if is_recent else answer_with(self._sources[account], ask, self._clock)
        self._put(Answered(account, answer))


def nothing_new(ask: Ask, requests: int = 0) -> Answer:
    """Return that an ask brought nothing, which is not an error."""
    busy = Busy(detail="There is nothing new.", retry_after=timedelta(seconds=SPACING))
    return Answer(id=ask.id, account=ask.account, requests=requests, busy=busy)


def answer_with(source: Source, ask: Ask, clock: Clock) -> Answer:
    """Poll the source and return the answer to an ask; bounded, never raises, runs in a worker thread."""
    try:
        result = source.poll(ask.account or "", clock, may_retry=False)
    except Exception as fault:  # noqa: BLE001 - a worker must always report; the text could hold outside data
        sentence = f"The usage could not be read ({type(fault).__name__}); update this program."
        return Answer(id=ask.id, account=ask.account, requests=1, error=InvalidResponse(sentence))
    requests = min(result.requests, MAX_REQUESTS)
    if result.reading is not None:
        return Answer(id=ask.id, account=ask.account, requests=requests, login=result.login, reading=result.reading)
    if isinstance(result.error, ApiError | CredentialsError):
        return Answer(id=ask.id, account=ask.account, requests=requests, error=result.error)
    return nothing_new(ask, requests)
