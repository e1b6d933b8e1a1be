"""The service's presence on the broker: its subscriptions, whether it publishes yet, when it sends everything again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Connected, ConnectionEvent
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.service.former_devices import FormerDevices
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.routes import Route, Routes
from claude_usage_mqtt.topics import OFFLINE, ONLINE

log = logging.getLogger(__name__)

SETTLED_AFTER = 15.0
"""Seconds from a connection, or from Home Assistant's birth message, until listeners get an event: Node-RED was seen to
subscribe one second after the broker was back, Home Assistant six."""

RESEND_AFTER_DISCOVERY = 1.0
"""Real seconds: an entity whose announcement has changed is unavailable in Home Assistant until its next message."""


class Publishing:
    """Owns the publisher and the table of routes; all its instants are real seconds of `time.monotonic`."""

    def __init__(
        self, options: ServiceOptions, clock: Clock, rng: random.Random, notify: Callable[[ConnectionEvent], None]
    ) -> None:
        self._status = options.first.topics.status
        self._will = Message(topic=self._status, payload=OFFLINE, retain=True)
        devices = f"{options.first.topics.prefix}/device/"
        self.publisher = Publisher(options.broker, will=self._will, notify=notify, announcements=devices)
        self.routes = Routes(
            [
                Route(self._status, self._on_status),
                Route(options.status_topic, self._on_home_assistant, is_early=True, takes_retained=True),
            ]
        )
        self.is_begun = False
        self.is_home_assistant_online = False
        """Not before its birth message."""
        self._to_real = clock.to_real
        self._settled_at: float | None = None  # when the wait for listeners of events ends, if there is one
        self._rng = rng
        self._resend_at: float | None = None

    @property
    def may_deliver(self) -> bool:
        """Whether events reach their listeners: there is a connection, and the listeners are back."""
        return self.publisher.is_connected and self._settled_at is None

    def connected(self, event: Connected, topics: Iterable[str]) -> None:
        """Subscribe to what the routes name, and to `topics`; send everything again."""
        now = time.monotonic()
        self.publisher.handle(event)
        self.is_home_assistant_online = False
        self._settled_at = now + self._to_real(SETTLED_AFTER)
        self.publisher.subscribe([*self.routes.topics(), *topics])
        if self.is_begun:
            self._subscribe_late()
            self.publisher.send_all()

    def begin(self, former: FormerDevices) -> None:
        """Publish from now on; remains of former devices are removed."""
        self.is_begun = True
        self._remove(former.gone)

        def on_former_device(message: Message) -> None:
            self._remove(former.found(message))

        self.routes.add(Route(topic, on_former_device, takes_retained=True) for topic in former.suspects)
        self.publisher.subscribe(former.suspects)
        self._subscribe_late()

    def stop(self) -> None:
        """Publish that it is offline, and disconnect."""
        self.publisher.stop(self._will if self.is_begun else None)

    # Handlers of topics

    def _on_status(self, message: Message) -> None:
        """Correct somebody else's offline message, or our own late will: while we run, we are online."""
        if message.payload != ONLINE:
            self.publisher.republish(self._status)

    def _on_home_assistant(self, message: Message) -> None:
        now, self.is_home_assistant_online = time.monotonic(), message.payload == ONLINE
        if self.is_home_assistant_online:
            self._settled_at = now + self._to_real(SETTLED_AFTER)
            if self.is_begun:
                self._resend_at = now + self._rng.uniform(1, 10)

    def _remove(self, topics: Iterable[str]) -> None:
        for topic in topics:
            log.info("Removing %s: the settings no longer have an account or device for it.", topic)
            self.publisher.retain(topic, b"")

    def _subscribe_late(self) -> None:
        self.publisher.subscribe(self.routes.topics(late=True), no_local=True)

    # What time brings

    def resend_after_discovery(self) -> None:
        """Send everything again once Home Assistant has read a discovery message."""
        self._resend_at = time.monotonic() + RESEND_AFTER_DISCOVERY

    def tick(self) -> bool:
        """Do what is due; return whether the wait for listeners of events ends now."""
        now = time.monotonic()
        if self._resend_at is not None and now >= self._resend_at:
            self._resend_at = None
            self.publisher.send_all()
        have_settled = self._settled_at is not None and now >= self._settled_at
        if have_settled:
            self._settled_at = None
        return have_settled

    def moments(self) -> list[float]:
        """Return when something is due."""
        moments = (self._resend_at, self._settled_at)
        return [moment for moment in moments if moment is not None]
