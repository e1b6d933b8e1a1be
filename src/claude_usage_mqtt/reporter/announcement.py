"""What a reporter keeps retained about itself, and what it does if somebody else writes there."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.sources.reporter_messages import AnnouncedLogin, Presence, encode_presence, parse_presence
from claude_usage_mqtt.topics import ReporterTopics

log = logging.getLogger(__name__)

BOTH_NEW = 5.0
"""Real seconds after the first announcement in which another reporter of the same name has also just started: both
asked before either could answer."""

REASSERT_AFTER = 10.0
"""Real seconds between announcements that correct somebody else's: two reporters of one name must not cause a storm."""

ECHO = 5.0
"""Real seconds in which an older announcement of ours may still come back."""


def same_name(machine: str) -> str:
    """Return what to do if two reporters have one name."""
    return (
        f"Another reporter named {machine} is running; "
        "set MACHINE_NAME to a different name here, or stop the other one."
    )


class Announcement:
    """The presence of one reporter. Instants are those of `time.monotonic`."""

    def __init__(self, topics: ReporterTopics, publisher: Publisher) -> None:
        self._topics = topics
        self._publisher = publisher
        self._instance = secrets.token_hex(8)
        self._payload = b""
        self._first_sent_at = float("inf")
        self._sent_at = float("-inf")
        self._name = Outage(log)
        self.due_at: float | None = None
        """When to repeat an announcement that has not changed."""

    def update(self, accounts: Mapping[str, AnnouncedLogin]) -> None:
        """Announce these logins, if they are not announced."""
        payload = encode_presence(Presence(online=True, instance=self._instance, accounts=accounts))
        if payload != self._payload:
            self._payload, self._sent_at = payload, time.monotonic()
            self._first_sent_at = min(self._first_sent_at, self._sent_at)
            self._publisher.retain(self._topics.presence, payload)

    def connected(self) -> None:
        """Announce everything again on a new connection."""
        self._publisher.send_all()
        self._sent_at = time.monotonic()

    def plan(self, at: float) -> None:
        """Announce again at an instant, unless that is planned already."""
        if self.due_at is None:
            self.due_at = at

    def tick(self, now: float) -> None:
        """Announce again if it is time."""
        if self.due_at is not None and now >= self.due_at:
            self.due_at = None
            if self._payload:
                self._sent_at = now
                self._publisher.republish(self._topics.presence)

    def seen(self, message: Message, *, is_named: bool) -> None:
        """Announce again if what is retained is not what we announced: an old will, a second reporter, a stranger.

        `is_named`: the name is ours. Raises SettingsError if it belongs to another reporter.
        """
        now = time.monotonic()
        if message.payload == self._payload:
            return
        other = parse_presence(message.payload)
        if other is not None and (message.retain or not other.online or other.instance == self._instance):
            other = None  # it may be gone
        if other is not None and self._gives_way(other, now):
            raise SettingsError(same_name(self._topics.machine))
        if not is_named or (self._publisher.has_sent(message) and now - self._sent_at < ECHO):
            return
        if other is not None:
            self._name.down("shared", same_name(self._topics.machine))
        self.plan(max(now, self._sent_at + REASSERT_AFTER))

    def _gives_way(self, other: Presence, now: float) -> bool:
        """Whether the name belongs to another running reporter: it was there first, or both have just started."""
        if other.instance is None or now - self._first_sent_at > BOTH_NEW:
            return False
        return not self._payload or other.instance < self._instance
