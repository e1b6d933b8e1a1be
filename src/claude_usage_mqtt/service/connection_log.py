"""Logs the connection to the broker: one line when it is lost, one when it is back. No I/O."""

from __future__ import annotations

import logging

from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.mqtt.connection import Connected, Disconnected

log = logging.getLogger(__name__)

STEADY_AFTER = 10.0
"""Seconds a connection must last to count as back if the one before did not: a broker that disconnects us
each time (a client id that somebody else has too) would fill the log."""


class ConnectionLog:
    """The connection as people should see it in the log; instants are seconds of one steady clock."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._outage = Outage(log)
        self._since: float | None = None
        self._is_shaky = False
        self.steady_at: float | None = None
        """When to call `tick`."""

    def connected(self, notice: Connected, now: float) -> None:
        """Note a connection."""
        log.debug("Connected with MQTT %s", notice.version)
        self._since = now
        if self._is_shaky:
            self.steady_at = now + STEADY_AFTER
        else:
            self._log_up()

    def disconnected(self, notice: Disconnected, now: float) -> None:
        """Note that there is none, or none anymore."""
        if self._since is not None:
            self._is_shaky = now - self._since < STEADY_AFTER
        self._since = self.steady_at = None
        self._outage.down("refused" if notice.refused else "lost", str(notice.error))

    def tick(self, now: float) -> None:
        """Log that it is back, if its loss was logged."""
        if self.steady_at is not None and now >= self.steady_at:
            self.steady_at, self._is_shaky = None, False
            self._log_up()

    def _log_up(self) -> None:
        self._outage.up(f"Connected to the broker at {self._address} again.")
