"""A connection for one job: made within a deadline or not at all, never made again by itself."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from paho.mqtt.enums import MQTTProtocolVersion

from claude_usage_mqtt.errors import BrokerError, BrokerRefused, BrokerUnreachable
from claude_usage_mqtt.mqtt import client as mqtt_client
from claude_usage_mqtt.mqtt import explain
from claude_usage_mqtt.mqtt.client import V3, V5, Client, Message
from claude_usage_mqtt.mqtt.options import BrokerOptions

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

WITHIN = 10.0
"""Seconds for each step, by default."""

LOOK_EVERY = 0.2
"""Seconds between looks at whether the network thread has died silently."""

DISCONNECT_WITHIN = 0.5
"""Seconds for disconnecting; a broker that does not react is left after twice that."""


def publish_once(options: BrokerOptions, message: Message, within: float = WITHIN) -> None:
    """Connect, publish one message, see it acknowledged and leave; raises BrokerError or SettingsError."""
    until = time.monotonic() + within
    with Session(options, within) as session:
        session.publish(message, until - time.monotonic())


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the broker said to CONNECT (`mid` None), to a SUBSCRIBE (a reason per filter) or to a PUBLISH."""

    mid: int | None
    reasons: tuple[ReasonCode, ...]


@dataclass(frozen=True, slots=True)
class _Lost:
    """The connection ended."""

    reason: str


class Session:
    """A connection that is open inside a `with`; MQTT 5, or 3.1.1 if the options or the broker want that.

    Every method is for the same thread, takes at most `within` seconds and raises BrokerError: BrokerUnreachable
    if there was no connection, no answer in time, or the connection was lost; BrokerRefused if the broker
    said no.
    """

    def __init__(self, options: BrokerOptions, within: float = WITHIN) -> None:
        # The configured id is the service's: with it we would throw the service out.
        self._options = replace(options, client_id="")
        self._within = within
        self._client: Client | None = None
        self._is_running = False
        self._is_accepted = False
        self._may_be_protocol = False
        self._inbox: queue.Queue[_Answer | Message | _Lost] = queue.Queue()
        self._answers: dict[int | None, tuple[ReasonCode, ...]] = {}
        self._messages: list[Message] = []

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def version(self) -> str:
        """The protocol's version that the broker took, for people."""
        return "5" if self._client is not None and self._client.protocol == V5 else "3.1.1"

    def open(self) -> None:
        """Connect and log in, with MQTT 3.1.1 where 5 does not please; raises SettingsError for bad certificates."""
        until = time.monotonic() + self._within
        has_choice = self._options.protocol == "auto"
        # A broker that only knows 3.1.1 may say nothing at all to 5: that must leave time for the other.
        first_until = until - self._within / 2 if has_choice else until
        error = self._attempt(V3 if self._options.protocol == "3.1.1" else V5, first_until)
        if error is not None and has_choice and self._may_be_protocol:
            error = self._attempt(V3, until)
        if error is not None:
            raise error

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None and self._is_running:
            client.close(DISCONNECT_WITHIN)
        self._is_running = self._is_accepted = False

    def publish(self, message: Message, within: float = WITHIN) -> None:
        """Publish and wait until the broker has taken it.

        A broker that speaks 3.1.1 takes what it then throws away for want of permission: it cannot say so.
        """
        client = self._open_client()
        info = client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        reason = self._answer(info.mid, within)[0]
        if reason.is_failure:
            raise BrokerRefused(
                f"The broker at {self._options.address} refused to take {message.topic} ({reason.getName()}); "
                "allow this user to write there."
            )

    def subscribe(self, filters: Iterable[str], within: float = WITHIN) -> list[str]:
        """Ask for topics and wait for the answer; return those that were refused."""
        wanted = list(filters)
        client = self._open_client()
        _, mid = client.subscribe([(topic, 1) for topic in wanted])
        reasons = self._answer(mid, within)
        return [topic for topic, reason in zip(wanted, reasons, strict=False) if reason.is_failure]

    def receive(self, within: float) -> Message | None:
        """Return the next message that arrived, None if none came in time."""
        until = time.monotonic() + within
        while not self._messages:
            if not self._take(until):
                return None
        return self._messages.pop(0)

    def collect(self, quiet: float, within: float = WITHIN) -> list[Message]:
        """Return the messages that arrive until none has come for `quiet` seconds.

        No other end can be seen: no broker says that it has sent all that it had retained.
        """
        until = time.monotonic() + within
        found: list[Message] = []
        while (message := self.receive(min(quiet, until - time.monotonic()))) is not None:
            found.append(message)
        return found

    # Inside

    def _attempt(self, protocol: MQTTProtocolVersion, until: float) -> BrokerError | None:
        self._may_be_protocol = False
        self._inbox = queue.Queue()
        self._answers.clear()
        self._client = self._make_client(protocol)
        try:
            self._connect(self._client, until)
            (reason,) = self._answer(None, until - time.monotonic())
        except BrokerError as error:
            self.close()
            return error
        if reason.is_failure:
            self._may_be_protocol = reason.getName() in explain.WRONG_PROTOCOL
            self.close()
            return explain.refusal(reason, self._options)
        self._is_accepted = True
        return None

    def _make_client(self, protocol: MQTTProtocolVersion) -> Client:
        inbox = self._inbox
        client = mqtt_client.make_client(self._options, protocol, tls=mqtt_client.make_tls_context(self._options))

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
            inbox.put(_Answer(None, (reason,)))

        def on_disconnect(_client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
            inbox.put(_Lost(reason.getName()))

        def on_publish(_client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
            inbox.put(_Answer(mid, (reason,)))

        def on_subscribe(_client: Any, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Any) -> None:
            inbox.put(_Answer(mid, tuple(reasons)))

        def on_message(_client: Any, _data: Any, message: MQTTMessage) -> None:
            try:
                inbox.put(Message(topic=message.topic, payload=bytes(message.payload), retain=message.retain))
            except UnicodeDecodeError:
                return

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_publish, client.on_subscribe, client.on_message = on_publish, on_subscribe, on_message
        return client

    def _connect(self, client: Client, until: float) -> None:
        """Open the connection, in its own thread: a name lookup cannot be given a deadline."""
        outcome: queue.Queue[BrokerError | None] = queue.Queue()
        is_abandoned = threading.Event()
        within = max(0.1, until - time.monotonic())

        def work() -> None:
            error = None
            try:
                mqtt_client.connect(client, self._options)
            except BrokerError as failure:
                error = failure
            outcome.put(error)
            if error is None and is_abandoned.is_set():
                client.close(DISCONNECT_WITHIN)

        client.connect_timeout = min(mqtt_client.CONNECT_TIMEOUT, within)
        threading.Thread(target=work, name="broker", daemon=True).start()
        try:
            error = outcome.get(timeout=within)
        except queue.Empty:
            is_abandoned.set()
            raise explain.no_answer(self._options) from None
        if error is not None:
            raise error
        self._is_running = True
        self._may_be_protocol = True

    def _answer(self, mid: int | None, within: float) -> tuple[ReasonCode, ...]:
        until = time.monotonic() + within
        while mid not in self._answers:
            if not self._take(until):
                raise explain.no_answer(self._options)
        return self._answers.pop(mid)

    def _take(self, until: float) -> bool:
        """Take in the next thing that happened; False if nothing did until then."""
        while True:
            left = max(0.0, until - time.monotonic())
            try:
                item = self._inbox.get(timeout=min(left, LOOK_EVERY))
            except queue.Empty:
                if self._open_client().ended.is_set() and self._inbox.empty():
                    raise self._loss(None) from None
                if left == 0:
                    return False
                continue
            match item:
                case _Answer(mid=mid, reasons=reasons):
                    self._answers[mid] = reasons
                case _Lost(reason=reason):
                    raise self._loss(reason)
                case Message():
                    self._messages.append(item)
            return True

    def _loss(self, reason: str | None) -> BrokerError:
        return explain.loss(self._options, accepted=self._is_accepted, reason=reason)

    def _open_client(self) -> Client:
        if self._client is None:
            raise BrokerUnreachable(f"Not connected to the broker at {self._options.address}.")
        return self._client
