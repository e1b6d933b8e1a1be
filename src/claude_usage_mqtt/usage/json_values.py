"""Values that several documents hold, encoded as JSON, and parsed as untrusted input."""

from __future__ import annotations

from datetime import datetime, timedelta

from claude_usage_mqtt.instants import from_epoch, parse_instant
from claude_usage_mqtt.untrusted import CURRENCY, clean_text, matching, number
from claude_usage_mqtt.usage.reading import MAX_AMOUNT, WEEK, ExtraUsage

MAX_AHEAD = WEEK
"""A saved time may be ahead of a clock that was not set yet; further ahead than a window, it is ignored."""

MAX_ABSENCE = timedelta(days=3)
MAX_NAMES = 50


def epoch(instant: datetime | None) -> float | None:
    """Return seconds since 1970."""
    return None if instant is None else round(instant.timestamp(), 3)


def saved_instant(value: object, now: datetime) -> datetime | None:
    """Return an instant saved as seconds or as text; one too far ahead is ignored."""
    instant = from_epoch(value) or parse_instant(value)
    return None if instant is None or instant > now + MAX_AHEAD else instant


def saved_absence(value: object) -> timedelta:
    """Return for how long something was missing, given in seconds."""
    return timedelta(seconds=number(value, maximum=MAX_ABSENCE.total_seconds()) or 0.0)


def names(value: object) -> tuple[str, ...]:
    """Return a list of names."""
    known = value[:MAX_NAMES] if isinstance(value, list) else ()
    return tuple(text for text in map(clean_text, known) if text is not None)


def amounts_from_json(section: object, *, most: float) -> ExtraUsage | None:
    """Return extra usage, of which `asdict` is the JSON object; None if it is not one.

    `most` is the highest utilization that is believed.
    """
    if not isinstance(section, dict) or not isinstance(section.get("enabled"), bool):
        return None
    return ExtraUsage(
        enabled=section["enabled"],
        used=number(section.get("used"), maximum=MAX_AMOUNT),
        limit=number(section.get("limit"), maximum=MAX_AMOUNT),
        utilization=number(section.get("utilization"), maximum=most),
        currency=matching(CURRENCY, section.get("currency")),
        balance=number(section.get("balance"), maximum=MAX_AMOUNT),
        disabled_reason=clean_text(section.get("disabled_reason")),
    )
