"""Devices that an earlier run published and this one does not: found by what that run left. No I/O.

Only what is ours is removed: what is retained under our base topic, and discovery messages that name it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from claude_usage_mqtt.homeassistant.discovery import announced_by
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.topics import Topics

MAX_FORMER = 500
ACCOUNT_ID = re.compile(r"[a-z0-9_]{1,40}")
SINGLE = "default"


class FormerDevices:
    """What is to be removed: the topics in `gone` at once, and of those in `suspects` what turns out to be ours."""

    def __init__(self, own: Topics, current: Iterable[str], found: Mapping[str, bytes]) -> None:
        """Draw conclusions from what was `found` under the topics of the summary and of the account `default`.

        `own` are any topics of ours, `current` the ids of the accounts in the settings.
        """
        current = set(current)
        self._status = own.status
        summary = Topics(base=own.base, account=SUMMARY, prefix=own.prefix)
        former = [] if SINGLE in current else [SINGLE]
        former += [name for name in former_accounts(found.get(summary.state)) if name not in current | {SINGLE}]
        devices = [Topics(base=own.base, account=name, prefix=own.prefix) for name in former]
        stood = [topic for each in devices for topic in (each.state, each.health, each.memory)]
        # Only the single account's were read back; of the others the summary says that they stood there.
        self.gone = [topic for topic in stood if topic in found or not topic.startswith(f"{own.base}/{SINGLE}/")]
        self.suspects = {each.config for each in devices}
        if len(current) == 1:
            self.gone += [summary.state] if summary.state in found else []
            self.suspects.add(summary.config)
        self.gone += [topic for topic in sorted(self.suspects) if announced_by(found.get(topic, b"")) == self._status]

    def claim(self, message: Message) -> bool:
        """Whether a message is a discovery message that is to be removed."""
        return message.topic in self.suspects and announced_by(message.payload) == self._status


def former_accounts(payload: bytes | None) -> list[str]:
    """Return the accounts that the summary of an earlier run names, untrusted."""
    try:
        document = json.loads(payload or b"null")
    except (ValueError, RecursionError):
        return []
    names = document.get("accounts") if isinstance(document, dict) else None
    if not isinstance(names, list):
        return []
    return [name for name in names[:MAX_FORMER] if isinstance(name, str) and ACCOUNT_ID.fullmatch(name)]
