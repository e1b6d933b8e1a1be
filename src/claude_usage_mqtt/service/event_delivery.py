"""The delivery of events to their listeners: at least once, always with the same id. No I/O.

An event waits until the broker has been connected for a while, since the listeners come back seconds later. If Home
Assistant was away, the event is delivered again after its next birth message. Waiting events are saved, so that our
restart loses none; they are dropped when their window is over.
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
"""Waiting events of one account. The oldest are dropped: nobody wants more at once."""

SPACING = timedelta(seconds=1)
"""Between two events of one topic. The state of an event entity is the millisecond in which the event came: in Home
Assistant before 2026.8 two in the same millisecond are one change, and automations miss the second."""

MAX_EVENT = 1000
"""The most characters of a saved event; ours have about 300."""


@dataclass(slots=True)
class Waiting:
    """An event that waits; `level` is the last of its topic. If it `awaits_birth`, only Home Assistant missed it."""

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
        """When the last event of each topic was sent, if that is too recent for another one."""

    def add(self, events: Iterable[Event]) -> None:
        """Note what happened."""
        for event in events:
            self._waiting.append(Waiting(event.window or ACCOUNT, event.document(self._account), event.expires_at))
        del self._waiting[:-MAX_WAITING]

    def take(self, now: datetime, *, is_home_assistant_online: bool) -> Iterator[tuple[str, bytes]]:
        """Yield topic level and payload of the events to deliver now, and forget those that are done.

        Call this while listeners are connected: after the broker was connected for a while, and after each birth. One
        event per topic is delivered within `SPACING`; if another one is due, call it again after that.
        """
        waiting, self._waiting = self._waiting, []
        self._sent = {level: at for level, at in self._sent.items() if timedelta(0) <= now - at < SPACING}
        for event in waiting:
            if now >= event.expires_at:
                continue
            is_due = is_home_assistant_online or not event.awaits_birth
            is_sent = is_due and event.level not in self._sent
            if is_sent:
                self._sent[event.level] = now
                yield event.level, encode(event.document)
            if not (is_sent and is_home_assistant_online):
                event.awaits_birth = event.awaits_birth or is_sent
                self._waiting.append(event)

    def has_due(self, *, is_home_assistant_online: bool) -> bool:
        """Whether `take` would deliver something."""
        return any(is_home_assistant_online or not event.awaits_birth for event in self._waiting)

    def save(self) -> list[dict[str, Any]]:
        """Return the waiting events, for JSON."""
        return [
            {
                "level": event.level,
                "document": event.document,
                "expires_at": format_instant(event.expires_at),
                "awaits_birth": event.awaits_birth,
            }
            for event in self._waiting
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
