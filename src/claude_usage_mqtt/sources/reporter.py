"""Reporters as a source: a poll asks one machine after another, each with a bounded wait, until one has the reading.

`poll` runs in a worker thread. It sends through a function that it was given, and the thread that receives messages
hands over the answers; the registry gets what is learned about the machines.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import ApiError, CredentialsError, InvalidResponse, NetworkError, NoReporter
from claude_usage_mqtt.sources.account_reporters import AccountReporters
from claude_usage_mqtt.sources.in_order import UNUSABLE
from claude_usage_mqtt.sources.reading_json import Busy
from claude_usage_mqtt.sources.reporter_machines import SILENT, Hold
from claude_usage_mqtt.sources.reporter_messages import Answer, Ask, encode_ask
from claude_usage_mqtt.sources.source import Login, PolledSource, PollResult
from claude_usage_mqtt.usage.reading import REPORTER

ANSWER_WITHIN = 40.0
"""Real seconds for an answer: Claude Code may need 25, and a request to the API is cut at 20."""

ALL_WITHIN = 52.0
"""Real seconds for all machines together: the service gives up on a source that takes longer than a minute."""

FIRST_WITHIN = 4.0
"""Real seconds that the first poll waits for a machine to announce itself: after a start they appear one by one."""

MAX_ASKED = 4
"""Machines asked in one poll, including those that refuse at once; at most two that make a request."""

HOLD_SILENT = timedelta(minutes=5)
"""A machine that did not answer is left alone for this long: it sleeps, and its last will is still to come."""

HOLD_REFUSED = timedelta(hours=1)
"""A machine whose login is refused is left alone for this long, unless it announces another login."""

SILENCE = Answer(id="", requests=1)
"""Represents an answer that did not come: a request may have been made anyway."""

MAX_RECENT = 200
"""Ids of asks that are remembered: an answer that came too late was counted as a request already."""


class Asks:
    """The asks that wait for their answers; safe from any thread."""

    def __init__(self, send: Callable[[str, bytes], None]) -> None:
        self._send = send
        self._pending: dict[str, tuple[str, queue.Queue[Answer]]] = {}
        self._recent: deque[str] = deque(maxlen=MAX_RECENT)
        self._lock = threading.Lock()

    def ask(self, machine: str, account: str, within: float) -> Answer:
        """Ask a machine and return its answer, `SILENCE` if none came within this many real seconds."""
        identifier = secrets.token_hex(8)
        answers: queue.Queue[Answer] = queue.Queue(maxsize=1)
        with self._lock:
            self._pending[identifier] = machine, answers
            self._recent.append(identifier)
        try:
            self._send(machine, encode_ask(Ask(id=identifier, account=account)))
            return answers.get(timeout=within)
        except queue.Empty:
            return SILENCE
        finally:
            with self._lock:
                del self._pending[identifier]

    def give_up(self, machine: str) -> None:
        """End the waits for a machine that is away: its answer will not come."""
        with self._lock:
            for asked, answers in self._pending.values():
                if asked == machine and not answers.full():
                    answers.put_nowait(SILENCE)

    def deliver(self, machine: str, answer: Answer) -> bool:
        """Hand over an answer; return False if somebody else asked for it."""
        with self._lock:
            asked, answers = self._pending.get(answer.id, (None, None))
            if answers is not None and asked == machine and not answers.full():
                answers.put_nowait(answer)
            return answer.id in self._recent


class ReporterSource(PolledSource):
    """The reporters of one account. Nothing is known here of their logins: each announces a login that changed."""

    name = REPORTER
    lacks = ""
    is_local = False
    can_be_watched = False
    outlives_token = True
    place = "a reporter"

    def __init__(self, reporters: AccountReporters, asks: Asks) -> None:
        self._reporters = reporters
        self._asks = asks
        self._has_polled = False
        self._last_error: ApiError | CredentialsError | None = None

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        """Ask the machines in order; with `may_retry` a second one after one that may have made a request.

        If one only refused because of its own limit, there is nothing new, and nothing wrong.
        """
        within = 0.0 if self._has_polled else FIRST_WITHIN
        self._has_polled = True
        if not self._reporters.wait_for_one(clock.now(), within):
            return PollResult(account=account, source=self.name, error=self._none(clock.now()))
        return self._ask_in_order(account, clock, 2 if may_retry else 1)

    def _ask_in_order(self, account: str, clock: Clock, allowed: int) -> PollResult:
        until, requests, is_busy = time.monotonic() + ALL_WITHIN, 0, False
        error: ApiError | CredentialsError | None = None
        for machine in self._reporters.to_ask(clock.now())[:MAX_ASKED]:
            within = min(ANSWER_WITHIN, until - time.monotonic())
            if requests >= allowed or within <= 0:
                break
            asked_at = clock.now()
            answer = self._asks.ask(machine, account, within)
            now = clock.now()
            requests += answer.requests
            if answer.reading is not None:
                if self._reporters.accepts(machine, answer.login or Login(), now):
                    return PollResult(
                        account=account, source=self.name, reading=answer.reading, requests=requests, login=answer.login
                    )
                continue
            is_busy = is_busy or isinstance(answer.error, Busy)
            if answer.error is not None and not isinstance(answer.error, (*UNUSABLE, Busy)):
                error = answer.error
            hold = _hold(answer, now)
            if hold is None:
                break
            self._reporters.rejected(machine, hold, asked_at)
        self._last_error = error
        if error is None and not is_busy:
            error = self._none(clock.now())
        return PollResult(account=account, source=self.name, error=error, requests=requests)

    def _none(self, now: datetime) -> ApiError | CredentialsError | None:
        """Return why no machine can be asked, None if one has just asked.

        For machines that are only waiting after an error of the API, that error is still the reason.
        """
        if self._reporters.is_waiting(now):
            return None
        if self._last_error is not None and self._reporters.all_have(self._last_error.status, now):
            return self._last_error
        sentence = self._reporters.why_none(now)
        return None if sentence is None else NoReporter(sentence)


def _hold(answer: Answer, now: datetime) -> Hold | None:
    """Return why a machine had no reading and until when it is left alone; None if all would answer the same."""
    if answer.error is None:
        return Hold(SILENT, now + HOLD_SILENT)
    if isinstance(answer.error, Busy):
        return Hold(Busy.status, now + min(answer.error.retry_after or HOLD_SILENT, HOLD_REFUSED))
    if isinstance(answer.error, UNUSABLE):
        return Hold(answer.error.status, now + HOLD_REFUSED)
    if isinstance(answer.error, NetworkError | InvalidResponse):
        return Hold(answer.error.status, now + HOLD_SILENT)
    return None
