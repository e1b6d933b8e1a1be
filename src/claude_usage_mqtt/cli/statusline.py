"""`statusline`: Claude Code's status-line command. Prints the usage in one line and publishes it.

It is started several times a minute, and people wait for its line: until that is printed, only what the line needs is
imported, and publishing happens in a separate process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from datetime import UTC, datetime, timedelta

from claude_usage_mqtt.cli import handle_signals
from claude_usage_mqtt.sources.rate_limits import SPEND_LIMIT, Limit, Mark, parse_limits
from claude_usage_mqtt.untrusted import json_object, slug

TYPE_CHECKING = False  # typing itself is too slow to import here

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

MAX_STDIN = 1024 * 1024
"""Bytes; Claude Code's object has a few thousand."""

DEFAULT_ACCOUNT = "default"
"""As in `topics`, whose import needs `typing`: three milliseconds more."""

NAMES = (("five_hour", "5h"), ("seven_day", "7d"))
WARNING, CRITICAL = 75, 90
"""Percent at which a number becomes yellow, and red; events have their own settings."""
YELLOW, RED, PLAIN = "\x1b[33m", "\x1b[31m", "\x1b[0m"
TRY = "'claude-usage-mqtt statusline --help' shows how to try it"
SIGNS = {"↻": "reset", "·": "|", "–": "-"}  # noqa: RUF001 - a dash means an unknown number
"""What is printed instead if the encoding lacks a character."""


def statusline(account: str | None = None, then: str | None = None) -> int:
    """Print the line for the JSON on standard input and hand the numbers over; never fails, never waits.

    `then` is the user's own status-line command: it gets the same input, and its line is shown instead of ours.
    """
    if sys.stdin is None or sys.stdin.isatty():
        _print(f"Claude Code runs this as its status-line command and passes it JSON; {TRY}.")
        return 0
    now = datetime.now(UTC)
    try:
        data = sys.stdin.buffer.read(MAX_STDIN)
    except OSError:
        return 0
    document = json_object(data, MAX_STDIN)
    limits = parse_limits(document.get("rate_limits"), now, now)
    if then is not None:
        return _run_other(then, data, lambda: _hand_over(document, limits, account, now))
    if not limits and sys.stderr is not None and sys.stderr.isatty():  # a person is trying it: Claude Code reads a pipe
        print(f"claude-usage-mqtt: the input has no usable rate_limits; {TRY}.", file=sys.stderr)
    _print(line(limits, now, in_color=_has_colors(sys.stdout, os.environ)))
    _hand_over(document, limits, account, now)
    return 0


def _hand_over(document: object, limits: Mapping[str, Limit], account: str | None, now: datetime) -> None:
    if os.environ.get("MQTT_HOST"):
        from claude_usage_mqtt.cli.statusline_publish import hand_over  # noqa: PLC0415 - after the line

        hand_over(Mark(document), limits, slug(account or DEFAULT_ACCOUNT) or DEFAULT_ACCOUNT, now)


def line(limits: Mapping[str, Limit], now: datetime, *, in_color: bool) -> str:
    """Return the line: `5h 42% ↻ 2h11m · 7d 19%`, and for a seat with a spend limit `spend 130% ($65 of $50)`."""
    if not limits:
        return " · ".join(f"{name} –" for _, name in NAMES)  # noqa: RUF001
    parts = []
    for key, name in NAMES:
        limit = limits.get(key)
        if limit is not None:
            parts.append(f"{name} {_percent(limit, in_color=in_color)}")
            if key == "five_hour" and limit.resets_at is not None:
                parts[-1] += f" ↻ {countdown(limit.resets_at - now)}"
    spend = limits.get(SPEND_LIMIT)
    if spend is not None:
        dollars = [f"${amount:.10g}" for amount in (spend.used, spend.limit) if amount is not None]
        amounts = f" ({' of '.join(dollars)})" if len(dollars) == 2 else ""
        parts.append(f"spend {_percent(spend, in_color=in_color)}{amounts}")
    return " · ".join(parts)


def countdown(left: timedelta) -> str:
    """Return `2h11m`, `11m` or `<1m`."""
    hours, minutes = divmod(max(0, int(left.total_seconds())) // 60, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m" if minutes else "<1m"


def _percent(limit: Limit, *, in_color: bool) -> str:
    # below the limit it never says 100, however close
    percent = round(limit.percent) if limit.percent >= 100 else min(99, round(limit.percent))
    color = RED if percent >= CRITICAL else YELLOW if percent >= WARNING else ""
    return f"{color}{percent}%{PLAIN}" if in_color and color else f"{percent}%"


def _has_colors(stream: TextIO | None, environment: Mapping[str, str]) -> bool:
    """Whether the line may have colors: Claude Code's pipe is not a terminal, but it renders them."""
    if stream is None or environment.get("NO_COLOR"):
        return False
    is_dumb = environment.get("TERM") == "dumb" or ("TERM" not in environment and stream.isatty())
    return not is_dumb or "WT_SESSION" in environment


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
        # the reader of our output has gone; the interpreter must not complain about that when it ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_other(command: str, data: bytes, while_running: Callable[[], None]) -> int:
    """Run a shell command with `data` as its input and our output as its own; return its exit status.

    Claude Code ends us with SIGTERM when the next line is due: then the command ends too, with its children.
    `while_running` is called while it runs.
    """
    import signal  # noqa: PLC0415 - rarely needed
    import subprocess  # noqa: PLC0415

    has_groups = hasattr(os, "killpg")
    process: subprocess.Popen[bytes] | None = None
    ended_by: int | None = None

    def end(number: int, _frame: object) -> None:
        nonlocal ended_by
        ended_by = number
        if process is None:  # it is just being started
            return
        with contextlib.suppress(OSError):
            if has_groups:
                os.killpg(process.pid, signal.SIGTERM)
            else:
                process.terminate()
        os._exit(128 + number)

    handle_signals(end)
    try:
        process = subprocess.Popen(  # noqa: S602 - the command is the user's own
            command, shell=True, stdin=subprocess.PIPE, start_new_session=has_groups
        )
    except (OSError, ValueError):
        return 127
    with process:
        if ended_by is not None:
            end(ended_by, None)
        while_running()
        process.communicate(data)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode
