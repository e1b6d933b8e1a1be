"""Events on their way to whoever listens: delivered at least once, always with the same id. No I/O.

An event waits until the broker has been connected for a while, since its listeners come back seconds after it. If Home
Assistant was away, the event is delivered again after its next birth message. What waits is part of what is saved, so
that our restart loses nothing; it is dropped when its window is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import format_instant, parse_instant
from claude_usage_mqtt.topics import encode
from claude_usage_mqtt.untrusted import clean_text
from claude_usage_mqtt.usage.events import ACCOUNT, ACCOUNT_EVENT_TYPES, EVENT_TYPES, Event
from claude_usage_mqtt.usage.json_values import MAX_AHEAD
from claude_usage_mqtt.usage.reading import WINDOW_KEY

MAX_WAITING = 50
"""Of one account. The oldest are dropped: nobody wants more than that at once."""

SPACING = timedelta(seconds=1)
"""Between two events of one topic. The state of an event entity is the millisecond in which the event came: in Home
Assistant before 2026.8 two of the same millisecond are one change, and automations miss the second."""

MAX_EVENT = 1000
"""Characters of a saved event; ours have about 300."""


@dataclass(slots=True)
class Waiting:
    """An event that waits; `level` is the last of its topic. If it `awaits_birth`, only Home Assistant lacks it."""

    level: str
    document: dict[str, Any]
    expires_at: datetime
    awaits_birth: bool = False


class EventDelivery:
    """The events of one account that wait. Home Assistant counts as away until its birth message."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._waiting: list[Waiting] = []
        self._sent: dict[str, datetime] = {}
        """When the last event of each topic was sent, if that is not long enough ago for another one."""

    def add(self, events: Iterable[Event]) -> None:
        """Note what happened."""
        for event in events:
            self._waiting.append(Waiting(event.window or ACCOUNT, event.document(self._account), event.expires_at))
        del self._waiting[:-MAX_WAITING]

    def take(self, now: datetime, *, is_home_assistant_online: bool) -> Iterator[tuple[str, bytes]]:
        """Yield the topic level and payload of what is to be delivered now, and forget what needs nothing more.

        Call this while listeners are connected: after the broker was connected for a while, and after each birth. One
        event per topic is delivered within `SPACING`; if another one is due, call it again after that.
        """
        waiting, self._waiting = self._waiting, []
        self._sent = {level: at for level, at in self._sent.items() if timedelta(0) <= now - at < SPACING}
        for each in waiting:
            if now >= each.expires_at:
                continue
            is_due = is_home_assistant_online or not each.awaits_birth
            is_sent = is_due and each.level not in self._sent
            if is_sent:
                self._sent[each.level] = now
                yield each.level, encode(each.document)
            if not (is_sent and is_home_assistant_online):
                each.awaits_birth = each.awaits_birth or is_sent
                self._waiting.append(each)

    def has_due(self, *, is_home_assistant_online: bool) -> bool:
        """Whether `take` would deliver something."""
        return any(is_home_assistant_online or not each.awaits_birth for each in self._waiting)

    def save(self) -> list[dict[str, Any]]:
        """Return what waits as JSON."""
        return [
            {
                "level": each.level,
                "document": each.document,
                "expires_at": format_instant(each.expires_at),
                "awaits_birth": each.awaits_birth,
            }
            for each in self._waiting
        ]

    def restore(self, saved: object, now: datetime) -> None:
        """Continue from what was saved, untrusted."""
        for entry in saved[-MAX_WAITING:] if isinstance(saved, list) else ():
            waiting = _restored(entry, now)
            if waiting is not None:
                self._waiting.append(waiting)


def _restored(entry: object, now: datetime) -> Waiting | None:
    if not isinstance(entry, dict):
        return None
    level, document, expires_at = entry.get("level"), entry.get("document"), parse_instant(entry.get("expires_at"))
    if not isinstance(level, str) or not isinstance(document, dict) or expires_at is None:
        return None
    is_ours = level == ACCOUNT or WINDOW_KEY.fullmatch(level) is not None
    is_known = document.get("event_type") in (*EVENT_TYPES, *ACCOUNT_EVENT_TYPES)
    if not is_ours or not is_known or clean_text(document.get("id"), MAX_EVENT) is None:
        return None
    if not now < expires_at <= now + 2 * MAX_AHEAD or len(repr(document)) > 2 * MAX_EVENT:
        return None
    return Waiting(level, document, expires_at, awaits_birth=entry.get("awaits_birth") is True)
