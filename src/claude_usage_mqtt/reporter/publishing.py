"""The reporter's presence on the broker: its connection, its name, and what it announces once the name is its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Connected, ConnectionEvent, Disconnected
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.reporter.announcement import Announcement
from claude_usage_mqtt.reporter.name_check import NameCheck
from claude_usage_mqtt.service.routes import Route, Routes
from claude_usage_mqtt.sources.reporter_messages import OFFLINE, AnnouncedLogin, encode_ask
from claude_usage_mqtt.topics import ONLINE, ReporterTopics


class Publishing:
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
        self.name_check = NameCheck(topics.machine)
        self.announcement = Announcement(topics, self.publisher)

    def connected(self, event: Connected) -> None:
        """Subscribe; announce everything again, or check the name first."""
        self.publisher.handle(event)
        self.publisher.subscribe(self.routes.topics())
        ask = self.name_check.connected(time.monotonic())
        if self.name_check.is_passed:
            self.publisher.subscribe(self.routes.topics(late=True))
            self.announcement.connected()
        elif ask is not None:
            self.publisher.publish(Message(topic=self.topics.ask, payload=encode_ask(ask)))

    def disconnected(self, event: Disconnected) -> None:
        """Note that there is no connection."""
        self.publisher.handle(event)
        self.name_check.disconnected()

    def announce(self, accounts: Mapping[str, AnnouncedLogin]) -> None:
        """Announce these logins, if the name is ours."""
        if self.name_check.is_passed:
            self.announcement.update(accounts)

    def answer(self, payload: bytes) -> None:
        """Send an answer."""
        self.publisher.remember_own(self.topics.answer, payload)
        self.publisher.publish(Message(topic=self.topics.answer, payload=payload))

    def stop(self) -> None:
        """Remove the announcement, and disconnect."""
        last = Message(topic=self.topics.presence, payload=b"", retain=True)
        self.publisher.stop(last if self.name_check.is_passed else None)

    # Handlers of topics

    def _on_presence(self, message: Message) -> None:
        try:
            self.announcement.seen(message, is_named=self.name_check.is_passed)
        except SettingsError:
            self.name_check.is_passed = False  # what is retained there is the other one's
            raise

    def _on_service(self, message: Message) -> None:
        if message.payload == ONLINE:
            self.announcement.plan(time.monotonic() + random.uniform(0, 1))

    # What time brings

    def tick(self) -> bool:
        """Do what is due; return whether the name is ours from now on."""
        now = time.monotonic()
        self.announcement.tick(now)
        is_named = self.name_check.passes(now, is_connected=self.publisher.is_connected)
        if is_named:
            self.publisher.subscribe(self.routes.topics(late=True))
        return is_named

    def moments(self) -> list[float]:
        """Return when something is due."""
        moments = (self.announcement.due_at, self.name_check.ends_at)
        return [moment for moment in moments if moment is not None]
