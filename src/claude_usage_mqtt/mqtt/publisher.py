"""Keeps on the broker what should stand there: a map of topics to retained payloads, and events to deliver.

Nothing is queued for a broker that is away: on each connection everything retained is sent again from the map,
the newest only. One thread connects and reconnects; it and paho's own thread only `tell` the loop what happened,
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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from claude_usage_mqtt.errors import BrokerError
from claude_usage_mqtt.mqtt import connection
from claude_usage_mqtt.mqtt.connection import V3, V5, WRONG_PROTOCOL, Client, Message
from claude_usage_mqtt.mqtt.options import BrokerOptions

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between attempts to connect, doubling."""

STABLE_AFTER = 10.0
"""Seconds a connection must last until the delay starts from the first again: one that is thrown out at once
(a taken client id, a message the broker will not have) must not become a storm."""

MAX_EVENTS = 500
"""Events that wait for the broker; the oldest are dropped, weeks of them would fit."""

OWN_KEPT = 8
"""Payloads remembered per topic, to tell our own echo from another instance's message."""

LONGEST_MESSAGE = 256 * 1024
"""Bytes of an incoming payload that anybody here would read."""

FILTERS_PER_SUBSCRIBE = 50


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted us."""

    client: Client
    max_packet: int | None

    @property
    def version(self) -> str:
        """The protocol's version, for people."""
        return "5" if self.client.protocol == V5 else "3.1.1"


@dataclass(frozen=True, slots=True)
class Disconnected:
    """There is no connection: an attempt failed, or the connection that was there ended."""

    error: BrokerError


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has taken the message `mid`, or refused it for the reason `refusal`."""

    mid: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker has answered a subscription; `refused` counts the filters it did not grant."""

    refused: int


Notice = Connected | Disconnected | Acknowledged | Subscribed | Message


class Publisher:
    """The program's side of the broker."""

    def __init__(
        self,
        options: BrokerOptions,
        *,
        will: Message,
        tell: Callable[[Notice], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._options = options
        self._will = will
        self._tell = tell
        self._tls = tls
        self._client: Client | None = None  # the one the loop was told of
        self._attempt: _Attempt | None = None  # the one that is connecting, connected or ending
        self._max_packet: int | None = None
        self._retained: dict[str, bytes] = {}
        self._cleared: set[str] = set()
        self._sent: dict[str, bytes] = {}
        self._own: dict[str, deque[bytes]] = {}
        self._events: deque[Message] = deque(maxlen=MAX_EVENTS)
        self._under_way: dict[int, Message] = {}
        self._complained: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected, name="broker", daemon=True)

    # For the loop's thread

    @property
    def is_connected(self) -> bool:
        """Whether the loop has been told of a connection that it has not been told the end of."""
        return self._client is not None

    @property
    def is_alive(self) -> bool:
        """Whether the thread that keeps the connection runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def handle(self, notice: Connected | Disconnected | Acknowledged) -> None:
        """Take in what happened; the loop passes it on in the order it was told."""
        match notice:
            case Connected(client=client, max_packet=max_packet):
                self._client, self._max_packet = client, max_packet
                self._sent.clear()
                self._under_way.clear()
            case Disconnected():
                self._client = None
            case Acknowledged(mid=mid, refusal=refusal):
                message = self._under_way.pop(mid, None)
                if message is not None and not message.retain and message in self._events:
                    self._events.remove(message)
                if message is not None and refusal is not None:
                    self._complain(message.topic, f"The broker refused to take {message.topic} ({refusal}); allow it.")

    def retain(self, topic: str, payload: bytes) -> None:
        """Let `payload` stand under `topic`; an empty one takes the topic away."""
        if payload:
            self._retained[topic] = payload
            self._cleared.discard(topic)
        else:
            self._retained.pop(topic, None)
            self._cleared.add(topic)
        if self._client is not None and self._sent.get(topic) != payload:
            self._publish(Message(topic=topic, payload=payload, retain=True))

    def send(self, topic: str, payload: bytes) -> None:
        """Deliver an event: now, or when the broker is back, until it has said that it took it."""
        message = Message(topic=topic, payload=payload)
        self._events.append(message)
        self._publish(message)

    def send_once(self, message: Message) -> None:
        """Deliver a message if there is a connection, else forget it."""
        self._publish(message)

    def has_sent(self, message: Message) -> bool:
        """Whether a retained message that arrived is one of the last that we sent there ourselves."""
        return message.payload in self._own.get(message.topic, ())

    def send_all(self, last: str) -> None:
        """Send everything again: what was taken away, the events that wait, what is retained; `last` comes last."""
        self._sent.clear()
        for topic in sorted(self._cleared):
            self._publish(Message(topic=topic, payload=b"", retain=True))
        self._cleared.clear()
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
        info = client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        # Where it is slower than we speak the message is left out; the next connection, or the next change, sends it.
        if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._under_way[info.mid] = message
            if message.retain:
                self._sent[message.topic] = message.payload
                self._own.setdefault(message.topic, deque(maxlen=OWN_KEPT)).append(message.payload)

    def _complain(self, topic: str, sentence: str) -> None:
        if topic not in self._complained and len(self._complained) < 1000:
            self._complained.add(topic)
            log.warning("%s", sentence)

    def subscribe(self, filters: Iterable[str], *, no_local: bool = False) -> None:
        """Ask for topics; the answer is told as Subscribed."""
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
        """Deliver the `last` messages, say goodbye and end, all within about twice `patience` seconds."""
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
        self._thread.join(patience / 2)

    # In the connecting thread

    def _keep_connected(self) -> None:
        protocol = V3 if self._options.protocol == "3.1.1" else V5
        delay = FIRST_DELAY
        fell_back = False
        while not self._stopping.is_set():
            attempt = _Attempt(self._options, protocol, self._will, self._tls, self._tell)
            self._attempt = attempt
            began = time.monotonic()
            error = attempt.run(self._stopping)
            if self._stopping.is_set():
                return
            if self._options.protocol == "auto" and attempt.may_be_protocol:
                protocol = V3 if protocol == V5 else V5
                if not fell_back:  # once at once, then as slowly as any failure
                    fell_back = True
                    continue
            self._tell(Disconnected(error))
            if attempt.accepted:
                fell_back = False
                if time.monotonic() - began > STABLE_AFTER:
                    delay = FIRST_DELAY
            self._stopping.wait(delay * random.uniform(0.75, 1.25))
            delay = min(2 * delay, LONGEST_DELAY)


class _Attempt:
    """One connection from its making to its end."""

    def __init__(
        self,
        options: BrokerOptions,
        protocol: MQTTProtocolVersion,
        will: Message,
        tls: ssl.SSLContext | None,
        tell: Callable[[Notice], None],
    ) -> None:
        self._options = options
        self._tell = tell
        self._answered = threading.Event()
        self._reason: str | None = None
        self._refusal: BrokerError | None = None
        self.accepted = False
        self.may_be_protocol = False
        self.client = client = connection.make_client(options, protocol, will=will, tls=tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe

    def run(self, stopping: threading.Event) -> BrokerError:
        """Connect and stay until the connection ends; return why."""
        try:
            connection.connect(self.client, self._options)
        except BrokerError as error:
            return error
        deadline = time.monotonic() + connection.CONNECT_TIMEOUT
        while not (self._answered.wait(0.2) or self.client.ended.is_set() or stopping.is_set()):
            if time.monotonic() > deadline:
                break
        if self.accepted:
            while not self.client.ended.wait(60):
                pass  # paho ends a connection that is silent for longer than the keepalive
        elif not stopping.is_set():
            self.client.close(0.2)
        if self._refusal is not None:
            return self._refusal
        self.may_be_protocol = self.may_be_protocol or not self.accepted
        return connection.explain_loss(self._options, accepted=self.accepted, reason=self._reason)

    # In paho's thread: tell, and nothing else

    def _on_connect(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.may_be_protocol = reason.getName() in WRONG_PROTOCOL
            self._refusal = connection.explain_refusal(reason, self._options)
        else:
            self.accepted = True
            self._tell(Connected(self.client, getattr(properties, "MaximumPacketSize", None)))
        self._answered.set()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self._reason = reason.getName()
        self._answered.set()

    def _on_message(self, _client: Any, _data: Any, message: MQTTMessage) -> None:
        if len(message.payload) > LONGEST_MESSAGE:
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._tell(Message(topic=topic, payload=bytes(message.payload), retain=message.retain))

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        self._tell(Acknowledged(mid, reason.getName() if reason.is_failure else None))

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Any) -> None:
        self._tell(Subscribed(sum(reason.is_failure for reason in reasons)))
