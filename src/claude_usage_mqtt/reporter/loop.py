"""The reporter: announces itself, waits for asks, answers each with one reading or a reason.

One loop, as in the service: paho's thread, signal handlers and workers only put things into its inbox.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from claude_usage_mqtt import __version__
from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import CredentialsNotFound, SettingsError
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import (
    Acknowledged,
    Connected,
    ConnectionEvent,
    Disconnected,
    Settled,
    Subscribed,
)
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.reporter.answer import answer_with
from claude_usage_mqtt.reporter.budget import Budget
from claude_usage_mqtt.reporter.limit import REQUESTS_PER_HOUR, SeenIds
from claude_usage_mqtt.reporter.logins import LoginsSeen, watch_logins
from claude_usage_mqtt.service.connection_log import ConnectionLog
from claude_usage_mqtt.service.inbox import Inbox, Stop
from claude_usage_mqtt.service.liveness import Liveness
from claude_usage_mqtt.sources.reporter_messages import (
    OFFLINE,
    AnnouncedLogin,
    Answer,
    Ask,
    Busy,
    Presence,
    encode_answer,
    encode_ask,
    encode_presence,
    parse_answer,
    parse_ask,
    parse_presence,
)
from claude_usage_mqtt.sources.source import Source
from claude_usage_mqtt.topics import ReporterTopics

log = logging.getLogger(__name__)

NAME_CHECK = 2.0
"""Real seconds in which another reporter of the same name would answer."""

MOST_LOST = 2
"""Connections that may end during the name check before it is left out: our login may not be allowed to write there."""

BOTH_NEW = 5.0
"""Real seconds after the first announcement in which another one of the same name has just started, too: both have
asked before either could answer."""

REASSERT_AFTER = 10.0
"""Real seconds between announcements that correct somebody else's: two of one name must not make a storm."""

ECHO = 5.0
"""Real seconds in which an older announcement of ours may still come back."""

SLEPT = 30.0
"""Seconds without a turn of the loop after which the machine was asleep: what was sent to it meanwhile is old."""

DEAF_FOR = 2.0
"""Real seconds after that in which asks are ignored: they come out of buffers."""

HOLD = 5.0
"""Seconds that an ask may wait for its turn instead of being refused."""

MAX_WORKERS = 4

STOP_PATIENCE = 1.2
"""Real seconds for the last message; stopping takes at most about twice that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterOptions:
    """What the settings say; `newest_cache` returns the age of Claude Code's own cached numbers of an account."""

    broker: BrokerOptions
    base_topic: str
    machine: str
    sources: Mapping[str, Source]
    limited: bool = True
    newest_cache: Callable[[str], timedelta | None] = field(default=lambda _account: None)


class _Answered(NamedTuple):
    """A worker's result: the answer to an ask."""

    account: str
    answer: Answer


class Reporter:
    """Answers for some accounts until it is stopped."""

    def __init__(self, options: ReporterOptions, clock: Clock, rng: random.Random | None = None) -> None:
        self._options = options
        self._clock = clock
        self._rng = rng or random.Random()
        self._topics = topics = ReporterTopics(base=options.base_topic, machine=options.machine)
        self._status = f"{options.base_topic}/status"
        self._instance = secrets.token_hex(8)
        self.inbox: Inbox[ConnectionEvent | LoginsSeen | _Answered | Stop] = Inbox()
        will = Message(topic=topics.presence, payload=OFFLINE, retain=True)
        self._publisher = Publisher(options.broker, will=will, notify=self.inbox.put)
        self._budget = Budget(options.base_topic, options.sources, clock, options.newest_cache, limited=options.limited)
        self._seen = SeenIds()
        self._busy: set[str] = set()
        self._logins: Mapping[str, AnnouncedLogin] | None = None
        self._presence = b""
        self._name_check: str | None = None  # the id of the ask that nobody may answer
        self._is_named = False
        self._has_warned = False
        self._same_name = (
            f"Another reporter named {options.machine} is running; "
            "set MACHINE_NAME to a different name here, or stop the other one."
        )
        self._lost_name_checks = 0  # connections that ended during it: some brokers hang up on what is not allowed
        self._announce_at: float | None = None
        self._announced_at = self._name_checked_at = float("-inf")
        self._first_announced_at = float("inf")
        self._own_answers: deque[bytes] = deque(maxlen=REQUESTS_PER_HOUR)
        self._turned_at = self._moment()
        self._deaf_until = 0.0
        self._connection_log = ConnectionLog(options.broker.address)
        self._liveness = Liveness(options.base_topic)
        self._look_at_logins = threading.Event()
        self._stopping = threading.Event()

    def stop(self, cause: BaseException | None = None) -> None:
        """Ask the loop to end, by raising the cause if there is one; safe from any thread and from a signal handler."""
        self.inbox.put(Stop(cause))

    def run(self) -> None:
        """Run until stopped; raises SettingsError if another reporter has the same name."""
        self._publisher.start()
        arguments = (self._options.sources, self._clock, self.inbox.put, self._look_at_logins, self._stopping)
        threading.Thread(target=watch_logins, args=arguments, name="logins", daemon=True).start()
        self._liveness.notify("READY=1")
        try:
            while True:
                self._liveness.beat(alive=self._publisher.is_alive)
                item = self.inbox.get(self._patience())
                if isinstance(item, Stop):
                    return item.obey()
                self._notice_sleep()
                if item is not None:
                    self._handle(item)
                self._tick()
        finally:
            self._stopping.set()
            self._look_at_logins.set()
            self._liveness.stop()
            last = [Message(topic=self._topics.presence, payload=b"", retain=True)] if self._is_named else []
            self._publisher.stop(last, STOP_PATIENCE)

    def _notice_sleep(self) -> None:
        """Note if the loop stood still: asks that wait then are old, and whoever sent them has given up."""
        before, self._turned_at = self._turned_at, self._moment()
        # Not every system's steady clock runs on while it sleeps, but its wall clock does.
        gap = max(now - then for now, then in zip(self._turned_at, before, strict=True))
        if self._clock.to_real(gap) > SLEPT:
            self._deaf_until = time.monotonic() + DEAF_FOR
            # The broker may not have noticed anything, but the service may have asked in vain.
            self._announce_at = self._deaf_until

    def _moment(self) -> tuple[float, float]:
        return self._clock.steady(), self._clock.now().timestamp()

    # What arrived

    def _handle(self, item: ConnectionEvent | LoginsSeen | _Answered) -> None:
        match item:
            case Connected():
                self._publisher.handle(item)
                self._connection_log.connected(item, time.monotonic())
                self._connected()
            case Disconnected():
                self._publisher.handle(item)
                self._connection_log.disconnected(item, time.monotonic())
                self._lost_name_checks += not self._is_named
            case Acknowledged() | Subscribed() | Settled():
                self._publisher.handle(item)
            case Message():
                self._received(item)
            case LoginsSeen(accounts=accounts):
                self._logins = accounts
                self._announce()
            case _Answered(account=account, answer=answer):
                self._busy.discard(account)
                self._look_at_logins.set()  # it may have been renewed, or refused
                self._send(answer)

    def _connected(self) -> None:
        topics, base = self._topics, self._options.base_topic
        self._publisher.subscribe([topics.presence, f"{base}/reporter/+/answer", self._status, *self._budget.topics])
        if self._is_named:
            self._publisher.subscribe([topics.ask])
            self._publisher.send_all(last=topics.presence)
            self._announced_at = time.monotonic()
            return
        self._name_check, self._name_checked_at = secrets.token_hex(8), time.monotonic()
        if self._lost_name_checks < MOST_LOST:
            payload = encode_ask(Ask(id=self._name_check, account=None))
            self._publisher.send_once(Message(topic=topics.ask, payload=payload))

    def _received(self, message: Message) -> None:
        topics = self._topics
        if message.topic == topics.ask:
            if not message.retain and self._is_named and time.monotonic() >= self._deaf_until:
                self._asked(message.payload)
        elif message.topic == topics.presence:
            self._somebody_announced(message)
        elif message.topic == self._status:
            if message.payload == b"online" and self._announce_at is None:
                self._announce_at = time.monotonic() + self._rng.uniform(0, 1)
        elif not self._budget.take(message) and message.topic.endswith("/answer") and not message.retain:
            self._somebody_answered(message)

    def _somebody_announced(self, message: Message) -> None:
        """Announce again if what is retained is not what we announced: an old will, a second reporter, a stranger."""
        now = time.monotonic()
        if message.payload == self._presence:
            return
        other = parse_presence(message.payload)
        is_running = other is not None and other.online and other.instance != self._instance and not message.retain
        if is_running and other is not None and self._gives_way(other, now):
            self._is_named = False  # what is retained there is the other one's
            raise SettingsError(self._same_name)
        if not self._is_named or (self._publisher.has_sent(message) and now - self._announced_at < ECHO):
            return
        if is_running and not self._has_warned:
            self._has_warned = True
            log.warning("%s", self._same_name)
        if self._announce_at is None:
            self._announce_at = max(now, self._announced_at + REASSERT_AFTER)

    def _gives_way(self, other: Presence, now: float) -> bool:
        """Whether a name belongs to another one that is running: it was there first, or both have just started."""
        if other.instance is None or now - self._first_announced_at > BOTH_NEW:
            return False
        return not self._presence or other.instance < self._instance

    def _somebody_answered(self, message: Message) -> None:
        answer = parse_answer(message.payload, self._clock.now(), "?")
        if answer is None:
            return
        if answer.id == self._name_check and message.topic == self._topics.answer and not self._is_named:
            raise SettingsError(self._same_name)
        if message.payload not in self._own_answers:
            self._budget.hear(answer)

    def _asked(self, payload: bytes) -> None:
        ask = parse_ask(payload)
        if ask is None or not self._seen.add(ask.id):
            return
        if ask.account is None:
            self._send(Answer(id=ask.id, busy=Busy(detail="This reporter is running.", retry_after=timedelta(0))))
        elif ask.account not in self._options.sources:
            names = ", ".join(list(self._options.sources)[:10])
            error = CredentialsNotFound(f"This reporter has no account {ask.account}; it has {names}.")
            self._send(Answer(id=ask.id, account=ask.account, error=error))
        else:
            self._report(ask.id, ask.account)

    def _report(self, identifier: str, account: str) -> None:
        wait = self._budget.wait(account)
        if wait > HOLD or account in self._busy or len(self._busy) >= MAX_WORKERS:
            seconds = max(wait, HOLD)
            busy = Busy(
                detail="The reporter's own limit of requests is reached.", retry_after=timedelta(seconds=seconds)
            )
            self._send(Answer(id=identifier, account=account, busy=busy))
            return
        self._budget.record(account, wait)
        self._busy.add(account)
        arguments = (identifier, account, wait)
        threading.Thread(target=self._work, args=arguments, name="worker", daemon=True).start()

    def _work(self, identifier: str, account: str, wait: float) -> None:
        """Make the one request and hand over the answer; runs in a worker thread."""
        if wait and self._stopping.wait(self._clock.to_real(wait)):
            return
        answer = answer_with(self._options.sources[account], Ask(id=identifier, account=account), self._clock)
        self.inbox.put(_Answered(account, answer))

    # What is sent

    def _send(self, answer: Answer) -> None:
        payload = encode_answer(answer, self._clock.now())
        self._own_answers.append(payload)
        self._publisher.send_once(Message(topic=self._topics.answer, payload=payload))

    def _announce(self) -> None:
        if not self._is_named or self._logins is None:
            return
        presence = Presence(online=True, instance=self._instance, accounts=self._logins, version=__version__)
        payload = encode_presence(presence)
        if payload != self._presence:
            self._presence, self._announced_at = payload, time.monotonic()
            self._first_announced_at = min(self._first_announced_at, self._announced_at)
            self._publisher.retain(self._topics.presence, payload)

    # What time brings

    def _tick(self) -> None:
        now = time.monotonic()
        self._connection_log.tick(now)
        if not self._is_named and self._name_check and now >= self._name_checked_at + NAME_CHECK:
            if self._publisher.is_connected:
                self._is_named = True
                self._publisher.subscribe([self._topics.ask])
                self._announce()
                names = ", ".join(list(self._options.sources)[:10])
                log.info(
                    "Reporting as %s at %s, accounts: %s", self._options.machine, self._options.broker.address, names
                )
            else:
                self._name_check = None  # asked again with the next connection
        if self._announce_at is not None and now >= self._announce_at:
            self._announce_at = None
            if self._presence:
                self._announced_at = now
                self._publisher.republish(self._topics.presence)

    def _patience(self) -> float:
        """Return how many real seconds may pass until something is to be done."""
        now = time.monotonic()
        moments = [at for at in (self._connection_log.steady_at, self._announce_at) if at is not None]
        if not self._is_named and self._name_check:
            moments.append(self._name_checked_at + NAME_CHECK)
        return max(0.0, min([self._liveness.patience(), *(at - now for at in moments)]))
