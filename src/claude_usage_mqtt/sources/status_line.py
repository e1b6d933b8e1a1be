"""The usage that a status line reported, as a reading."""

from __future__ import annotations

from datetime import datetime

from claude_usage_mqtt.sources.api.wire import FLAT_WINDOWS
from claude_usage_mqtt.sources.rate_limits import SPEND_LIMIT, Limit, Message, parse_message
from claude_usage_mqtt.usage.reading import MAX_UTILIZATION, STATUSLINE, ExtraUsage, Reading, Window

DOLLARS = "USD"


def parse_statusline(payload: bytes, now: datetime) -> Reading | None:
    """Return what a message on `<base>/<account>/statusline` says; None if it says nothing usable. Never raises."""
    message = parse_message(payload, now)
    if message is None:
        return None
    windows = {
        key: _window(limit, message)
        for key, limit in message.limits.items()
        if key in FLAT_WINDOWS and limit.percent <= MAX_UTILIZATION
    }
    money = _money(message)
    if not windows and money is None:
        return None
    return Reading(read_at=message.at, windows=windows, extra_usage=money, is_partial=True)


def _money(message: Message) -> ExtraUsage | None:
    """Return an organization's limit on what a seat may spend; only if it is certain that it is of just now."""
    limit = message.limits.get(SPEND_LIMIT)
    if limit is None or not message.is_response or limit.limit == 0:
        return None
    return ExtraUsage(enabled=True, used=limit.used, limit=limit.limit, utilization=limit.percent, currency=DOLLARS)


def _window(limit: Limit, message: Message) -> Window:
    _, label, duration = FLAT_WINDOWS[limit.key]
    return Window(
        key=limit.key,
        label=label,
        duration=duration,
        utilization=limit.percent,
        resets_at=limit.resets_at,
        read_at=message.at,
        source=STATUSLINE,
        at_least=limit.is_capped,
        may_be_old=not message.is_response,
        is_first=message.is_response is False,
    )
