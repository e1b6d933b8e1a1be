"""Instants as they are sent: ISO 8601 with an offset, always UTC here."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

SAME_INSTANT = timedelta(minutes=1)
"""What the API means as the same instant varies by up to about 2 s, on both sides of a minute; real moves are minutes
or more. Source: measured by several independent clients of the endpoint."""


def parse_instant(value: object) -> datetime | None:
    """Return the aware UTC instant that ISO 8601 text names, else None; without an offset it means UTC."""
    if not isinstance(value, str) or not 10 <= len(value) <= 40:
        return None
    try:
        instant = datetime.fromisoformat(value)
        instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return instant if 2000 <= instant.year <= 2200 else None


def from_epoch(value: object, per_second: int = 1) -> datetime | None:
    """Return the UTC instant of a number of seconds (or parts of one) since 1970, else None; years 2000 to 2200."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 946_684_800 * per_second <= value <= 7_258_118_400 * per_second:
        return None
    return datetime.fromtimestamp(value / per_second, UTC)


def parse_reset(value: object) -> datetime | None:
    """Return a reset given as ISO 8601 text, or as seconds or milliseconds since 1970; None if it is unreadable."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 13:
        value = int(value)
    return parse_instant(value) or from_epoch(value) or from_epoch(value, 1000)


def format_instant(instant: datetime | None) -> str | None:
    """Return `2026-11-20T16:00:00+00:00`, whole seconds; None stays None."""
    return None if instant is None else instant.astimezone(UTC).isoformat(timespec="seconds")


def local_time(instant: datetime) -> str:
    """Return `17:00 on Fri Nov 20` in the time zone of this process (`TZ`): for sentences that a person reads."""
    local = instant.astimezone()
    return f"{local:%H:%M} on {local:%a %b} {local.day}"


def steady(known: datetime | None, new: datetime | None) -> datetime | None:
    """Return the whole minute to publish for `new`, which is `known` itself if both mean the same instant."""
    if new is None:
        return None
    new = (new + timedelta(seconds=30)).replace(second=0, microsecond=0)
    return known if known is not None and abs(new - known) <= SAME_INSTANT else new


def moved(instant: datetime | None, step: timedelta, kept: Collection[datetime] = ()) -> datetime | None:
    """Return an instant after the clock that it was read from was set by `step`; those in `kept` stay."""
    return instant if instant is None or instant in kept else instant + step
