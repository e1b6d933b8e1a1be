"""The usage that Claude Code hands to its status-line command, and our message that carries it to the service.

What Claude Code gives is a JSON object that may hold `rate_limits`: for `five_hour` and `seven_day`, each of
which may be missing, `used_percentage` and `resets_at` (seconds since 1970, or ISO 8601). The message on
`<base>/<account>/statusline` is that section as it was, and when it was seen:

    {"at": 1795180000.5, "rate_limits": {"five_hour": {"used_percentage": 23.5, "resets_at": 1795190400}}}

Anybody who may publish can send such a message: nothing in it is trusted, and nonsense is ignored.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import from_epoch, parse_instant
from claude_usage_mqtt.sources.api.wire import FLAT_WINDOWS
from claude_usage_mqtt.untrusted import number
from claude_usage_mqtt.usage.reading import MAX_UTILIZATION, STATUSLINE, Reading, Window

WINDOWS = ("five_hour", "seven_day")

MAX_MESSAGE = 4096
"""Bytes; ours has about 160."""

AHEAD = timedelta(seconds=60)
"""How far the sender's clock may be ahead of ours."""

OLDEST = timedelta(hours=1)
"""Older readings say nothing of now; nor does a sender whose clock is that far behind."""


def parse_rate_limits(document: object, now: datetime) -> Reading | None:
    """Return the usage in Claude Code's JSON object, None if it holds none; never raises."""
    section = document.get("rate_limits") if isinstance(document, dict) else None
    return _usage(section, now, now)


def parse_statusline(payload: bytes, now: datetime) -> Reading | None:
    """Return what a message says, read at the moment it was seen; None if it is not a message of ours.

    One from the future or older than an hour is none. Never raises.
    """
    if len(payload) > MAX_MESSAGE:
        return None
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    seen_at = from_epoch(document.get("at"))
    if seen_at is None or not now - OLDEST <= seen_at <= now + AHEAD:
        return None
    return _usage(document.get("rate_limits"), seen_at, now)


def format_statusline(usage: Reading) -> bytes:
    """Return the message for a usage."""
    limits = {
        window.key: {
            "used_percentage": window.utilization,
            "resets_at": None if window.resets_at is None else int(window.resets_at.timestamp()),
        }
        for window in usage
    }
    return json.dumps({"at": round(usage.read_at.timestamp(), 3), "rate_limits": limits}).encode()


def _usage(section: object, seen_at: datetime, now: datetime) -> Reading | None:
    if not isinstance(section, dict):
        return None
    found = [_window(key, section.get(key), seen_at, now) for key in WINDOWS]
    windows = {window.key: window for window in found if window is not None}
    return Reading(read_at=seen_at, windows=windows, is_partial=True) if windows else None


def _window(key: str, section: Any, seen_at: datetime, now: datetime) -> Window | None:
    if not isinstance(section, dict):
        return None
    percent, resets_at = number(section.get("used_percentage"), maximum=MAX_UTILIZATION), section.get("resets_at")
    reset = parse_instant(resets_at) or from_epoch(resets_at)
    if percent is None or (reset is None and resets_at is not None):
        return None
    _, label, duration = FLAT_WINDOWS[key]
    # A session that was left open continues to show the numbers of a window that is over.
    if reset is not None and not now < reset <= seen_at + (duration or OLDEST) + OLDEST:
        return None
    return Window(
        key=key,
        label=label,
        duration=duration,
        utilization=percent,
        resets_at=reset,
        read_at=seen_at,
        source=STATUSLINE,
        at_least=percent == 100,
    )
