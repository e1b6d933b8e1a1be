"""One connection from its making to its end, and what is reported to the loop."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paho.mqtt.enums import MQTTProtocolVersion

from claude_usage_mqtt.errors import BrokerError, BrokerRefused
from claude_usage_mqtt.mqtt import client as mqtt_client
from claude_usage_mqtt.mqtt import explain
from claude_usage_mqtt.mqtt.client import V5, Client, Message
from claude_usage_mqtt.mqtt.options import BrokerOptions

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

LONGEST_MESSAGE = 256 * 1024
"""Bytes of an incoming payload that anybody here would read."""


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
    """No connection: an attempt failed, or the connection that was there ended.

    `refused` says that the broker itself gave the reason, so that trying again alone will not help.
    """

    error: BrokerError
    accepted: bool = False
    refused: bool = False


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


class Connection:
    """One mqtt_client. Its callbacks run in paho's thread: they notify, and nothing else."""

    def __init__(
        self,
        options: BrokerOptions,
        protocol: MQTTProtocolVersion,
        will: Message,
        tls: ssl.SSLContext | None,
        notify: Callable[[Notice], None],
    ) -> None:
        self._options = options
        self._notify = notify
        self._answered = threading.Event()
        self._reason: str | None = None
        self._refusal: BrokerError | None = None
        self.accepted = False
        self.is_wrong_protocol = False
        """Whether the broker said that it does not speak this version."""
        self.was_silent = False
        """Whether it hung up, or said nothing at all, as some do for want of the version."""
        self.client = client = mqtt_client.make_client(options, protocol, will=will, tls=tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe

    def run(self, stopping: threading.Event, patience: float) -> Disconnected:
        """Connect and stay until the connection ends; return why. Leaves nothing open, unless it is `stopping`.

        `patience` is how many seconds the broker may take to accept us.
        """
        try:
            mqtt_client.connect(self.client, self._options)
        except BrokerError as error:
            error.__context__ = None  # what led to it refers to the client, and would keep its sockets open
            ended = Disconnected(error.with_traceback(None), refused=isinstance(error, BrokerRefused))
        else:
            ended = self._stay(stopping, patience)
        if not stopping.is_set():
            self.release()
        return ended

    def release(self) -> None:
        """Let go of the client: its callbacks refer to this object, and without them it is freed, sockets and all."""
        client = self.client
        client.on_connect = client.on_disconnect = client.on_message = None
        client.on_publish = client.on_subscribe = None

    def _stay(self, stopping: threading.Event, patience: float) -> Disconnected:
        deadline = time.monotonic() + patience
        has_answered = False
        while not (has_answered or self.client.ended.is_set() or stopping.is_set() or time.monotonic() > deadline):
            has_answered = self._answered.wait(0.2)
        if self.accepted:
            while not self.client.ended.wait(60):
                pass  # paho ends a connection that is silent for longer than the keepalive
        elif not stopping.is_set():
            is_silent = not (self._answered.is_set() or self.client.ended.is_set())
            self.client.close(0.2)
            if is_silent:
                self.was_silent = True
                return Disconnected(explain.failed_attempt(TimeoutError(), self._options))
        if self._refusal is not None:
            return Disconnected(self._refusal, refused=True)
        self.was_silent = not self.accepted
        error = explain.loss(self._options, accepted=self.accepted, reason=self._reason)
        return Disconnected(error, accepted=self.accepted)

    # In paho's thread: notify, and nothing else

    def _on_connect(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.is_wrong_protocol = reason.getName() in explain.WRONG_PROTOCOL
            self._refusal = explain.refusal(reason, self._options)
        else:
            self.accepted = True
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

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Any) -> None:
        self._notify(Subscribed(sum(reason.is_failure for reason in reasons)))
