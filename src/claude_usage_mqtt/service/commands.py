"""What people ask an account to do: refresh, another poll interval, polling on or off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.service.account import AccountState

log = logging.getLogger(__name__)

LONGEST_PAYLOAD = 20


def obey(state: AccountState, name: str, payload: bytes, now: datetime) -> None:
    """Obey the command of this name; a malformed one does no harm."""
    text = payload[:LONGEST_PAYLOAD].decode("ascii", "replace").strip()
    if name in COMMANDS and not COMMANDS[name](state, text, now):
        log.info("Account %s: ignoring the command %s: its value is unusable.", state.name, name)


def _refresh(state: AccountState, _text: str, now: datetime) -> bool:
    if not state.options.is_polled:
        state.hint = "Refresh has no effect here: the numbers come from the status line alone."
        return True
    when = state.policy.refresh(now)
    if not state.busy and when > now + timedelta(seconds=1):
        state.hint = f"The refresh will run at {format_instant(when)}, to stay within the rate limit."
    return True


def _set_interval(state: AccountState, text: str, now: datetime) -> bool:
    if not (text.isascii() and text.isdigit() and state.is_allowed(int(text))):
        return False
    interval = timedelta(seconds=int(text))
    state.set_interval(interval)
    state.policy.set_interval(now, interval)
    return True


def _set_polling(state: AccountState, text: str, now: datetime) -> bool:
    if text.upper() not in ("ON", "OFF"):
        return False
    state.polling = text.upper() == "ON"
    if state.polling:
        state.policy.poll_soon(now)
    return True


COMMANDS: dict[str, Callable[[AccountState, str, datetime], bool]] = {
    "refresh": _refresh,
    "interval": _set_interval,
    "polling": _set_polling,
}
"""The last level of a command's topic, and what obeys it: it gets the payload and returns whether that was usable."""
