"""Readings of one window each, for tests of how they develop over time."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from claude_usage_mqtt.usage.account import AccountUsage, Rules
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import OAUTH, SESSION, WEEK, ExtraUsage, Reading, Window

START: Final = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
RESET: Final = START + SESSION


def minutes(count: float) -> datetime:
    """Return the instant that many minutes after START."""
    return START + timedelta(minutes=count)


def make_reading(
    at: datetime, utilization: float, resets_at: datetime | None = RESET, *, key: str = "five_hour", source: str = OAUTH
) -> Window:
    """Return a window as it was read at an instant."""
    return Window(
        key=key,
        label={"five_hour": "Session", "seven_day": "Weekly"}.get(key) or f"Weekly {key[10:].title()}",
        duration=SESSION if key == "five_hour" else WEEK,
        utilization=utilization,
        resets_at=resets_at,
        read_at=at,
        source=source,
    )


def make_usage(at: datetime, *windows: Window, money: ExtraUsage | None = None) -> Reading:
    """Return an answer that has these windows."""
    return Reading(read_at=at, windows={window.key: window for window in windows}, extra_usage=money)


def make_account(stale_after: timedelta = timedelta(days=365)) -> AccountUsage:
    """Return an account of which nothing is known; its numbers become stale only if a test is about that."""
    return AccountUsage("default", Rules(stale_after=stale_after))


def take(
    usage: AccountUsage, reading: Reading, thresholds: Iterable[float] = (), *, partial: bool = False
) -> list[Event]:
    """Process a reading, or a partial one; return what happened."""
    usage.rules = usage.rules._replace(thresholds=tuple(thresholds))
    return usage.update(replace(reading, is_partial=partial), reading.read_at)


def make_answer(at: datetime, utilization: float, resets_at: datetime | None = RESET) -> Reading:
    """Return an answer that has only the session."""
    return make_usage(at, make_reading(at, utilization, resets_at))


def shown(usage: AccountUsage, now: datetime, key: str = "five_hour") -> dict[str, Any]:
    """Return what the state document shows of a window."""
    window: dict[str, Any] = state_document(usage, now)["windows"][key]
    return window
