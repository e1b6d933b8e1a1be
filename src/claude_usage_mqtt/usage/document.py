"""The state document: a pure function of the time and of what is known about an account."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.usage import derived
from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.derived import rounded
from claude_usage_mqtt.usage.money import MoneyState
from claude_usage_mqtt.usage.reading import WEEK, ExtraUsage
from claude_usage_mqtt.usage.standing import Standing, summary
from claude_usage_mqtt.usage.window_state import WindowState


def state_document(usage: AccountUsage, now: datetime) -> dict[str, Any]:
    """Return the whole state document as of `now`; the times in its `summary` are local."""
    where = usage.standing(now)
    known = usage.known_windows(now)
    money = usage.known_money(now)
    return {
        "account": usage.account,
        "plan": usage.plan.name,
        "tier": tier_in_words(usage.plan.tier),
        "updated_at": format_instant(max((window.read_at for window in known), default=None)),
        "summary": summary(where, known, money, now),
        "blocked": where.blocked,
        "blocked_until": format_instant(where.blocked_until),
        "tightest": _tightest(where.tightest),
        "tightest_model": _tightest(where.tightest_model),
        "windows": {key: _window(window, now, usage.rules.stale_after) for key, window in usage.windows.items()},
        "extra_usage": _extra_usage(usage.money, money, where),
    }


def tier_in_words(tier: str | None) -> str | None:
    """Return `Max 20x` for `default_claude_max_20x`; None for a code name, such as a Pro plan's `default_claude_ai`."""
    found = re.fullmatch(r"(?:default_)?(?:claude_)?([a-z_]+)_(\d+x)", (tier or "").lower())
    return None if found is None else f"{found[1].replace('_', ' ').capitalize()} {found[2]}"


def _tightest(window: WindowState | None) -> dict[str, Any] | None:
    if window is None:
        return None
    return {
        "window": window.key,
        "label": window.label,
        "utilization": window.utilization,
        "resets_at": format_instant(window.resets_at),
    }


def _window(window: WindowState, now: datetime, stale_after: timedelta) -> dict[str, Any]:
    is_known, numbers = window.is_known(now, stale_after), _numbers(window, now)
    reset = window.resets_at if is_known else window.known_reset(now) if window.present else None
    return {
        "label": window.label,
        **(numbers if is_known else dict.fromkeys(numbers)),
        "resets_at": format_instant(reset),
        "duration_hours": None if window.length is None else round(window.length / timedelta(hours=1)),
        "read_at": None if window.blank else format_instant(window.read_at),
        "source": window.source,
        "machine": window.machine,
    }


def _numbers(window: WindowState, now: datetime) -> dict[str, Any]:
    """Return the numbers of a window that are shown only while it is known."""
    left, on_pace, limit_at = window.time_until_reset(now), window.is_on_pace(now), window.limit_at
    is_expected = window.rate(now) is not None and not (window.duration == WEEK and on_pace)
    return {
        "utilization": window.utilization,
        "remaining": rounded(window.remaining),
        "elapsed": rounded(window.elapsed(now)),
        "pace": rounded(window.pace(now)),
        "projected": rounded(window.projected(now)),
        "on_pace": on_pace,
        "burn_rate": None if window.is_idle else rounded(derived.burn_rate(window.samples, now)),
        "limit_at": format_instant(limit_at if is_expected and limit_at is not None and limit_at > now else None),
        "limit_reached": window.is_limit_reached,
        "time_remaining_hours": None if left is None else round(left / timedelta(hours=1), 1),
        "severity": window.severity,
        "locked": window.locked,
    }


def _extra_usage(state: MoneyState | None, money: ExtraUsage | None, where: Standing) -> dict[str, Any] | None:
    if state is None or state.money is None:
        return None
    document: dict[str, Any] = dict.fromkeys(("enabled", "used", "limit", "remaining", "utilization"))
    document |= {"currency": state.currency, "active": None, "disabled_reason": None}
    if money is not None:
        document |= {
            "enabled": money.enabled,
            "used": rounded(money.used, 8),
            "limit": rounded(money.limit, 8),
            "remaining": rounded(money.remaining, 8),
            "utilization": rounded(money.utilization),
            "active": where.active,
            "disabled_reason": money.disabled_reason,
        }
    return document | {"period_start": format_instant(state.period_start), "read_at": format_instant(state.read_at)}
