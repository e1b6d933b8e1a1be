"""Keeps a connection to the broker: one after the other, in its own thread, until stopped."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Connection, ConnectionEvent
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.protocols import Protocols

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between attempts to connect, doubling until a connection has settled."""


class Connector:
    """The thread that connects; `notify` gets what happens on each connection, and why there is none.

    With `stopping` set it makes no other connection, and does not report the end of the last one.
    """

    def __init__(
        self, options: BrokerOptions, notify: Callable[[ConnectionEvent], None], will: Message | None = None
    ) -> None:
        self._options = options
        self._will = will
        self._notify = notify
        self._connection: Connection | None = None  # the one that is connecting, connected or ending
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected, name="broker", daemon=True)
        self.start = self._thread.start
        self.is_alive = self._thread.is_alive

    def stop(self, patience: float) -> None:
        """End the connection and the thread, within twice `patience` seconds."""
        self.stopping.set()
        if self._connection is not None:
            self._connection.client.close(patience)
        self._thread.join(patience)
        self._connection = None  # the last client closes its sockets when nothing refers to it

    def _keep_connected(self) -> None:
        protocols = Protocols(self._options)
        delay = FIRST_DELAY
        while not self.stopping.is_set():
            self._connection = Connection(self._options, protocols.current, self._notify, will=self._will)
            ended = self._connection.run(self.stopping, protocols.patience)
            if self.stopping.is_set():
                return
            if protocols.retries_at_once_after(ended):
                continue
            self._notify(ended)
            if ended.settled:
                delay = FIRST_DELAY
            self.stopping.wait(delay * random.uniform(0.75, 1.25))
            delay = min(2 * delay, LONGEST_DELAY)
