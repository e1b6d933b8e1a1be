"""An MQTT client, independent of the program, that remembers everything it saw."""

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from parts.net import LOOPBACK, Server
from parts.waiting import REASONABLE

FENCE_PREFIX: Final = "tests-fence/"
CONNECT_TIMEOUT: Final = 10.0
RECONNECT_DELAY: Final = 0.1


@dataclass(frozen=True)
class Message:
    """One message as it arrived; `order` counts from 0 over all topics of a watcher."""

    order: int
    topic: str
    payload: str
    retain: bool
    qos: int

    def json(self) -> Any:
        """Return the payload parsed."""
        return json.loads(self.payload)


class Watcher(Server):
    """A client subscribed to `topics`; a context manager. It reconnects and subscribes again by itself.

    It speaks MQTT 3.1.1, as every broker does. With an ACL its user needs `topic readwrite tests-fence/#` in addition
    to what it watches.
    """

    def __init__(
        self,
        port: int,
        topics: Sequence[str] = ("#",),
        *,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self.topics = tuple(topics)
        self._port = port
        self._login = (username, password)
        self._id = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self._fences: set[str] = set()
        self._acknowledged: set[int] = set()
        self._subscribed = False
        self._failure: str | None = None
        self._client: Client | None = None

    def start(self) -> Self:
        """Connect; returns once the broker has accepted the subscriptions."""
        self._failure = None
        client = self._client = self._make_client()
        client.connect_async(LOOPBACK, self._port)
        client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._subscribed or self._failure, CONNECT_TIMEOUT)
            if self._subscribed:
                return self
        raise ConnectionError(f"no connection to {self._port}: {self._failure or 'no answer in time'}")

    def close(self) -> None:
        """Disconnect and end the client's thread."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()
        with self._changed:
            self._subscribed = False

    # -- what it saw

    def messages(self, topic: str = "#", *, since: int = 0) -> list[Message]:
        """Return the messages of a topic or filter from a `mark` on, in order of arrival."""
        with self._changed:
            return [message for message in self._messages[since:] if topic_matches_sub(topic, message.topic)]

    def mark(self) -> int:
        """Return the place in the order where the next message will be: a `since` for messages to come."""
        with self._changed:
            return len(self._messages)

    def last(self, topic: str) -> Message:
        """Return the last message of a topic."""
        found = self.messages(topic)
        if not found:
            raise AssertionError(f"nothing came on {topic}; {self._account(0)}")
        return found[-1]

    def json(self, topic: str) -> Any:
        """Return the last payload of a topic, parsed."""
        return self.last(topic).json()

    def wait_topic(
        self,
        topic: str,
        predicate: Callable[[Message], object] = lambda _: True,
        timeout: float = REASONABLE,
        *,
        since: int = 0,
    ) -> Message:
        """Return the first message of a topic or filter, from `since` on, that fulfills the predicate; wait for it."""
        seen = since
        found: Message | None = None

        def look() -> bool:
            nonlocal seen, found
            while found is None and seen < len(self._messages):
                message = self._messages[seen]
                seen += 1
                found = message if topic_matches_sub(topic, message.topic) and predicate(message) else None
            return found is not None

        with self._changed:
            self._changed.wait_for(look, timeout)
        if found is None:
            raise AssertionError(f"waited {timeout} s for a message; {self._account(since)}")
        return found

    def settle(self, timeout: float = REASONABLE) -> None:
        """Return when everything that the broker had accepted before this call has arrived here."""
        fence = f"{FENCE_PREFIX}{self._id}/{uuid.uuid4().hex}"
        self.publish(fence, "")
        with self._changed:
            if not self._changed.wait_for(lambda: fence in self._fences, timeout):
                raise AssertionError(f"the broker did not send the fence back in {timeout} s")
            self._fences.discard(fence)

    def wait_connected(self, timeout: float = REASONABLE) -> None:
        """Return once the broker has accepted the subscriptions, after a broker's restart for instance."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._subscribed, timeout):
                raise AssertionError(f"not connected in {timeout} s: {self._failure}")

    def retained(self) -> dict[str, str]:
        """Return topic → payload of what the broker retains right now, as a fresh connection gets it."""
        with self._sibling() as fresh:
            fresh.settle()
            return {
                message.topic: message.payload
                for message in fresh.messages()
                if message.retain and any(topic_matches_sub(topic, message.topic) for topic in self.topics)
            }

    # -- what it publishes

    def publish(
        self, topic: str, payload: str | bytes = "", *, retain: bool = False, qos: int = 1, timeout: float = REASONABLE
    ) -> None:
        """Publish, and wait until the broker has accepted it."""
        assert self._client is not None, "the watcher is not started"
        mid = self._client.publish(topic, payload, qos=qos, retain=retain).mid
        with self._changed:
            if not self._changed.wait_for(lambda: mid in self._acknowledged, timeout):
                raise AssertionError(f"no PUBACK for {topic} in {timeout} s")
            self._acknowledged.remove(mid)

    # -- inside

    def _sibling(self) -> "Watcher":
        username, password = self._login
        return Watcher(self._port, self.topics, username=username, password=password)

    def _make_client(self) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, client_id=f"watcher-{uuid.uuid4().hex[:12]}")
        username, password = self._login
        if username is not None:
            client.username_pw_set(username, password)
        client.reconnect_delay_set(RECONNECT_DELAY, RECONNECT_DELAY)  # type: ignore[arg-type]  # no whole seconds
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._failed(f"refused: {reason}")
            return
        client.subscribe([(topic, 1) for topic in (*self.topics, f"{FENCE_PREFIX}{self._id}/#")])

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self._failed("nobody listens")

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._failed(f"disconnected: {reason}")

    def _on_subscribe(
        self, _client: Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        with self._changed:
            self._subscribed = not refused
            self._failure = f"subscription refused: {refused}" if refused else None
            self._changed.notify_all()

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        with self._changed:
            if not message.topic.startswith(FENCE_PREFIX):
                payload = message.payload.decode(errors="replace")
                order = len(self._messages)
                self._messages.append(Message(order, message.topic, payload, message.retain, message.qos))
            elif message.topic.startswith(f"{FENCE_PREFIX}{self._id}/"):
                self._fences.add(message.topic)
            self._changed.notify_all()

    def _on_publish(self, _client: Client, _data: Any, mid: int, *_: object) -> None:
        with self._changed:
            self._acknowledged.add(mid)
            self._changed.notify_all()

    def _failed(self, why: str) -> None:
        with self._changed:
            self._subscribed = False
            self._failure = self._failure or why  # the first one is the reason
            self._changed.notify_all()

    def _account(self, since: int) -> str:
        with self._changed:
            came = self._messages[since:]
        lines = [f"  {m.order}: {m.topic}{' (retained)' if m.retain else ''} {m.payload[:300]}" for m in came]
        return "\n".join([f"these {len(came)} came:", *lines[-60:]])
