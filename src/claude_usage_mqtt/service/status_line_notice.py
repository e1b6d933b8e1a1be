"""What to say of an account whose numbers come from the status line alone, and do not come. No I/O."""

from __future__ import annotations

from datetime import datetime, timedelta

from claude_usage_mqtt.instants import format_instant

NO_STATUS_LINE = "no_status_line"
NO_STATUS_LINE_DETAIL = (
    "No status line was seen yet; set 'claude-usage-mqtt statusline' as Claude Code's status-line command "
    "and use Claude Code once."
)

SILENT_AFTER = timedelta(days=1)
"""Without a status line for this long somebody may wonder why: nights and meetings are shorter."""


def silence_detail(last: datetime | None, now: datetime) -> str | None:
    """Return why nothing may have arrived for a long time, None if it is not long."""
    if last is None or now - last < SILENT_AFTER:
        return None
    return (
        f"No status line has arrived since {format_instant(last)}: nobody has used Claude Code, it reports no "
        "limits for this login, or its command cannot reach the broker (run 'claude-usage-mqtt check' there)."
    )
