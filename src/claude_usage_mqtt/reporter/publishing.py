"""The reporter's presence on the broker: its connection, its name, and what it announces once it owns the name.

Before anything is announced, an ask is sent that nobody should answer: a reporter that does has our name.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Connected, ConnectionEvent, Disconnected
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.reporter.announcement import Announcement, same_name
from claude_usage_mqtt.service.routes import Route, Routes
from claude_usage_mqtt.sources.reporter_messages import OFFLINE, AnnouncedLogin, Answer, Ask, encode_ask
from claude_usage_mqtt.topics import ONLINE, ReporterTopics

NAME_CHECK = 2.0
"""Real seconds in which another reporter of the same name would answer."""

MOST_LOST = 2
"""Connections that may end during the name check before it is skipped: our login may not be allowed to write there."""


class ReporterPublishing:
    """Owns the publisher and the table of routes; all its instants are real seconds of `time.monotonic`."""

    def __init__(
        self, broker: BrokerOptions, topics: ReporterTopics, notify: Callable[[ConnectionEvent], None]
    ) -> None:
        self.topics = topics
        will = Message(topic=topics.presence, payload=OFFLINE, retain=True)
        self.publisher = Publisher(broker, will=will, notify=notify)
        self.routes = Routes(
            [
                Route(topics.presence, self._on_presence, takes_retained=True),
                Route(f"{topics.base}/status", self._on_service, takes_retained=True),
            ]
        )
        self.is_named = False
        """Whether the name is ours: until then, each new connection checks it again."""
        self._name_ask: str | None = None
        self._named_at: float | None = None  # when the wait for an answer is over
        self._lost = 0
        self.announcement = Announcement(topics, self.publisher)

    def connected(self, event: Connected) -> None:
        """Subscribe; announce everything again, or check the name first."""
        self.publisher.handle(event)
        self.publisher.subscribe(self.routes.topics())
        if self.is_named:
            self.publisher.subscribe(self.routes.topics(late=True))
            self.announcement.connected()
            return
        self._name_ask, self._named_at = secrets.token_hex(8), time.monotonic() + NAME_CHECK
        if self._lost < MOST_LOST:
            ask = Ask(id=self._name_ask, account=None)
            self.publisher.publish(Message(topic=self.topics.ask, payload=encode_ask(ask)))

    def disconnected(self, event: Disconnected) -> None:
        """Note that there is no connection."""
        self.publisher.handle(event)
        self._lost += not self.is_named  # some brokers disconnect a client that sends what is not allowed

    def announce(self, accounts: Mapping[str, AnnouncedLogin]) -> None:
        """Announce these logins, if the name is ours."""
        if self.is_named:
            self.announcement.update(accounts)

    def answered(self, answer: Answer) -> None:
        """Note an answer under our name; raises SettingsError if it is to our ask."""
        if not self.is_named and answer.id == self._name_ask:
            raise SettingsError(same_name(self.topics.machine))

    def answer(self, payload: bytes) -> None:
        """Send an answer."""
        self.publisher.remember_own(self.topics.answer, payload)
        self.publisher.publish(Message(topic=self.topics.answer, payload=payload))

    def stop(self) -> None:
        """Remove the announcement, and disconnect."""
        last = Message(topic=self.topics.presence, payload=b"", retain=True)
        self.publisher.stop(last if self.is_named else None)

    # Handlers of topics

    def _on_presence(self, message: Message) -> None:
        try:
            self.announcement.seen(message, is_named=self.is_named)
        except SettingsError:
            self.is_named = False  # the other one's announcement is retained there
            raise

    def _on_service(self, message: Message) -> None:
        if message.payload == ONLINE:
            self.announcement.plan(time.monotonic() + random.uniform(0, 1))

    # What time brings

    def tick(self) -> bool:
        """Do what is due; return whether the name is ours from now on."""
        now = time.monotonic()
        self.announcement.tick(now)
        if self._named_at is None or now < self._named_at:
            return False
        self._named_at = None  # without a connection, the check begins again with the next one
        self.is_named = self.publisher.is_connected
        if self.is_named:
            self.publisher.subscribe(self.routes.topics(late=True))
        return self.is_named

    def moments(self) -> list[float]:
        """Return when something is due."""
        moments = (self.announcement.due_at, self._named_at)
        return [moment for moment in moments if moment is not None]
