"""Devices that an earlier run published and this one does not: recognized by what that run left. No I/O.

Only ours are removed: what is retained under our base topic, and discovery messages that name it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime

from claude_usage_mqtt.homeassistant.discovery import announced_by
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.restore import lives_elsewhere
from claude_usage_mqtt.topics import ACCOUNT_ID, DEFAULT_ACCOUNT, Topics
from claude_usage_mqtt.untrusted import json_object

MAX_FORMER = 500

log = logging.getLogger(__name__)


class FormerDevices:
    """The topics to remove: those in `gone` at once, and those in `suspects` that turn out to be ours.

    Topics of another running instance under the same base topic are not ours, and stay.
    """

    def __init__(self, options: ServiceOptions, found: Mapping[str, bytes], now: datetime) -> None:
        """Evaluate what was `found` under the topics of the summary and of the account `default`."""
        own, current = options.first.topics, {account.topics.account for account in options.accounts}
        self._status, self._instance, self._now = own.status, options.first.instance, now
        self._seen = dict(found)
        self._left: set[str] = set()  # accounts of our earlier run, which are removed
        summary, default = own._replace(account=SUMMARY), own._replace(account=DEFAULT_ACCOUNT)
        names = [name for name in former_accounts(found.get(summary.state)) if name not in current | {DEFAULT_ACCOUNT}]
        self._others = [own._replace(account=name) for name in names]
        # The order matters: a broker sends retained messages in the order of the subscriptions.
        self.suspects = [topic for other in self._others for topic in (other.memory, other.config, other.health)]
        self.gone: list[str] = []
        if DEFAULT_ACCOUNT not in current and not self._is_kept(default):
            self.gone += [topic for topic in (default.state, default.health, default.memory) if topic in found]
            self.suspects.append(default.config)
        if len(current) == 1:
            self.gone += [summary.state] if summary.state in found else []
        if len(current) == 1 or not options.first.discovery:
            self.suspects.append(summary.config)
        # Version 1's entities cannot read an empty message, and complain in Home Assistant's log: they go first.
        self.gone = self._announced(self.suspects) + self.gone

    def found(self, message: Message) -> list[str]:
        """Return the topics to remove because of a message under one of the `suspects`."""
        if not message.payload:
            return []
        self._seen[message.topic] = message.payload
        for other in self._others:
            if message.topic == other.health and not self._is_kept(other):
                self._left.add(other.account)
                return [*self._announced([other.config]), other.state, other.health, other.memory]
            if message.topic == other.config and other.account not in self._left:
                return []  # the account's health says whose it is
        return self._announced([message.topic])

    def _announced(self, topics: Iterable[str]) -> list[str]:
        """Return those of the topics under which we announced a device."""
        return [topic for topic in topics if announced_by(self._seen.get(topic, b"")) == self._status]

    def _is_kept(self, topics: Topics) -> bool:
        if lives_elsewhere(self._seen, topics, self._instance, self._now) is None:
            return False
        log.warning(
            "Another instance publishes %s/%s; its device stays. Give each instance its own MQTT_BASE_TOPIC.",
            topics.base,
            topics.account,
        )
        return True


def former_accounts(payload: bytes | None) -> list[str]:
    """Return the accounts that the summary of an earlier run names, untrusted."""
    names = json_object(payload).get("accounts")
    if not isinstance(names, list):
        return []
    return [name for name in names[:MAX_FORMER] if isinstance(name, str) and ACCOUNT_ID.fullmatch(name)]
