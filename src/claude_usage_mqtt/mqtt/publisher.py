"""Keeps on the broker what should stand there: a map of topics to retained payloads, and events to deliver.

Nothing is queued for a broker that is away: on each connection everything retained is sent again from the map,
the newest only. One thread connects and reconnects; it and paho's own thread only `notify` the loop of what happened,
and every other method here is for the loop's thread.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from claude_usage_mqtt.mqtt.client import CONNECT_TIMEOUT, V3, V5, Client, Message
from claude_usage_mqtt.mqtt.connection import Acknowledged, Connected, Connection, Disconnected, Notice
from claude_usage_mqtt.mqtt.options import BrokerOptions

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between attempts to connect, doubling."""

STABLE_AFTER = 10.0
"""Seconds a connection must last until the delay starts from the first again: one that is thrown out at once
(a taken client id, a message the broker will not have) must not become a storm."""

MAX_EVENTS = 500
"""Events that wait for the broker; the oldest are dropped, weeks of them would fit."""

SUSPECT_SIZE = 4096
SUSPECT_AFTER = 3
SUSPENDED_FOR = 3600.0
"""Bytes, connections and seconds: when a message is taken for the reason that connections end, and how long one
that the broker does not want is left out. Only discovery messages are that large; the numbers must never fall under
suspicion."""

FOR_GOOD = frozenset({"Not authorized", "Topic name invalid", "Packet too large", "Payload format invalid"})
"""Reasons of a refusal that trying again does not change."""

OWN_KEPT = 64
"""Payloads remembered per topic (their hashes): our own late echo must not be taken for another instance's message."""

DEAF_AFTER = 2.0
"""Seconds for the answer to the first words in MQTT 5: some brokers (amqtt) never answer, but do in 3.1.1."""

SILENCES = 5
"""Attempts that end without a reason until a broker that has spoken MQTT 5 before is asked for 3.1.1: it is much
more often just restarting behind a proxy."""

FILTERS_PER_SUBSCRIBE = 50


class Publisher:
    """The program's side of the broker."""

    def __init__(
        self,
        options: BrokerOptions,
        *,
        will: Message,
        notify: Callable[[Notice], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._options = options
        self._will = will
        self._notify = notify
        self._tls = tls
        self._client: Client | None = None  # the one the loop was notified of
        self._attempt: Connection | None = None  # the one that is connecting, connected or ending
        self._max_packet: int | None = None
        self._retained: dict[str, bytes] = {}
        self._cleared: set[str] = set()
        self._sent: dict[str, bytes] = {}
        self._own: dict[str, deque[int]] = {}
        self._events: deque[Message] = deque(maxlen=MAX_EVENTS)
        self._under_way: dict[int, Message] = {}
        self._busy: dict[str, int] = {}  # retained topic -> the message under way there
        self._waiting: dict[str, None] = {}  # retained topics to send, in this order
        self._complained: set[str] = set()
        self._suspicions: dict[str, int] = {}
        self._suspended: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected, name="broker", daemon=True)

    # For the loop's thread

    @property
    def is_connected(self) -> bool:
        """Whether the loop knows of a connection, and of no end of it."""
        return self._client is not None

    @property
    def is_alive(self) -> bool:
        """Whether the connecting thread runs: without it nothing is ever published again."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def handle(self, notice: Connected | Disconnected | Acknowledged) -> None:
        """Take in what happened; the loop passes it on in the order of arrival."""
        match notice:
            case Connected(client=client, max_packet=max_packet):
                self._client, self._max_packet = client, max_packet
                self._forget_connection()
            case Disconnected():
                self._client = None
                self._suspect()
                self._forget_connection()
            case Acknowledged(mid=mid, refusal=refusal):
                message = self._under_way.pop(mid, None)
                if message is not None and self._busy.get(message.topic) == mid:
                    del self._busy[message.topic]
                    if not message.payload:
                        self._cleared.discard(message.topic)
                self._suspicions.pop(message.topic if message else "", None)
                if message is not None and not message.retain and message in self._events:
                    self._events.remove(message)
                if message is not None and refusal is not None:
                    self._refused(message, refusal)
                self._send_waiting()

    def _refused(self, message: Message, reason: str) -> None:
        if reason not in FOR_GOOD:  # a passing trouble of the broker: the next change is sent again
            self._sent.pop(message.topic, None)
            log.debug("The broker did not take %s (%s)", message.topic, reason)
            return
        # Some brokers (Mosquitto 2.0) hang up after the refusal, so it is not sent with each connection.
        self._suspended[message.topic] = time.monotonic() + SUSPENDED_FOR
        self._complain(
            message.topic,
            f"The broker refused {message.topic} ({reason}); publishing it is suspended for an hour: "
            "allow this user to write there.",
        )

    def _forget_connection(self) -> None:
        for known in (self._sent, self._under_way, self._busy, self._waiting):
            known.clear()

    def _suspect(self) -> None:
        """Draw a conclusion where connection after connection ends at the same large message.

        Not every broker announces its limit, and not every one says that a message was over it: some just disconnect.
        """
        first = next(iter(self._under_way.values()), None)
        if first is not None and len(first.payload) >= SUSPECT_SIZE:
            self._suspicions[first.topic] = self._suspicions.get(first.topic, 0) + 1
            if self._suspicions[first.topic] == SUSPECT_AFTER:
                self._suspended[first.topic] = time.monotonic() + SUSPENDED_FOR
                self._complain(
                    first.topic,
                    f"The broker disconnects every time we publish {first.topic} ({len(first.payload)} bytes); "
                    "publishing it is suspended for an hour: raise the broker's limit for messages, or allow "
                    "this user to write there.",
                )

    def retain(self, topic: str, payload: bytes, *, again: bool = False) -> None:
        """Keep `payload` retained under `topic`; an empty one removes the topic. `again`: send it even if unchanged."""
        if again:
            self._sent.pop(topic, None)
        if payload:
            self._retained[topic] = payload
            self._cleared.discard(topic)
        else:
            self._retained.pop(topic, None)
            self._cleared.add(topic)
        if self._client is not None and (topic in self._busy or self._sent.get(topic) != payload):
            self._waiting.setdefault(topic)
            self._send_waiting()

    def insist(self, topic: str) -> None:
        """Send again what should stand under `topic`: somebody has overwritten it."""
        self._sent.pop(topic, None)
        self.retain(topic, self._retained.get(topic, b""))

    def _send_waiting(self) -> None:
        """Send what waits, in order, one message a topic at a time: a slow broker gets the newest, not all of them."""
        for topic in list(self._waiting):
            if topic in self._busy:
                return
            del self._waiting[topic]
            payload = self._retained.get(topic, b"")
            if self._sent.get(topic) != payload:
                self._publish(Message(topic=topic, payload=payload, retain=True))

    def send(self, topic: str, payload: bytes) -> None:
        """Deliver an event: now, or when the broker is back, until it has said that it took it."""
        message = Message(topic=topic, payload=payload)
        self._events.append(message)
        self._publish(message)

    def send_once(self, message: Message) -> None:
        """Deliver a message if there is a connection, else forget it."""
        self._publish(message)

    def take_as_own(self, topic: str, payload: bytes) -> None:
        """Note a retained message as one of ours: an earlier run's."""
        self._own.setdefault(topic, deque(maxlen=OWN_KEPT)).append(hash(payload))

    def has_sent(self, message: Message) -> bool:
        """Whether a retained message that arrived is one of the last that we sent there ourselves."""
        return hash(message.payload) in self._own.get(message.topic, ())

    def send_all(self, last: str) -> None:
        """Send everything again: what was taken away, the events that wait, what is retained; `last` comes last."""
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

    def _publish(self, message: Message) -> None:
        client = self._client
        if client is None:
            return
        size = len(message.topic.encode()) + len(message.payload) + 16
        if self._max_packet is not None and size > self._max_packet:
            self._complain(
                message.topic,
                f"The broker takes no packet over {self._max_packet} bytes and {message.topic} needs {size}; "
                "raise its limit.",
            )
            return
        if time.monotonic() < self._suspended.get(message.topic, 0.0):
            return
        info = client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        # If it is slower than we send, the message is left out; the next connection, or the next change, sends it.
        if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._under_way[info.mid] = message
            if message.retain:
                self._busy[message.topic] = info.mid
                self._sent[message.topic] = message.payload
                self.take_as_own(message.topic, message.payload)

    def _complain(self, topic: str, sentence: str) -> None:
        if topic not in self._complained and len(self._complained) < 1000:
            self._complained.add(topic)
            log.warning("%s", sentence)

    def subscribe(self, filters: Iterable[str], *, no_local: bool = False) -> None:
        """Ask for topics; the answer arrives as Subscribed."""
        client, wanted = self._client, list(filters)
        if client is None:
            return
        for start in range(0, len(wanted), FILTERS_PER_SUBSCRIBE):
            some = wanted[start : start + FILTERS_PER_SUBSCRIBE]
            if client.protocol == V5:
                client.subscribe([(topic, SubscribeOptions(qos=1, noLocal=no_local)) for topic in some])
            else:
                client.subscribe([(topic, 1) for topic in some])

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Ask no longer for topics."""
        wanted = list(topics)
        if self._client is not None and wanted:
            for start in range(0, len(wanted), FILTERS_PER_SUBSCRIBE):
                self._client.unsubscribe(wanted[start : start + FILTERS_PER_SUBSCRIBE])

    def stop(self, last: Iterable[Message], patience: float) -> None:
        """Deliver the `last` messages, disconnect and end, all within about twice `patience` seconds."""
        self._stopping.set()
        client, attempt = self._client, self._attempt
        if client is not None:
            until = time.monotonic() + patience
            for message in last:
                info = client.publish(message.topic, message.payload, qos=1, retain=message.retain)
                try:
                    info.wait_for_publish(max(0.0, until - time.monotonic()))
                except (ValueError, RuntimeError):
                    break
        if attempt is not None:
            attempt.client.close(patience / 2)
            attempt.release()
        self._thread.join(patience / 2)

    # In the connecting thread

    def _keep_connected(self) -> None:
        protocol = V3 if self._options.protocol == "3.1.1" else V5
        delay = FIRST_DELAY
        fell_back = knows_5 = False
        silences = 0
        while not self._stopping.is_set():
            attempt = Connection(self._options, protocol, self._will, self._tls, self._notify)
            self._attempt = attempt
            began = time.monotonic()
            may_be_deaf = self._options.protocol == "auto" and protocol == V5 and not knows_5
            ended = attempt.run(self._stopping, DEAF_AFTER if may_be_deaf else CONNECT_TIMEOUT)
            if self._stopping.is_set():
                return
            silences = silences + 1 if attempt.was_silent else 0
            patience = SILENCES if knows_5 and protocol == V5 else 1
            if self._options.protocol == "auto" and (attempt.is_wrong_protocol or silences >= patience):
                protocol, silences = (V3 if protocol == V5 else V5), 0
                if not fell_back:  # once at once, then as slowly as any failure
                    fell_back = True
                    continue
            self._notify(ended)
            if attempt.accepted:
                fell_back, knows_5 = False, protocol == V5
                if time.monotonic() - began > STABLE_AFTER:
                    delay = FIRST_DELAY
            self._stopping.wait(delay * random.uniform(0.75, 1.25))
            delay = min(2 * delay, LONGEST_DELAY)
