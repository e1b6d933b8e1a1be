"""Which version of MQTT to speak: 5, or 3.1.1 with brokers that do not know it, some of which do not say so."""

from __future__ import annotations

from paho.mqtt.enums import MQTTProtocolVersion

from claude_usage_mqtt.mqtt import client
from claude_usage_mqtt.mqtt.client import V3, V5
from claude_usage_mqtt.mqtt.connection import Disconnected
from claude_usage_mqtt.mqtt.options import BrokerOptions

SILENT_AFTER = 2.0
"""Seconds for the response to the first attempt in MQTT 5: some brokers (amqtt) only ever respond to 3.1.1."""

SILENCES = 5
"""Attempts that end without a reason until a broker that has spoken MQTT 5 before is asked for 3.1.1: it is much
more often just restarting behind a proxy."""


class Protocols:
    """The version to try now; with `auto` 5 first, and the other one if the broker does not seem to know it."""

    def __init__(self, options: BrokerOptions) -> None:
        self.current: MQTTProtocolVersion = V3 if options.protocol == "3.1.1" else V5
        self._has_choice = options.protocol == "auto"
        # Without `_knows_5` a broker that restarts would be asked for 3.1.1 from then on; without `_has_switched` one
        # that is away would be asked in both versions by turns, without any pause.
        self._has_switched = self._knows_5 = False
        self._silences = 0

    @property
    def patience(self) -> float:
        """Seconds that the broker may take to accept us."""
        is_first = self._has_choice and self.current == V5 and not self._knows_5
        return SILENT_AFTER if is_first else client.CONNECT_TIMEOUT

    def retries_at_once_after(self, ended: Disconnected) -> bool:
        """Note how a connection ended; return whether to try the other version at once, which is done once."""
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
