"""`statusline`: Claude Code's status-line command. Prints the usage in one line and hands it to the broker.

It is started several times a minute and whoever works waits for its line: until that is printed only what
the line needs is imported, and what comes after it happens in its own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TextIO

from claude_usage_mqtt.sources.status_line import parse_rate_limits
from claude_usage_mqtt.usage.reading import Reading, Window

MAX_STDIN = 1024 * 1024
"""Characters; Claude Code's object has a few thousand."""

NAMES = (("five_hour", "5h"), ("seven_day", "7d"))
WARNING, CRITICAL = 75, 90
YELLOW, RED, PLAIN = "\x1b[33m", "\x1b[31m", "\x1b[0m"
SIGNS = {"↻": "reset", "·": "|", "–": "-"}  # noqa: RUF001 - a dash is what stands for no number
"""What is printed instead if the encoding has no such sign."""


def statusline(account: str | None = None) -> int:
    """Print the line for the JSON on standard input and hand the numbers over; never fails, never waits."""
    if sys.stdin is None or sys.stdin.isatty():
        _print("Claude Code runs this as its status-line command and hands it JSON; see the README.")
        return 0
    now = datetime.now(UTC)
    try:
        document = json.loads(sys.stdin.buffer.read(MAX_STDIN))
    except (ValueError, RecursionError, OSError):
        return 0
    usage = parse_rate_limits(document, now)
    _print(line(usage, now, in_color=_has_colors(sys.stdout, os.environ)))
    if usage is not None and os.environ.get("MQTT_HOST"):
        from claude_usage_mqtt.cli.statusline_publish import hand_over  # noqa: PLC0415

        hand_over(usage, account)
    return 0


def line(usage: Reading | None, now: datetime, *, in_color: bool) -> str:
    """Return the line: `5h 42% ↻ 2h11m · 7d 19%`."""
    if usage is None:
        return " · ".join(f"{name} –" for _, name in NAMES)  # noqa: RUF001
    parts = []
    for key, name in NAMES:
        window = usage.windows.get(key)
        if window is not None:
            parts.append(f"{name} {_percent(window, in_color=in_color)}")
            if key == "five_hour" and window.resets_at is not None:
                parts[-1] += f" ↻ {countdown(window.resets_at - now)}"
    return " · ".join(parts)


def countdown(left: timedelta) -> str:
    """Return `2h11m`, `11m` or `<1m`."""
    hours, minutes = divmod(max(0, int(left.total_seconds())) // 60, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m" if minutes else "<1m"


def _percent(window: Window, *, in_color: bool) -> str:
    # below the limit it never says 100, however near
    percent = round(window.utilization) if window.is_limit_reached else min(99, round(window.utilization))
    color = RED if percent >= CRITICAL else YELLOW if percent >= WARNING else ""
    return f"{color}{percent}%{PLAIN}" if in_color and color else f"{percent}%"


def _has_colors(stream: TextIO | None, environment: Mapping[str, str]) -> bool:
    if stream is None or environment.get("NO_COLOR") or not stream.isatty():
        return False
    return environment.get("TERM", "dumb") != "dumb" or "WT_SESSION" in environment


def _print(text: str) -> None:
    if sys.stdout is None:
        return
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        for sign, instead in SIGNS.items():
            text = text.replace(sign, instead)
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        # whoever read our output has left; the interpreter must not complain of it at its end
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
