"""The time before the service publishes: reading what was retained, and standing by while another instance runs."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import datetime

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.homeassistant.discovery import announced_by
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.restore import FENCE, RetainedReader, lives_elsewhere
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, OFFLINE

log = logging.getLogger(__name__)

STATUS_TOPIC = re.compile(r"[A-Za-z0-9_/-]{1,100}/status")

STANDING_BY = (
    "Another instance publishes %s until %s at least: standing by. Stop one of the two; on a machine where Claude Code "
    "is used, run 'claude-usage-mqtt report' instead, which serves the other instance. A container that was re-created "
    "recognizes what it published itself if MACHINE_NAME is set."
)


class Startup:
    """What happens from a connection until the service may publish; real seconds are those of `time.monotonic`."""

    def __init__(self, options: ServiceOptions, publisher: Publisher, clock: Clock) -> None:
        self._options = options
        self._status = options.first.topics.status
        self._publisher = publisher
        self._clock = clock
        self._reader: RetainedReader | None = None
        self._found: dict[str, bytes] = {}
        self._is_online = False
        self._stands_by_until: datetime | None = None
        self.ends_at: float | None = None
        """When to call `found` again: the wait for what was retained, or for another instance, is over."""

    def connected(self, real: float) -> None:
        """Ask for what was retained."""
        accounts = [account.topics for account in self._options.accounts]
        first, names = accounts[0], {topics.account for topics in accounts}
        devices = accounts + [first._replace(account=name) for name in (SUMMARY, DEFAULT_ACCOUNT) if name not in names]
        self._found = {}
        self._publisher.subscribe([self._status])
        self._read([topic for own in devices for topic in (own.state, own.config, own.health, own.memory)], real)

    def _read(self, topics: list[str], real: float) -> None:
        self._reader = RetainedReader(topics, self._options.first.topics.command(FENCE), real)
        self.ends_at = self._reader.ends_at
        self._publisher.subscribe(topics)
        self._publisher.publish(self._reader.fence)

    def disconnected(self) -> None:
        """Forget what has arrived: it will arrive again."""
        self._reader = self.ends_at = None

    def take(self, message: Message, real: float) -> bool:
        """Process a message; return whether it was for us."""
        if message.topic == self._status:
            self._is_online = message.payload != OFFLINE and bool(message.payload)
            if self._reader is None and self.ends_at is not None and not self._is_online:
                self.ends_at = real  # the other instance has stopped
            return True
        if self._reader is None or not self._reader.take(message, real):
            return False
        self.ends_at = self._reader.ends_at
        if message == self._reader.fence and not self._reader.is_over(real):
            self._publisher.publish(message)
        return True

    def found(self, real: float, now: datetime) -> Mapping[str, bytes] | None:
        """Return what was retained once the service may publish, None until then."""
        if self._reader is None:
            if self.ends_at is not None and real >= self.ends_at:
                self.connected(real)
            return None
        if not self._reader.is_over(real):
            return None
        reader, self._reader = self._reader, None
        # The health topics stay subscribed, to notice other instances: some brokers (aedes) take requests in any order.
        kept = {account.topics.health for account in self._options.accounts}
        self._publisher.unsubscribe(topic for topic in reader.topics if topic not in kept)
        self._found |= reader.found
        foreign = self._foreign_services()
        if foreign:
            self._read(foreign, real)
            return None
        others = self._others(now)
        until = max(others.values(), default=None)
        if until is None and not self._found.keys() & kept:
            until = self._stands_by_until  # the broker forgot everything; the other instance is about to be back
        if until is None or until <= now or not self._is_online:
            self.ends_at = self._stands_by_until = None
            return self._found
        if self._stands_by_until is None:
            log.warning(STANDING_BY, ", ".join(others), until.astimezone().strftime("%H:%M"))
        else:
            log.debug("Still standing by, until %s at least", until.astimezone().strftime("%H:%M"))
        self._stands_by_until = until
        self.ends_at = real + self._clock.to_real((until - now).total_seconds() + 1)
        return None

    def _foreign_services(self) -> list[str]:
        """Return the status topics, not read yet, of services that announced our devices under another base topic."""
        configs = [self._found.get(account.topics.config, b"") for account in self._options.accounts]
        services = {announced_by(config) for config in configs} - {None, self._status}
        unread = sorted(
            service
            for service in services
            if service is not None and service not in self._found and STATUS_TOPIC.fullmatch(service)
        )
        self._found |= dict.fromkeys(unread, b"")
        return unread

    def _others(self, now: datetime) -> dict[str, datetime]:
        """Return which of our accounts another instance publishes, and until when its messages may be trusted."""
        topics = [account.topics for account in self._options.accounts]
        alive = {own.account: lives_elsewhere(self._found, own, self._options.first.instance, now) for own in topics}
        return {name: until for name, until in alive.items() if until is not None}
