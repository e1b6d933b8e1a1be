"""Keeps on the broker what should be retained there: a map of topics to payloads; and delivers events.

Nothing is queued for a broker that is away: on each connection the newest of everything retained is sent again from the
map. Every method is for the loop's thread; the connector's thread and paho's only `notify` the loop.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable

from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import (
    Acknowledged,
    Connected,
    ConnectionEvent,
    Disconnected,
    Settled,
    Subscribed,
)
from claude_usage_mqtt.mqtt.connection_log import ConnectionLog
from claude_usage_mqtt.mqtt.connector import Connector
from claude_usage_mqtt.mqtt.delivery import Delivery
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.restrictions import FOR_GOOD, Restrictions

STOP_PATIENCE = 1.2
"""Real seconds for the last messages; stopping takes at most about twice as long."""

MAX_EVENTS = 500
"""Events that wait for the broker, enough for weeks; the oldest are dropped."""

OWN_KEPT = 64
"""Payloads remembered per topic (their hashes): our late echo must not be mistaken for another instance's message."""


class Publisher:
    """The program's connection to the broker, over all reconnects."""

    def __init__(
        self,
        options: BrokerOptions,
        *,
        will: Message,
        notify: Callable[[ConnectionEvent], None],
        announcements: str = "",
    ) -> None:
        """Prepare; `announcements` is the prefix of topics whose messages are verified, and may be suspended."""
        self._connector = Connector(options, notify, will)
        self._will = will
        self._log = ConnectionLog(options.address)
        self._restrictions = Restrictions(announcements)
        self._delivery: Delivery | None = None  # over the connection that the loop knows of
        self._retained: dict[str, bytes] = {}  # empty: remove the topic
        self._own: dict[str, deque[int]] = {}
        self._events: deque[Message] = deque(maxlen=MAX_EVENTS)

    def start(self) -> None:
        """Connect repeatedly."""
        self._connector.start()

    def is_alive(self) -> bool:
        """Whether the thread that connects is running."""
        return self._connector.is_alive()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as the loop knows."""
        return self._delivery is not None

    # What happened

    def handle(self, event: Connected | Disconnected | Acknowledged | Subscribed | Settled) -> None:
        """Process an event of the connection; the loop passes on events in the order of arrival."""
        delivery = self._delivery
        match event:
            case Connected(client=client, max_packet=max_packet):
                self._log.connected(event)
                self._delivery = Delivery(client, max_packet)
            case Disconnected():
                self._log.disconnected(event)
                if delivery is not None:
                    self._disconnected(delivery)
            case _ if delivery is None:
                return
            case Acknowledged(mid=mid, refusal=refusal):
                message = delivery.acknowledged(mid)
                if message is not None:
                    self._answered(delivery, message, refusal)
                self._send_waiting(delivery)
            case Subscribed(mid=mid, refused=refused):
                self._restrictions.not_subscribed(delivery.subscriptions.refused(mid, refused))
            case Settled():
                self._log.settled()
                delivery.subscriptions.is_settled = True
                self._restrictions.settled(delivery.subscriptions.unverified)

    def _disconnected(self, delivery: Delivery) -> None:
        open_topics = [*delivery.subscriptions.unverified, *(message.topic for message in delivery.under_way.values())]
        # An earlier message may be unconfirmed too: the broker may have disconnected before it confirmed that one.
        suspect = next(filter(self._restrictions.is_announcement, open_topics), None)
        if suspect is not None:
            self._restrictions.disconnected_at(suspect, len(self._retained.get(suspect, b"")))
        self._delivery = None

    def _answered(self, delivery: Delivery, message: Message, refusal: str | None) -> None:
        topic = message.topic
        is_removal = message.retain and not message.payload
        if is_removal and topic not in delivery.busy and not self._retained.get(topic):
            self._retained.pop(topic, None)
        if not message.retain and message in self._events:
            self._events.remove(message)
        if refusal is not None:
            self._restrictions.refused(topic, refusal)
            if refusal not in FOR_GOOD:
                delivery.sent.pop(topic, None)  # the broker has a temporary problem: the next change is sent again
        elif (
            message.retain
            and not is_removal
            and delivery.subscriptions.must_verify
            and self._restrictions.is_announcement(topic)
        ):
            delivery.subscriptions.verify(topic)
        else:
            self._restrictions.delivered(topic)

    def takes(self, message: Message) -> bool:
        """Whether a message arrived only for its verification."""
        unverified = {} if self._delivery is None else self._delivery.subscriptions.unverified
        if message.topic not in unverified:
            return False
        if self.has_sent(message):
            del unverified[message.topic]
            self.unsubscribe([message.topic])
            self._restrictions.delivered(message.topic)
        return True

    # What is to be published

    def retain(self, topic: str, payload: bytes, *, again: bool = False) -> None:
        """Keep `payload` retained under `topic`; an empty one removes the topic. `again`: send it even if unchanged."""
        self._retained.pop(topic, None)
        self._retained[topic] = payload  # at the end: `send_all` keeps the order of the latest calls
        if self._delivery is None:
            return
        if again:
            self._delivery.sent.pop(topic, None)
        if topic in self._delivery.busy or self._delivery.sent.get(topic) != payload:
            self._delivery.waiting.pop(topic, None)  # at the end: its new content may depend on what came before
            self._delivery.waiting[topic] = None
            self._send_waiting(self._delivery)

    def republish(self, topic: str) -> None:
        """Send again what should be retained under `topic`: somebody overwrote it."""
        self.retain(topic, self._retained.get(topic, b""), again=True)

    def send_event(self, topic: str, payload: bytes) -> None:
        """Deliver an event: now, or when the broker is back, until the broker acknowledges it."""
        message = Message(topic=topic, payload=payload)
        self._events.append(message)
        self.publish(message)

    def send_all(self) -> None:
        """Send everything again: waiting events, removals, retained messages, the will's topic."""
        if self._delivery is None:
            return
        self._delivery.sent.clear()
        self._delivery.waiting.clear()
        under_way = set(self._delivery.under_way.values())
        for event in [event for event in self._events if event not in under_way]:
            self.publish(event)
        retained = [Message(topic=topic, payload=payload, retain=True) for topic, payload in self._retained.items()]
        for message in sorted(retained, key=lambda message: (bool(message.payload), message.topic == self._will.topic)):
            self.publish(message)

    def _send_waiting(self, delivery: Delivery) -> None:
        """Send what waits, in order, one message per topic at a time: a slow broker gets only the newest."""
        for topic in list(delivery.waiting):
            if topic in delivery.busy:
                return
            del delivery.waiting[topic]
            payload = self._retained.get(topic, b"")
            if delivery.sent.get(topic) != payload:
                self.publish(Message(topic=topic, payload=payload, retain=True))

    def publish(self, message: Message) -> None:
        """Send a message if there is a connection and it may be sent, otherwise forget it."""
        if self._delivery is None or not self._restrictions.allow(message, self._delivery.max_packet):
            return
        # If it is slower than we send, the message is skipped; the next connection, or the next change, sends it.
        if self._delivery.publish(message) and message.retain:
            self.remember_own(message.topic, message.payload)

    # What others have published

    def remember_own(self, topic: str, payload: bytes) -> None:
        """Note a message as one of ours; what `publish` sends to be retained is noted there."""
        self._own.setdefault(topic, deque(maxlen=OWN_KEPT)).append(hash(payload))

    def has_sent(self, message: Message) -> bool:
        """Whether an incoming message is one of the last that we sent there ourselves."""
        return hash(message.payload) in self._own.get(message.topic, ())

    def subscribe(self, filters: Iterable[str], *, no_local: bool = False) -> None:
        """Subscribe to topics; the answer arrives as Subscribed."""
        if self._delivery is not None:
            self._delivery.subscriptions.subscribe(filters, no_local=no_local)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Unsubscribe from topics."""
        if self._delivery is not None:
            self._delivery.subscriptions.unsubscribe(topics)

    def stop(self, last: Message | None) -> None:
        """Deliver the `last` message, disconnect and end."""
        self._connector.stopping.set()
        if self._delivery is not None and last is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                self._delivery.client.send(last).wait_for_publish(STOP_PATIENCE)
        self._delivery = None
        self._connector.stop(STOP_PATIENCE / 2)
