"""Keeps on the broker what should be retained there: a map of topics to payloads; and delivers events.

Nothing is queued for a broker that is away: on each connection everything retained is sent again from the map,
the newest only. Every method is for the loop's thread; the connector's thread and paho's only `notify` the loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from claude_usage_mqtt.mqtt.client import V3, V5, Client, Message
from claude_usage_mqtt.mqtt.connection import (
    Acknowledged,
    Connected,
    ConnectionEvent,
    Disconnected,
    Settled,
    Subscribed,
)
from claude_usage_mqtt.mqtt.connector import Connector
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.restrictions import FOR_GOOD, Restrictions

MAX_EVENTS = 500
"""Events that wait for the broker; the oldest are dropped, weeks of them would fit."""

OWN_KEPT = 64
"""Payloads remembered per topic (their hashes): our own late echo must not be taken for another instance's message."""

FILTERS_PER_SUBSCRIBE = 50


class Publisher:
    """The program's side of the broker."""

    def __init__(
        self,
        options: BrokerOptions,
        *,
        will: Message,
        notify: Callable[[ConnectionEvent], None],
        announcements: str = "",
    ) -> None:
        """Prepare; `announcements` is how topics begin whose messages are verified, and may be left out."""
        self._connector = Connector(options, will, notify)
        self._restrictions = Restrictions(announcements)
        self._client: Client | None = None  # the one that the loop was notified of
        self._max_packet: int | None = None
        self._retained: dict[str, bytes] = {}
        self._cleared: set[str] = set()
        self._own: dict[str, deque[int]] = {}
        self._events: deque[Message] = deque(maxlen=MAX_EVENTS)
        # Of this connection:
        self._sent: dict[str, bytes] = {}
        self._under_way: dict[int, Message] = {}
        self._busy: dict[str, int] = {}  # retained topic -> the message under way there
        self._waiting: dict[str, None] = {}  # retained topics to send, in this order
        self._subscribing: dict[int, list[str]] = {}
        self._unverified: dict[str, None] = {}  # announcements that were acknowledged and have not come back yet
        self._is_settled = False
        self.start = self._connector.start

    @property
    def is_connected(self) -> bool:
        """Whether the loop knows of a connection, and of no end of it."""
        return self._client is not None

    @property
    def is_alive(self) -> bool:
        """Whether the connecting thread runs: without it nothing is ever published again."""
        return self._connector.is_alive()

    # What happened

    def handle(self, notice: Connected | Disconnected | Acknowledged | Subscribed | Settled) -> None:
        """Take in what happened; the loop passes it on in the order of arrival."""
        match notice:
            case Connected(client=client, max_packet=max_packet):
                self._client, self._max_packet = client, max_packet
                self._forget_connection()
            case Disconnected():
                self._client = None
                open_topics = [*self._unverified, *(message.topic for message in self._under_way.values())]
                # What was sent before it may be open too: the broker disconnected before it could confirm that.
                suspect = next(filter(self._restrictions.is_announcement, open_topics), None)
                if suspect is not None:
                    self._restrictions.disconnected_at(suspect, len(self._retained.get(suspect, b"")))
                self._forget_connection()
            case Acknowledged(mid=mid, refusal=refusal):
                message = self._under_way.pop(mid, None)
                if message is not None:
                    self._answered(mid, message, refusal)
                self._send_waiting()
            case Subscribed(mid=mid, refused=refused):
                topics = self._subscribing.pop(mid, [])
                denied = {topic for topic, is_refused in zip(topics, refused, strict=False) if is_refused}
                if denied - self._unverified.keys():
                    self._restrictions.not_subscribed(denied - self._unverified.keys())
            case Settled():
                self._is_settled = True
                if self._unverified:
                    self._restrictions.not_retained(self._unverified)

    def _forget_connection(self) -> None:
        self._is_settled = False
        for known in (self._sent, self._under_way, self._busy, self._waiting, self._subscribing, self._unverified):
            known.clear()

    def _answered(self, mid: int, message: Message, refusal: str | None) -> None:
        topic = message.topic
        if self._busy.get(topic) == mid:
            del self._busy[topic]
            if not message.payload:
                self._cleared.discard(topic)
        if not message.retain and message in self._events:
            self._events.remove(message)
        if refusal is not None:
            self._restrictions.refused(topic, refusal)
            if refusal not in FOR_GOOD:
                self._sent.pop(topic, None)  # a passing trouble of the broker: the next change is sent again
        elif message.retain and message.payload and self._has_to_verify(topic):
            if topic not in self._unverified:
                self._unverified[topic] = None
                self.subscribe([topic])
        else:
            self._restrictions.delivered(topic)

    def _has_to_verify(self, topic: str) -> bool:
        """Whether an announcement must come back: MQTT 3.1.1 acknowledges what it discards for lack of permission."""
        is_blind = self._client is not None and self._client.protocol == V3
        return is_blind and not self._is_settled and self._restrictions.is_announcement(topic)

    def takes(self, message: Message) -> bool:
        """Whether a message arrived only because it was to be verified."""
        if message.topic not in self._unverified:
            return False
        if self.has_sent(message):
            del self._unverified[message.topic]
            self._restrictions.delivered(message.topic)
            self.unsubscribe([message.topic])
        return True

    # What is to be published

    def retain(self, topic: str, payload: bytes, *, again: bool = False) -> None:
        """Keep `payload` retained under `topic`; an empty one removes the topic. `again`: send it even if unchanged."""
        if again:
            self._sent.pop(topic, None)
        self._retained.pop(topic, None)
        if payload:
            self._retained[topic] = payload  # at the end: `send_all` keeps the order of the latest calls
            self._cleared.discard(topic)
        else:
            self._cleared.add(topic)
        if self._client is not None and (topic in self._busy or self._sent.get(topic) != payload):
            self._waiting.pop(topic, None)  # at the end: what it now says may rest on what came before it
            self._waiting[topic] = None
            self._send_waiting()

    def republish(self, topic: str) -> None:
        """Send again what should be retained under `topic`: somebody has overwritten it."""
        self.retain(topic, self._retained.get(topic, b""), again=True)

    def send(self, topic: str, payload: bytes) -> None:
        """Deliver an event: now, or when the broker is back, until it has said that it took it."""
        message = Message(topic=topic, payload=payload)
        self._events.append(message)
        self._publish(message)

    def send_once(self, message: Message) -> None:
        """Deliver a message if there is a connection, else forget it."""
        self._publish(message)

    def send_all(self, last: str) -> None:
        """Send everything again: what was removed, the events that wait, what is retained; `last` comes last."""
        self._sent.clear()
        self._waiting.clear()
        for topic in sorted(self._cleared):
            self._publish(Message(topic=topic, payload=b"", retain=True))
        waiting = set(self._under_way.values())
        for event in list(self._events):
            if event not in waiting:
                self._publish(event)
        for topic, payload in sorted(self._retained.items(), key=lambda item: item[0] == last):
            self._publish(Message(topic=topic, payload=payload, retain=True))

    def _send_waiting(self) -> None:
        """Send what waits, in order, one message a topic at a time: a slow broker gets the newest, not all of them."""
        for topic in list(self._waiting):
            if topic in self._busy:
                return
            del self._waiting[topic]
            payload = self._retained.get(topic, b"")
            if self._sent.get(topic) != payload:
                self._publish(Message(topic=topic, payload=payload, retain=True))

    def _publish(self, message: Message) -> None:
        if self._client is None or not self._restrictions.allow(message, self._max_packet):
            return
        info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        # If it is slower than we send, the message is left out; the next connection, or the next change, sends it.
        if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._under_way[info.mid] = message
            if message.retain:
                self._busy[message.topic] = info.mid
                self._sent[message.topic] = message.payload
                self.remember_own(message.topic, message.payload)

    # What others have published

    def remember_own(self, topic: str, payload: bytes) -> None:
        """Note a retained message as one of ours: an earlier run's."""
        self._own.setdefault(topic, deque(maxlen=OWN_KEPT)).append(hash(payload))

    def has_sent(self, message: Message) -> bool:
        """Whether a retained message that arrived is one of the last that we sent there ourselves."""
        return hash(message.payload) in self._own.get(message.topic, ())

    def subscribe(self, filters: Iterable[str], *, no_local: bool = False) -> None:
        """Ask for topics; the answer arrives as Subscribed."""
        client = self._client
        if client is None:
            return
        for some in _portions(filters):
            if client.protocol == V5:
                _, mid = client.subscribe([(topic, SubscribeOptions(qos=1, noLocal=no_local)) for topic in some])
            else:
                _, mid = client.subscribe([(topic, 1) for topic in some])
            self._subscribing[mid or 0] = some

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Ask no longer for topics."""
        if self._client is not None:
            for some in _portions(topics):
                self._client.unsubscribe(some)

    def stop(self, last: Iterable[Message], patience: float) -> None:
        """Deliver the `last` messages, disconnect and end, all within about twice `patience` seconds."""
        self._connector.stopping.set()
        if self._client is not None:
            until = time.monotonic() + patience
            for message in last:
                info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
                try:
                    info.wait_for_publish(max(0.0, until - time.monotonic()))
                except (ValueError, RuntimeError):
                    break
        self._client = None
        self._connector.stop(patience / 2)


def _portions(topics: Iterable[str]) -> list[list[str]]:
    wanted = list(topics)
    return [wanted[start : start + FILTERS_PER_SUBSCRIBE] for start in range(0, len(wanted), FILTERS_PER_SUBSCRIBE)]
