"""Keeps a connection to the broker, making a new one after each, in its own thread, until stopped.

Each uses MQTT 5, or 3.1.1 with brokers that do not know it, some of which do not say so.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from paho.mqtt.enums import MQTTProtocolVersion

from claude_usage_mqtt.mqtt import client
from claude_usage_mqtt.mqtt.client import V3, V5, Message
from claude_usage_mqtt.mqtt.connection import Connection, ConnectionEvent, Disconnected
from claude_usage_mqtt.mqtt.options import BrokerOptions

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between attempts to connect, doubling until a connection has settled."""

SILENT_AFTER = 2.0
"""Seconds for the response to the first attempt in MQTT 5: some brokers (amqtt) only ever respond to 3.1.1."""

SILENCES = 5
"""Attempts that end without a reason until a broker that has spoken MQTT 5 before is asked for 3.1.1: it is much
more often just restarting behind a proxy."""


class Protocols:
    """The version to try now; with `auto` 5 first, and 3.1.1 if the broker does not seem to know it."""

    def __init__(self, options: BrokerOptions) -> None:
        self.current: MQTTProtocolVersion = V3 if options.protocol == "3.1.1" else V5
        self._has_choice = options.protocol == "auto"
        # Without `_knows_5` a broker that restarts would be asked for 3.1.1 from then on; without `_has_switched` one
        # that is away would be asked in both versions alternately, without any pause.
        self._has_switched = self._knows_5 = False
        self._silences = 0

    @property
    def patience(self) -> float:
        """Seconds that the broker may take to accept us."""
        is_first = self._has_choice and self.current == V5 and not self._knows_5
        return SILENT_AFTER if is_first else client.CONNECT_TIMEOUT

    def retries_at_once_after(self, ended: Disconnected) -> bool:
        """Note how a connection ended; return whether to try the other version at once, which happens only once."""
        self._silences = self._silences + 1 if ended.silent else 0
        if ended.accepted:
            self._has_switched, self._knows_5 = False, self.current == V5
            return False
        tolerated = SILENCES if self._knows_5 and self.current == V5 else 1
        if not self._has_choice or not (ended.wrong_protocol or self._silences >= tolerated):
            return False
        self.current, self._silences = V3 if self.current == V5 else V5, 0
        switched, self._has_switched = self._has_switched, True
        return not switched


class Connector:
    """The thread that connects; `notify` gets what happens on each connection, and why there is none.

    With `stopping` set it makes no more connections, and does not report the end of the last one.
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
        self._connection = None  # the last client closes its sockets when nothing refers to it anymore

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
