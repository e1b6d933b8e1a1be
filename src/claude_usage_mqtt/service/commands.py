"""What people ask an account to do: refresh, another poll interval, polling on or off."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.service.account import AccountState

log = logging.getLogger(__name__)

REFRESH, INTERVAL, POLLING = COMMANDS = ("refresh", "interval", "polling")


def obey(state: AccountState, name: str, payload: bytes, now: datetime) -> None:
    """Obey a command; a malformed one does no harm."""
    text = payload[:20].decode("ascii", "replace").strip()
    if name == REFRESH:
        _refresh(state, now)
    elif name == INTERVAL and text.isascii() and text.isdigit() and state.is_allowed(int(text)):
        interval = timedelta(seconds=int(text))
        state.set_interval(interval)
        state.policy.set_interval(now, interval)
    elif name == POLLING and text.upper() in ("ON", "OFF"):
        state.polling = text.upper() == "ON"
        if state.polling:
            state.policy.poll_soon(now)
    else:
        log.info("Account %s: ignoring the command %s: its value is unusable.", state.name, name[:20])


def _refresh(state: AccountState, now: datetime) -> None:
    if not state.options.is_polled:
        state.hint = "Refresh has no effect here: the numbers come from the status line alone."
        return
    when = state.policy.refresh(now)
    if not state.busy and when > now + timedelta(seconds=1):
        state.hint = f"The refresh will run at {format_instant(when)}, to stay within the rate limit."
