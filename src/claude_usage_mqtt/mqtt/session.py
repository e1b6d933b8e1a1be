"""A connection for one job: made within a deadline or not at all, and never made again."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Self

from claude_usage_mqtt.errors import BrokerRefused, BrokerUnreachable
from claude_usage_mqtt.mqtt import explain
from claude_usage_mqtt.mqtt.client import Message, require_readable, with_own_id
from claude_usage_mqtt.mqtt.connection import (
    Acknowledged,
    Connected,
    Connection,
    ConnectionEvent,
    Disconnected,
    Subscribed,
)
from claude_usage_mqtt.mqtt.connector import Protocols
from claude_usage_mqtt.mqtt.delivery import portions
from claude_usage_mqtt.mqtt.options import BrokerOptions

WITHIN = 10.0
"""Seconds for each step, by default."""

CLOSE_WITHIN = 0.5
"""Seconds to disconnect; a broker that does not respond is given up after twice that."""


def publish_once(options: BrokerOptions, message: Message, within: float = WITHIN) -> None:
    """Connect, publish one message, wait for its acknowledgment and disconnect; raises BrokerError or SettingsError."""
    until = time.monotonic() + within
    with Session(options, within) as session:
        session.publish(message, until - time.monotonic())


class Session:
    """A connection that is open inside a `with`; MQTT 5, or 3.1.1 if the options or the broker require that.

    Every method is for one thread, takes at most `within` seconds and raises BrokerError: BrokerUnreachable
    if there was no connection, no response in time, or the connection was lost; BrokerRefused if the broker refused.
    """

    def __init__(self, options: BrokerOptions, within: float = WITHIN, *, as_service: bool = False) -> None:
        """Prepare; `as_service` connects with the service's own client id, which disconnects a running service."""
        self._options = options if as_service else with_own_id(options)
        self._within = within
        self._connected: Connected | None = None
        self._failures: list[Disconnected] = []
        self._stopping = threading.Event()
        self._arrived: queue.Queue[ConnectionEvent] = queue.Queue()
        self._answers: dict[int, Acknowledged | Subscribed] = {}
        self._messages: list[Message] = []

    @property
    def version(self) -> str:
        """The protocol's version, for people."""
        return self._open().version

    def __enter__(self) -> Self:
        """Connect and log in, with MQTT 3.1.1 if the broker does not know 5; raises SettingsError for files."""
        until = time.monotonic() + self._within
        require_readable(self._options)
        protocols = Protocols(self._options)
        while True:
            # A broker that only knows 3.1.1 may not respond to 5 at all: that must leave time for 3.1.1.
            patience = min(protocols.patience, (until - time.monotonic()) / 2)
            connection = Connection(self._options, protocols.current, self._arrived.put)
            threading.Thread(target=self._run, args=(connection, patience), name="broker", daemon=True).start()
            has_ended = self._wait(lambda: bool(self._connected or self._failures), until)
            if self._connected is not None:
                return self
            if not has_ended:
                self._stopping.set()
                raise explain.failed_attempt(TimeoutError(), self._options)
            failure = self._failures.pop()
            if not protocols.retries_at_once_after(failure):
                raise failure.error

    def _run(self, connection: Connection, patience: float) -> None:
        # In a thread, because a name lookup has no deadline.
        self._arrived.put(connection.run(self._stopping, patience))

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        connected, self._connected = self._connected, None
        if connected is not None:
            connected.client.close(CLOSE_WITHIN)

    def publish(self, message: Message, within: float = WITHIN) -> None:
        """Publish and wait until the broker has accepted it.

        With MQTT 3.1.1 a broker also accepts messages that it then discards for lack of permission.
        """
        info = self._open().client.send(message)
        answer = self._answer(info.mid, within)
        if isinstance(answer, Acknowledged) and answer.refusal is not None:
            raise BrokerRefused(
                f"The broker at {self._options.address} refused {message.topic} ({answer.refusal}); "
                "allow this user to write there."
            )

    def subscribe(self, filters: Iterable[str], within: float = WITHIN) -> list[str]:
        """Subscribe to topics and wait for the answer; return those that were refused."""
        refused: list[str] = []
        for some in portions(filters):
            _, mid = self._open().client.subscribe([(topic, 1) for topic in some])
            answer = self._answer(mid or 0, within)
            verdicts = answer.refused if isinstance(answer, Subscribed) else ()
            refused += [topic for topic, is_refused in zip(some, verdicts, strict=False) if is_refused]
        return refused

    def read(self, topics: Collection[str], quiet: float, within: float = WITHIN) -> dict[str, bytes]:
        """Return what is retained under these topics: until all have come, or none has for `quiet` seconds."""
        self.subscribe(topics, within)
        found: dict[str, bytes] = {}
        while found.keys() != set(topics) and (message := self.receive(quiet)) is not None:
            found[message.topic] = message.payload
        return found

    def receive(self, within: float) -> Message | None:
        """Return the next message that arrived, None if none came in time."""
        until = time.monotonic() + within
        return self._messages.pop(0) if self._wait(lambda: bool(self._messages), until) else None

    def collect(self, quiet: float, within: float = WITHIN) -> list[Message]:
        """Return the messages that arrive until none has come for `quiet` seconds.

        There is no other sign of the end: no broker says that it has sent everything retained.
        """
        until = time.monotonic() + within
        found: list[Message] = []
        while (message := self.receive(min(quiet, until - time.monotonic()))) is not None:
            found.append(message)
        return found

    def _answer(self, mid: int, within: float) -> Acknowledged | Subscribed:
        if not self._wait(lambda: mid in self._answers, time.monotonic() + within):
            raise explain.failed_attempt(TimeoutError(), self._options)
        return self._answers.pop(mid)

    def _wait(self, has_come: Callable[[], bool], until: float) -> bool:
        """Process what arrives; return whether the expected answer came in time."""
        while not has_come():
            try:
                notice = self._arrived.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return False
            match notice:
                case Acknowledged(mid=mid) | Subscribed(mid=mid):
                    self._answers[mid] = notice
                case Message():
                    self._messages.append(notice)
                case Connected():
                    self._connected = notice
                case Disconnected() if self._connected is None:
                    self._failures.append(notice)
                case Disconnected(error=error):
                    self._connected = None
                    raise error
        return True

    def _open(self) -> Connected:
        if self._connected is None:
            raise BrokerUnreachable(f"No connection to the broker at {self._options.address}.")
        return self._connected
