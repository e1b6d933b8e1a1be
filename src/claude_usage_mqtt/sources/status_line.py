"""The status line as a source: Claude Code passes what its last response said to our command, which sends it."""

from __future__ import annotations

from datetime import datetime

from claude_usage_mqtt.instants import local_time
from claude_usage_mqtt.sources.api.wire import FLAT_WINDOWS
from claude_usage_mqtt.sources.rate_limits import (
    SPEND_LIMIT,
    Limit,
    StatusLineMessage,
    is_from_another_time,
    parse_message,
)
from claude_usage_mqtt.sources.source import WrongClockError
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT
from claude_usage_mqtt.usage.reading import MAX_UTILIZATION, STATUSLINE, ExtraUsage, Reading, Window, duration_of

DOLLARS = "USD"


class StatusLine:
    """The status lines of an account's sessions, on any machine."""

    name = STATUSLINE
    lacks = "a model's week, the plan, and extra usage other than a seat's own limit"
    level = "statusline"
    silent = "no_status_line"

    def why_silent(self, account: str, last: datetime | None) -> str:
        """Return the sentence that says why nothing arrives; `last` is when numbers were read last, None if never."""
        if last is not None:
            return (
                f"No status line has arrived since {local_time(last)}: a terminal that sits idle and the desktop "
                "app send none, Claude Code reports no limits for an API key and for some plans, or its command cannot "
                "reach the broker (run 'claude-usage-mqtt check' there)."
            )
        option = "" if account == DEFAULT_ACCOUNT else f" --account {account}"
        return (
            f"No status line was seen yet; set 'claude-usage-mqtt statusline{option}' as Claude Code's status-line "
            "command and send a message in its terminal program: the desktop app has no status line."
        )

    def receive(self, payload: bytes, now: datetime) -> Reading | None:
        """Return what a message says, None if it says nothing usable; raises WrongClockError, and nothing else."""
        reading = parse_statusline(payload, now)
        if reading is None and is_from_another_time(payload, now):
            raise WrongClockError(
                "A status line was ignored: by the clock of its machine it was not sent just now; set that clock, or "
                "the one here."
            )
        return reading


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


def _money(message: StatusLineMessage) -> ExtraUsage | None:
    """Return an organization's limit on what a seat may spend; only if it is certainly current."""
    limit = message.limits.get(SPEND_LIMIT)
    if limit is None or not message.is_response or limit.limit == 0:
        return None
    return ExtraUsage(enabled=True, used=limit.used, limit=limit.limit, utilization=limit.percent, currency=DOLLARS)


def _window(limit: Limit, message: StatusLineMessage) -> Window:
    return Window(
        key=limit.key,
        label=FLAT_WINDOWS[limit.key],
        duration=duration_of(limit.key),
        utilization=limit.percent,
        resets_at=limit.resets_at,
        read_at=message.at,
        source=STATUSLINE,
        at_least=limit.is_capped,
        may_be_old=not message.is_response,
        is_first=message.is_response is False,
    )
