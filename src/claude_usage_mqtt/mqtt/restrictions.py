"""What the broker does not let us do, logged once for each topic, with what to change."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from claude_usage_mqtt.mqtt.client import Message

log = logging.getLogger(__name__)

SUSPENDED_FOR = 3600.0
"""Seconds for which a message that the broker does not accept is suspended: Mosquitto 2.0 disconnects after each."""

SUSPECT_SIZE = 4096
SUSPECT_AFTER = 3
"""Bytes, and connections in a row that ended at the same announcement, until it is suspended. Without this a broker
that disconnects at a large packet (Mosquitto with MQTT 3.1.1) would keep the numbers from ever arriving."""

FOR_GOOD = frozenset({"Not authorized", "Topic name invalid", "Packet too large", "Payload format invalid"})
"""Refusals that trying again does not change."""

MAX_NOTED = 1000


class Restrictions:
    """Topics that cannot be published for now. `announcements` is the prefix of topics that the rest works without."""

    def __init__(self, announcements: str) -> None:
        self._announcements = announcements
        self._noted: set[str] = set()
        self._suspicions: dict[str, int] = {}
        self._suspended: dict[str, float] = {}

    def is_announcement(self, topic: str) -> bool:
        """Whether a topic announces entities to Home Assistant."""
        return bool(self._announcements) and topic.startswith(self._announcements)

    def allow(self, message: Message, max_packet: int | None) -> bool:
        """Whether to publish a message now, to a broker that accepts packets of that many bytes."""
        size = len(message.topic.encode()) + len(message.payload) + 16
        if max_packet is None or size <= max_packet:
            return time.monotonic() >= self._suspended.get(message.topic, 0.0)
        self._note(
            [message.topic],
            f"The broker accepts no packet over {max_packet} bytes and {message.topic} needs {size}; raise its limit.",
        )
        return False

    def delivered(self, topic: str) -> None:
        """Note that a message did not harm the connection."""
        self._suspicions.pop(topic, None)

    def refused(self, topic: str, reason: str) -> None:
        """Note that the broker refused a message; if that may be temporary, it is sent again with the next change."""
        if reason not in FOR_GOOD:
            log.debug("The broker did not accept %s (%s)", topic, reason)
            return
        self._suspicions.pop(topic, None)
        self._suspended[topic] = time.monotonic() + SUSPENDED_FOR
        self._note(
            [topic],
            f"The broker refused {topic} ({reason}); publishing it is suspended for an hour: "
            "allow this user to write there.",
        )

    def disconnected_at(self, topic: str, size: int) -> None:
        """Note an announcement that the broker had not confirmed when it disconnected."""
        if size < SUSPECT_SIZE:
            return
        count = self._suspicions[topic] = self._suspicions.get(topic, 0) + 1
        if count == SUSPECT_AFTER:
            self._suspended[topic] = time.monotonic() + SUSPENDED_FOR
            self._note(
                [topic],
                f"The broker disconnects every time we publish {topic} ({size} bytes); publishing it is suspended for "
                "an hour: raise the broker's limit for messages, or allow this user to write there.",
            )

    def settled(self, missing: Iterable[str]) -> None:
        """Note the announcements that have not come back: MQTT 3.1.1 cannot report that a message was refused."""
        wanted = sorted(missing)
        for topic in wanted:
            self.delivered(topic)
        self._note(
            wanted,
            f"Home Assistant cannot find the entities: the broker did not return {', '.join(wanted)}. "
            "Allow this user to read and write there, and the broker to accept messages of that size.",
        )
        log.debug("Announcements that have not come back: %d", len(wanted))

    def not_subscribed(self, topics: Iterable[str]) -> None:
        """Note subscriptions that the broker refused."""
        wanted = sorted(topics)
        self._note(wanted, f"The broker refused the subscription to {', '.join(wanted)}; allow this user to read that.")

    def _note(self, topics: list[str], sentence: str) -> None:
        if set(topics) - self._noted and len(self._noted) < MAX_NOTED:
            self._noted.update(topics)
            log.warning("%s", sentence)
