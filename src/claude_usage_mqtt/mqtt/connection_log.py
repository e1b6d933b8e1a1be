"""Logs that the connection to the broker is lost, once for each outage, and that it is back, once it lasts."""

from __future__ import annotations

import logging

from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.mqtt.connection import Connected, Disconnected

log = logging.getLogger(__name__)


class ConnectionLog:
    """The first connection after one that lasted is logged at once, each later one only if it lasts itself."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._outage = Outage(log)
        self._is_shaky = False
        """Whether the last connection ended early."""

    def connected(self, event: Connected) -> None:
        """Note a new connection."""
        log.debug("Connected with MQTT %s", event.version)
        if not self._is_shaky:
            self._up()
        self._is_shaky = True

    def settled(self) -> None:
        """Note that the connection lasts."""
        self._is_shaky = False
        self._up()

    def disconnected(self, event: Disconnected) -> None:
        """Note that there is no connection, or no longer one."""
        self._outage.down("refused" if event.refused else "lost", str(event.error))

    def _up(self) -> None:
        self._outage.up(f"Connected to the broker at {self._address} again.")
