"""The reporter: announces itself, waits for asks, answers each with one reading or a reason.

One loop, as in the service: paho's thread, signal handlers and workers only put things into its inbox.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

from claude_usage_mqtt.clock import Clock
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
from claude_usage_mqtt.reporter.answer import Answering
from claude_usage_mqtt.reporter.budget import Budget
from claude_usage_mqtt.reporter.logins import LoginSeen, ReportedLogins
from claude_usage_mqtt.reporter.publishing import ReporterPublishing
from claude_usage_mqtt.service.inbox import Inbox, Stop
from claude_usage_mqtt.service.liveness import Liveness
from claude_usage_mqtt.service.routes import Route
from claude_usage_mqtt.sources.reporter_messages import Answer, parse_answer
from claude_usage_mqtt.sources.source import PolledSource
from claude_usage_mqtt.topics import ReporterTopics

log = logging.getLogger(__name__)

SLEPT = 30.0
"""Seconds without a turn of the loop after which the machine was asleep: what was sent to it in the meantime is old."""

IGNORE_FOR = 2.0
"""Real seconds after that in which asks are ignored: they come from buffers, and their senders have given up."""


class ReporterOptions(NamedTuple):
    """What the settings say."""

    broker: BrokerOptions
    base_topic: str
    machine: str
    sources: Mapping[str, PolledSource]
    limited: bool = True


class Reporter:
    """Answers for some accounts until it is stopped."""

    def __init__(self, options: ReporterOptions, clock: Clock) -> None:
        self.inbox: Inbox[ConnectionEvent | LoginSeen | Answer | Stop] = Inbox()
        self._options = options
        self._clock = clock
        self._turned_at = self._moment()  # when the machine was last awake
        self._ignore_until = 0.0
        topics = ReporterTopics(base=options.base_topic, machine=options.machine)
        self._publishing = ReporterPublishing(options.broker, topics, self.inbox.put)
        self._logins = ReportedLogins(options.sources, clock, self.inbox.put)
        self._budget = Budget(options.base_topic, options.sources, clock, limited=options.limited)
        self._answering = Answering(options.sources, clock, self._budget, self.inbox.put, self._publishing.answer)
        self._liveness = Liveness(options.base_topic)
        self._publishing.routes.add(self._table())

    def _table(self) -> list[Route]:
        """Return the topics and their handlers."""
        any_reporter = ReporterTopics(base=self._options.base_topic, machine="+")
        return [
            Route(self._publishing.topics.ask, self._on_ask, is_late=True),
            Route(any_reporter.answer, self._on_answer),
            *(Route(topic, self._budget.take, takes_retained=True) for topic in self._budget.topics),
        ]

    def stop(self, cause: BaseException | None = None) -> None:
        """Ask the loop to end, raising the cause if there is one; safe from any thread and from a signal handler."""
        self.inbox.put(Stop(cause))

    def run(self) -> None:
        """Run until stopped; raises SettingsError if another reporter has the same name."""
        self._publishing.publisher.start()
        self._logins.start()
        self._liveness.notify("READY=1")
        try:
            while True:
                self._liveness.beat(alive=self._publishing.publisher.is_alive())
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
            self._publishing.stop()

    # What arrived

    def _handle(self, item: ConnectionEvent | LoginSeen | Answer) -> None:
        match item:
            case Connected():
                self._ignore_until = 0.0  # nothing that was sent before reaches a new connection
                self._publishing.connected(item)
            case Disconnected():
                self._publishing.disconnected(item)
            case Acknowledged() | Subscribed() | Settled():
                self._publishing.publisher.handle(item)
            case Message():
                self._publishing.routes.handle(item, is_early=False)
            case LoginSeen():
                self._logins.take(item)
                self._publishing.announce(self._logins.announced)
            case Answer():
                self._answering.finished(item)
                self._logins.watch.look_now()  # it may have been renewed, or refused

    def _on_ask(self, message: Message) -> None:
        if self._publishing.is_named and time.monotonic() >= self._ignore_until:
            self._answering.asked(message.payload)

    def _on_answer(self, message: Message, machine: str) -> None:
        answer = parse_answer(message.payload, self._clock.now(), machine)
        if answer is None:
            return
        if machine == self._options.machine:
            self._publishing.answered(answer)
        if not self._publishing.publisher.has_sent(message):
            self._budget.note_answer(answer)

    # What time brings

    def _notice_sleep(self) -> None:
        """Ignore asks for a moment if the machine has slept since the last turn, and then announce everything again."""
        before, self._turned_at = self._turned_at, self._moment()
        # Not every system's steady clock runs on while it sleeps, but its wall clock does.
        gap = max(now - then for now, then in zip(self._turned_at, before, strict=True))
        if self._clock.to_real(gap) > SLEPT:
            # The broker may not have noticed anything, but the service may have asked in vain.
            self._publishing.announcement.due_at = self._ignore_until = time.monotonic() + IGNORE_FOR

    def _moment(self) -> tuple[float, float]:
        return self._clock.steady(), self._clock.now().timestamp()

    def _tick(self) -> None:
        is_named, hangs = self._publishing.tick(), self._logins.note_hanging()
        if is_named or hangs:
            self._publishing.announce(self._logins.announced)
        if is_named:
            options, names = self._options, ", ".join(list(self._options.sources)[:10])
            log.info("Reporting as %s at %s, accounts: %s", options.machine, options.broker.address, names)

    def _patience(self) -> float:
        """Return how many real seconds may pass before something has to be done."""
        now = time.monotonic()
        return max(0.0, min([self._liveness.patience(), *(at - now for at in self._publishing.moments())]))
