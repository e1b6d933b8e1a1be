"""The commands to an account: refresh, another poll interval, polling on or off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from claude_usage_mqtt.instants import local_time
from claude_usage_mqtt.service.account import AccountState

log = logging.getLogger(__name__)

Command = Callable[[AccountState, str, datetime], bool]
"""Takes the payload; returns whether it was usable."""


def obey(state: AccountState, name: str, payload: bytes, now: datetime) -> None:
    """Obey a command; an unknown or malformed one is ignored."""
    if name not in COMMANDS:
        return
    if not state.options.is_polled:
        state.health.hint = "Commands have no effect here: the numbers come from the status line alone."
    elif not COMMANDS[name](state, payload[:20].decode("ascii", "replace").strip(), now):
        log.info("Account %s: ignoring the command %s: its value is unusable.", state.name, name)


def _refresh(state: AccountState, _: str, now: datetime) -> bool:
    when = state.polling.policy.refresh(now)
    if not state.polling.is_under_way and when > now + timedelta(seconds=1):
        state.health.hint = f"The refresh will run at {local_time(when)}, to stay within the rate limit."
    return True


def _set_interval(state: AccountState, seconds: str, now: datetime) -> bool:
    if not (seconds.isascii() and seconds.isdigit() and state.options.allows(int(seconds))):
        return False
    interval = timedelta(seconds=int(seconds))
    state.set_interval(interval)
    state.polling.policy.set_interval(now, interval)
    return True


def _switch_polling(state: AccountState, on_or_off: str, now: datetime) -> bool:
    if on_or_off.upper() not in ("ON", "OFF"):
        return False
    state.polling.is_on = on_or_off.upper() == "ON"
    if state.polling.is_on:
        state.polling.policy.poll_soon(now)
    return True


COMMANDS: dict[str, Command] = {"refresh": _refresh, "interval": _set_interval, "polling": _switch_polling}
"""By the last level of the command's topic."""
