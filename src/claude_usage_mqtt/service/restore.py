"""Reading at the start what an earlier run left on the broker: its retained topics, by exact name.

Not by wildcard: not every broker replays retained messages to one. A broker does not report missing messages, so our
own message, sent after the subscription and received again, shows that everything retained has arrived.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, Topics, encode
from claude_usage_mqtt.untrusted import json_object

log = logging.getLogger(__name__)

FENCE = "fence"

ROUNDS = 4
"""How often the fence is sent again while anything is missing: on some brokers (aedes) it comes first."""

LONGEST_WAIT = timedelta(minutes=10)
"""A sign of life that reaches further ahead is not ours, or was made by a wrong clock."""

LONGEST = 10.0
"""Real seconds after which nothing more is expected: a link may be slow."""

QUIET = 2.0
"""Real seconds after a message until no other is expected, if the broker does not return our own messages."""


class RetainedReader:
    """What has been read so far; the `fence` is sent at first, and again whenever it came back too early."""

    def __init__(self, topics: Iterable[str], fence: str, began: float) -> None:
        self.topics = list(topics)
        self.found: dict[str, bytes] = {}
        self.ends_at = began + LONGEST
        self.fence = Message(topic=fence, payload=secrets.token_hex(8).encode())
        self._rounds = 0

    def take(self, message: Message, now: float) -> bool:
        """Process a message; return whether it was for us."""
        if message.topic in self.topics:
            self.found[message.topic] = message.payload
            self.ends_at = now + QUIET
        elif message == self.fence:
            self._rounds += 1
        return message.topic in (*self.topics, self.fence.topic)

    def is_over(self, now: float) -> bool:
        """Whether everything retained has arrived, or waiting longer is useless."""
        return self._rounds >= ROUNDS or len(self.found) == len(self.topics) or now >= self.ends_at


def own_document(retained: Mapping[str, bytes], topic: str, account: str) -> dict[str, Any]:
    """Return the state, health or memory document that was retained under `topic`, untrusted.

    Empty if there was none, and, with one line in the log, if it is not one of `account`.
    """
    document = json_object(retained.get(topic))
    is_mine = document.get("account", account) == account and document.keys() & {"windows", "status", "usage"}
    if retained.get(topic) and not is_mine:
        log.warning("Ignoring the retained message in %s: not ours, or corrupt.", topic)
    return document if is_mine else {}


def lives_elsewhere(found: Mapping[str, bytes], topics: Topics, instance: str, now: datetime) -> datetime | None:
    """Return until when another instance is alive, by what it retained for an account; None if it is not."""
    if json_object(found.get(topics.memory)).get("instance") in (None, instance):
        return None
    return alive_until(found.get(topics.health), now)


def alive_until(health: bytes | None, now: datetime) -> datetime | None:
    """Return until when the sender of a health document, untrusted, is alive; None if it is not."""
    until = parse_instant(json_object(health).get("alive_until"))
    return until if until is not None and now < until <= now + LONGEST_WAIT else None


def inherited(found: Mapping[str, bytes], own: Topics) -> dict[str, bytes]:
    """Return what was retained for `default` as if it were the own account's; empty if there is nothing to continue.

    `found` holds retained messages by topic. Version 1 called the only account `default` even if it had a name: its
    numbers, events and limits continue under the name, and its entities keep their ids, to which Home Assistant's
    history belongs. An account that has its own topics continues those. What version 2 retained for `default` belongs
    to another service, whose account has no name.
    """
    former = own._replace(account=DEFAULT_ACCOUNT)
    if own.account == DEFAULT_ACCOUNT or found.get(own.health) or found.get(own.state) or found.get(former.memory):
        return {}
    pairs = ((former.state, own.state), (former.health, own.health))
    documents = {new: json_object(found.get(old)) for old, new in pairs}
    return {topic: encode(document | {"account": own.account}) for topic, document in documents.items() if document}
