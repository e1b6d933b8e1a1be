"""What was sent and subscribed to over one connection, and what is still open; the next one starts empty."""

from __future__ import annotations

from collections.abc import Iterable

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from claude_usage_mqtt.mqtt.client import V3, V5, Client, Message

FILTERS_PER_SUBSCRIBE = 50


class Delivery:
    """Messages over a connection that accepts packets of at most `max_packet` bytes; None if the broker gave no limit.

    `sent` maps retained topics to what was sent there last, `busy` to the message under way there; those in `waiting`
    are still to be sent, in this order.
    """

    def __init__(self, client: Client, max_packet: int | None) -> None:
        self.client = client
        self.max_packet = max_packet
        self.sent: dict[str, bytes] = {}
        self.busy: dict[str, int] = {}
        self.waiting: dict[str, None] = {}
        self.under_way: dict[int, Message] = {}
        self.subscriptions = Subscriptions(client)

    def publish(self, message: Message) -> bool:
        """Send a message; return False if the connection is slower than we send, or lost."""
        info = self.client.send(message)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self.under_way[info.mid] = message
        if message.retain:
            self.busy[message.topic] = info.mid
            self.sent[message.topic] = message.payload
        return True

    def acknowledged(self, mid: int) -> Message | None:
        """Return the message that is no longer under way."""
        message = self.under_way.pop(mid, None)
        if message is not None and self.busy.get(message.topic) == mid:
            del self.busy[message.topic]
        return message


class Subscriptions:
    """The subscriptions of a connection. The topics in `unverified` are only read back, once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked: dict[int, list[str]] = {}
        self.unverified: dict[str, None] = {}
        self.is_settled = False

    @property
    def must_verify(self) -> bool:
        """Whether acknowledged messages must be read back: with MQTT 3.1.1 forbidden ones are acknowledged too."""
        return self._client.protocol == V3 and not self.is_settled

    def verify(self, topic: str) -> None:
        """Ask for what is retained there, to compare it with what was sent."""
        if topic not in self.unverified:
            self.unverified[topic] = None
            self.subscribe([topic])

    def subscribe(self, filters: Iterable[str], *, no_local: bool = False) -> None:
        """Subscribe to topics; the answer arrives as Subscribed."""
        for some in portions(filters):
            if self._client.protocol == V5:
                if no_local:
                    self._client.unsubscribe(some)  # Mosquitto keeps the options of a topic's first subscription
                _, mid = self._client.subscribe([(topic, SubscribeOptions(qos=1, noLocal=no_local)) for topic in some])
            else:
                _, mid = self._client.subscribe([(topic, 1) for topic in some])
            self._asked[mid or 0] = some

    def refused(self, mid: int, refused: Iterable[bool]) -> set[str]:
        """Return the refused topics, except those to verify."""
        asked = zip(self._asked.pop(mid, []), refused, strict=False)
        return {topic for topic, is_refused in asked if is_refused and topic not in self.unverified}

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Unsubscribe from topics."""
        for some in portions(topics):
            self._client.unsubscribe(some)


def portions(topics: Iterable[str]) -> list[list[str]]:
    """Return topics in groups that a broker accepts in one SUBSCRIBE."""
    wanted = list(topics)
    return [wanted[start : start + FILTERS_PER_SUBSCRIBE] for start in range(0, len(wanted), FILTERS_PER_SUBSCRIBE)]
