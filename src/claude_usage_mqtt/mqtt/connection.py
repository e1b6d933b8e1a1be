"""One connection from beginning to end, and what happens on it. Publisher and Session both use it.

paho's thread and the thread that runs the connection only `notify`: its owner decides, in its own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from claude_usage_mqtt.errors import BrokerError, BrokerRefused
from claude_usage_mqtt.mqtt import client as mqtt_client
from claude_usage_mqtt.mqtt import explain
from claude_usage_mqtt.mqtt.client import V5, Client, Message
from claude_usage_mqtt.mqtt.options import BrokerOptions

LONGEST_MESSAGE = 256 * 1024
"""The largest incoming payload, in bytes; no reader here accepts more."""

SETTLED_AFTER = 10.0
"""Seconds after which a connection counts as lasting, and what the broker has not sent back as missing. One that ends
sooner may do so each time: another client has the same id, or the broker does not accept a message."""

CLOSE_WITHIN = 0.2
"""Seconds for the end of a connection that the broker has not accepted."""


class Connected(NamedTuple):
    """The broker accepted us."""

    client: Client
    max_packet: int | None

    @property
    def version(self) -> str:
        """The protocol's version, for people."""
        return "5" if self.client.protocol == V5 else "3.1.1"


class Disconnected(NamedTuple):
    """No connection: an attempt failed, or the connection that was there ended.

    `refused`: the broker itself gave the reason, so that just trying again will not help. `wrong_protocol`: the reason
    is the version of MQTT. `silent`: it gave none, like some brokers that do not know the version. `settled`: it had
    lasted for `SETTLED_AFTER`.
    """

    error: BrokerError
    accepted: bool = False
    settled: bool = False
    refused: bool = False
    wrong_protocol: bool = False
    silent: bool = False


class Acknowledged(NamedTuple):
    """The broker has accepted the message `mid`, or refused it for the reason `refusal`."""

    mid: int
    refusal: str | None


class Subscribed(NamedTuple):
    """The broker has answered the subscription `mid`: for each filter, whether it was refused."""

    mid: int
    refused: tuple[bool, ...]


class Settled(NamedTuple):
    """The connection has lasted for `SETTLED_AFTER`."""


ConnectionEvent = Connected | Disconnected | Acknowledged | Subscribed | Settled | Message


class Connection:
    """One connection, to be run once."""

    def __init__(
        self,
        options: BrokerOptions,
        protocol: MQTTProtocolVersion,
        notify: Callable[[ConnectionEvent], None],
        *,
        will: Message | None = None,
    ) -> None:
        self._options = options
        self._notify = notify
        self._answered = threading.Event()
        self._reason: str | None = None
        self._refusal: Disconnected | None = None
        self._is_accepted = False
        self.client = client = mqtt_client.make_client(options, protocol, will=will)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_end = self._answered.set

    def run(self, stopping: threading.Event, patience: float) -> Disconnected:
        """Connect and stay until the connection ends; return why. Leaves nothing open.

        `patience` is how many seconds the broker may take to accept us; `stopping` gives up before that.
        """
        try:
            mqtt_client.connect(self.client, self._options)
        except BrokerError as error:
            # its cause refers to the client, and would keep its sockets open
            ended = Disconnected(error.without_history(), refused=isinstance(error, BrokerRefused))
        else:
            ended = self._stay(stopping, patience)
        self._release()
        return ended

    def _release(self) -> None:
        """Release the client: its callbacks refer to this object, and without them it is freed, sockets and all."""
        client = self.client
        client.ended.set()  # also if it never ran: a caller that stops us must not wait for that
        client.on_connect = client.on_disconnect = client.on_message = None
        client.on_publish = client.on_subscribe = client.on_end = None

    def _stay(self, stopping: threading.Event, patience: float) -> Disconnected:
        has_answered = not stopping.is_set() and self._answered.wait(patience)
        if self._is_accepted:
            has_settled = not self.client.ended.wait(SETTLED_AFTER)
            if has_settled:
                self._notify(Settled())
            self.client.ended.wait()  # paho ends a connection that is silent for longer than the keepalive
            error = explain.loss(self._options, accepted=True, reason=self._reason)
            return Disconnected(error, accepted=True, settled=has_settled)
        self.client.close(CLOSE_WITHIN)
        if self._is_accepted:  # connected just now, and that was reported: so its end must be reported
            return Disconnected(explain.loss(self._options, accepted=True, reason=None), accepted=True)
        if self._refusal is not None:
            return self._refusal
        if has_answered:
            error = explain.loss(self._options, accepted=False, reason=self._reason)
        else:
            error = explain.failed_attempt(TimeoutError(), self._options)
        return Disconnected(error, silent=True)

    # In paho's thread

    def _on_connect(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            is_wrong_protocol = reason.getName() in explain.WRONG_PROTOCOL
            error = explain.refusal(reason, self._options)
            self._refusal = Disconnected(error, refused=True, wrong_protocol=is_wrong_protocol)
        else:
            self._is_accepted = True
            self._notify(Connected(self.client, getattr(properties, "MaximumPacketSize", None)))
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
        self._notify(Message(topic=topic, payload=bytes(message.payload), retain=message.retain))

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        self._notify(Acknowledged(mid, reason.getName() if reason.is_failure else None))

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Any) -> None:
        self._notify(Subscribed(mid, tuple(reason.is_failure for reason in reasons)))
