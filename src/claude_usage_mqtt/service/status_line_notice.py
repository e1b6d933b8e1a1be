"""What to say of an account whose numbers come from the status line alone, and do not come. No I/O."""

from __future__ import annotations

from datetime import datetime, timedelta

from claude_usage_mqtt.instants import format_instant

NO_STATUS_LINE = "no_status_line"
NO_STATUS_LINE_DETAIL = (
    "No status line was seen yet; set 'claude-usage-mqtt statusline' as Claude Code's status-line command "
    "and send a message in its terminal program: the desktop app has no status line."
)

SILENT_AFTER = timedelta(days=1)
"""Without a status line for this long it is a status, and a problem: nights and meetings are shorter."""


def silence(last: datetime | None, now: datetime) -> tuple[bool, str]:
    """Return whether the silence has lasted so long that it is a status, and the sentence that says why."""
    if last is None:
        return True, NO_STATUS_LINE_DETAIL
    return now - last >= SILENT_AFTER, (
        f"No status line has arrived since {format_instant(last)}: a terminal that sits idle and the desktop app send "
        "none, Claude Code reports no limits for an API key and for some plans, or its command cannot reach the "
        "broker (run 'claude-usage-mqtt check' there)."
    )
