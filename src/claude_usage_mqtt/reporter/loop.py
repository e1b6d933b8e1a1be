"""The reporter: announces itself, waits for asks, answers each with one reading or a reason.

One loop, as in the service: paho's thread, signal handlers and workers only put things into its inbox.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import SettingsError
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
from claude_usage_mqtt.reporter.announcement import Announcement
from claude_usage_mqtt.reporter.answer import Answered, Answering
from claude_usage_mqtt.reporter.budget import Budget
from claude_usage_mqtt.reporter.limit import REQUESTS_PER_HOUR
from claude_usage_mqtt.reporter.logins import LocalLogins, LoginSeen
from claude_usage_mqtt.reporter.name_check import NameCheck
from claude_usage_mqtt.service.connection_log import ConnectionLog
from claude_usage_mqtt.service.inbox import Inbox, Stop
from claude_usage_mqtt.service.liveness import Liveness
from claude_usage_mqtt.service.routes import Route, Routes
from claude_usage_mqtt.sources.reporter_messages import (
    OFFLINE,
    Answer,
    encode_answer,
    encode_ask,
    parse_answer,
)
from claude_usage_mqtt.sources.source import Source
from claude_usage_mqtt.topics import ONLINE, ReporterTopics

log = logging.getLogger(__name__)

SLEPT = 30.0
"""Seconds without a turn of the loop after which the machine was asleep: what was sent to it meanwhile is old."""

DEAF_FOR = 2.0
"""Real seconds after that in which asks are ignored: they come out of buffers."""

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


class Reporter:
    """Answers for some accounts until it is stopped."""

    def __init__(self, options: ReporterOptions, clock: Clock, rng: random.Random | None = None) -> None:
        self._options = options
        self._clock = clock
        self._rng = rng or random.Random()
        self._topics = ReporterTopics(base=options.base_topic, machine=options.machine)
        self.inbox: Inbox[ConnectionEvent | LoginSeen | Answered | Stop] = Inbox()
        will = Message(topic=self._topics.presence, payload=OFFLINE, retain=True)
        self._publisher = Publisher(options.broker, will=will, notify=self.inbox.put)
        self._budget = Budget(options.base_topic, options.sources, clock, limited=options.limited)
        self._answering = Answering(options.sources, clock, self._budget, options.newest_cache, self.inbox.put)
        self._own_answers: deque[bytes] = deque(maxlen=REQUESTS_PER_HOUR)
        self._name_check = NameCheck(options.machine)
        self._announcement = Announcement(self._topics, self._publisher)
        self._logins = LocalLogins(options.sources, clock, self.inbox.put)
        self._routes = Routes(self._table())
        self._turned_at = self._moment()
        self._deaf_until = 0.0
        self._connection_log = ConnectionLog(options.broker.address)
        self._liveness = Liveness(options.base_topic)

    def _table(self) -> list[Route]:
        """Return the topics and their handlers."""
        any_reporter = ReporterTopics(base=self._options.base_topic, machine="+")
        return [
            Route(self._topics.ask, self._on_ask, is_late=True),
            Route(self._topics.presence, self._on_presence, takes_retained=True),
            Route(any_reporter.answer, self._on_answer),
            Route(f"{self._options.base_topic}/status", self._on_service, takes_retained=True),
            *(Route(topic, self._budget.take, takes_retained=True) for topic in self._budget.topics),
        ]

    def stop(self, cause: BaseException | None = None) -> None:
        """Ask the loop to end, by raising the cause if there is one; safe from any thread and from a signal handler."""
        self.inbox.put(Stop(cause))

    def run(self) -> None:
        """Run until stopped; raises SettingsError if another reporter has the same name."""
        self._publisher.start()
        self._logins.start()
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
            self._logins.watch.stop()
            self._answering.stop()
            self._liveness.stop()
            last = Message(topic=self._topics.presence, payload=b"", retain=True)
            self._publisher.stop([last] if self._name_check.is_passed else [], STOP_PATIENCE)

    def _notice_sleep(self) -> None:
        """Notice that the machine slept: asks that were waiting are old, and whoever sent them has given up."""
        before, self._turned_at = self._turned_at, self._moment()
        # Not every system's steady clock runs on while it sleeps, but its wall clock does.
        gap = max(now - then for now, then in zip(self._turned_at, before, strict=True))
        if self._clock.to_real(gap) > SLEPT:
            self._deaf_until = time.monotonic() + DEAF_FOR
            # The broker may not have noticed anything, but the service may have asked in vain.
            self._announcement.due_at = self._deaf_until

    def _moment(self) -> tuple[float, float]:
        return self._clock.steady(), self._clock.now().timestamp()

    # What arrived

    def _handle(self, item: ConnectionEvent | LoginSeen | Answered) -> None:
        match item:
            case Connected():
                self._publisher.handle(item)
                self._connection_log.connected(item, time.monotonic())
                self._connected()
            case Disconnected():
                self._publisher.handle(item)
                self._connection_log.disconnected(item, time.monotonic())
                self._name_check.disconnected()
            case Acknowledged() | Subscribed() | Settled():
                self._publisher.handle(item)
            case Message():
                self._routes.handle(item, is_early=False)
            case LoginSeen():
                self._logins.take(item)
                self._announce()
            case Answered(answer=answer):
                self._answering.finished(item)
                self._logins.watch.look_now()  # it may have been renewed, or refused
                self._send(answer)

    def _connected(self) -> None:
        self._deaf_until = 0.0  # nothing that was sent before reaches a new connection
        self._publisher.subscribe(self._routes.topics())
        ask = self._name_check.connected(time.monotonic())
        if self._name_check.is_passed:
            self._publisher.subscribe(self._routes.topics(late=True))
            self._announcement.connected()
        elif ask is not None:
            self._publisher.publish(Message(topic=self._topics.ask, payload=encode_ask(ask)))

    def _on_ask(self, message: Message) -> None:
        if self._name_check.is_passed and time.monotonic() >= self._deaf_until:
            answer = self._answering.asked(message.payload)
            if answer is not None:
                self._send(answer)

    def _on_presence(self, message: Message) -> None:
        try:
            self._announcement.seen(message, is_named=self._name_check.is_passed)
        except SettingsError:
            self._name_check.is_passed = False  # what is retained there is the other one's
            raise

    def _on_service(self, message: Message) -> None:
        if message.payload == ONLINE:
            self._announcement.plan(time.monotonic() + self._rng.uniform(0, 1))

    def _on_answer(self, message: Message, machine: str) -> None:
        answer = parse_answer(message.payload, self._clock.now(), "?")
        if answer is None:
            return
        if machine == self._options.machine:
            self._name_check.answered(answer.id)
        if message.payload not in self._own_answers:
            self._budget.hear(answer)

    # What is sent

    def _send(self, answer: Answer) -> None:
        payload = encode_answer(answer, self._clock.now())
        self._own_answers.append(payload)
        self._publisher.publish(Message(topic=self._topics.answer, payload=payload))

    def _announce(self) -> None:
        if self._name_check.is_passed:
            self._announcement.update(self._logins.announced)

    # What time brings

    def _tick(self) -> None:
        now = time.monotonic()
        self._connection_log.tick(now)
        if self._name_check.passes(now, is_connected=self._publisher.is_connected):
            self._publisher.subscribe(self._routes.topics(late=True))
            self._announce()
            options, names = self._options, ", ".join(list(self._options.sources)[:10])
            log.info("Reporting as %s at %s, accounts: %s", options.machine, options.broker.address, names)
        if self._logins.note_hanging():
            self._announce()
        self._announcement.tick(now)

    def _patience(self) -> float:
        """Return how many real seconds may pass until something is to be done."""
        now = time.monotonic()
        moments = (self._connection_log.steady_at, self._announcement.due_at, self._name_check.ends_at)
        return max(0.0, min([self._liveness.patience(), *(at - now for at in moments if at is not None)]))
