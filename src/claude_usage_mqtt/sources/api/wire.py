"""The body of the usage endpoint, turned into a Reading. Everything here is outside data: nothing is trusted.

A section that is malformed becomes unknown and affects no other; unknown keys are ignored, and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import InvalidResponse
from claude_usage_mqtt.instants import parse_reset
from claude_usage_mqtt.sources.api.money import Malformed, parse_money
from claude_usage_mqtt.untrusted import clean_text, number, slug
from claude_usage_mqtt.usage.reading import (
    FIVE_HOUR,
    MAX_AMOUNT,
    MAX_UTILIZATION,
    OAUTH,
    POOL,
    SEVEN_DAY,
    Reading,
    Window,
    duration_of,
)

FLAT_WINDOWS: Mapping[str, str] = {
    FIVE_HOUR: "Session",
    SEVEN_DAY: "Weekly",
    "seven_day_opus": "Weekly Opus",
    "seven_day_sonnet": "Weekly Sonnet",
    "seven_day_oauth_apps": "Weekly OAuth apps",
    "seven_day_cowork": "Weekly Cowork",
    "seven_day_omelette": "Weekly Omelette",
}
"""The windows that have their own section, and their labels."""

OTHER_SECTIONS = frozenset({"extra_usage", "limits", "spend"})

LIMITS = "limits: "
"""Comes before the name of an unknown kind of limit."""

JITTER = timedelta(minutes=10)
"""Clocks differ, and a reset is reported some seconds off: a window that has just begun may seem longer than it is."""

MAX_SCOPED_WINDOWS = 20
MAX_LIMITS = 200
MAX_IGNORED = 50
MAX_NAME = 30
"""Characters of a model's or a surface's name, so that the label made of it is within MAX_LABEL."""


def parse_usage(
    body: object, read_at: datetime, *, plan: str | None = None, tier: str | None = None, source: str = OAUTH
) -> Reading:
    """Return what a response of the endpoint says; an empty object is an account without limits.

    Raises InvalidResponse if it is not an object, or if none of it is understood.
    """
    if not isinstance(body, dict):
        raise InvalidResponse("The API's response is not a usage document; a newer version of this program may help.")
    malformed: list[str] = []
    ignored = {clean_text(key) or "?" for key in body if not _is_known(key) and not _is_empty(body[key])}
    pools = _parse_pools(body, read_at, malformed, ignored)
    limits = _parse_limits(body.get("limits"), read_at, malformed, ignored)
    windows: dict[str, Window] = {}
    for key in FLAT_WINDOWS:
        window = None
        try:
            window = _parse_flat(key, body.get(key), read_at)
        except Malformed:
            malformed.append(key)
        window = _complete(window, limits.pop(key, None))
        if window is not None:
            windows[key] = window
    windows.update(limits)
    windows.update(pools)
    money = parse_money(body, malformed)
    has_unknown_limits = any(name.startswith(LIMITS) for name in ignored)
    is_known = not body or any(map(_is_known, body))
    if not windows and money is None and (malformed or has_unknown_limits or not is_known):
        what = ", ".join(malformed) or ("limits of unknown kinds" if has_unknown_limits else "no known section")
        raise InvalidResponse(
            f"Nothing in the API's response was understood ({what}); a newer version of this program may help."
        )
    return Reading(
        read_at=read_at,
        windows={key: replace(window, source=source) for key, window in windows.items()},
        extra_usage=money,
        plan=plan,
        tier=tier,
        malformed=tuple(malformed),
        ignored=tuple(sorted(ignored)[:MAX_IGNORED]),
    )


def _is_known(key: object) -> bool:
    return key in FLAT_WINDOWS or key in OTHER_SECTIONS


def _is_empty(section: object) -> bool:
    """Whether a section says nothing yet: before they are used, code names are null, or have 0 % and no reset."""
    if not isinstance(section, dict):
        return section is None
    return "utilization" in section and not section["utilization"] and section.get("resets_at") is None


def _parse_flat(key: str, section: object, read_at: datetime) -> Window | None:
    if section is None:
        return None
    if not isinstance(section, dict):
        raise Malformed
    window = _window(key, FLAT_WINDOWS[key], section, section.get("utilization"), read_at)
    is_placeholder = key not in (FIVE_HOUR, SEVEN_DAY) and window.is_idle and not window.locked
    return replace(window, is_placeholder=is_placeholder)


def _window(key: str, label: str, section: Mapping[str, Any], percent: object, read_at: datetime) -> Window:
    utilization = number(_percent_of_dollars(section) if percent is None else percent, maximum=MAX_UTILIZATION)
    if utilization is None:
        raise Malformed
    resets_at, duration = parse_reset(section.get("resets_at")), duration_of(key)
    if resets_at is not None and duration is not None:
        if resets_at - read_at > 2 * duration:
            raise Malformed
        if resets_at - read_at > duration + JITTER:
            resets_at = None  # the window cannot have begun: its number may be right, but this is not its end
    return Window(
        key=key,
        label=label,
        duration=duration,
        utilization=utilization,
        resets_at=resets_at,
        read_at=read_at,
        severity=clean_text(section.get("severity")),
        locked=bool(section.get("locked_reason")),
    )


def _percent_of_dollars(section: Mapping[str, Any]) -> float | None:
    """Return the percent used of a limit in dollars, from what is used or what remains of it."""
    names = ("limit_dollars", "used_dollars", "remaining_dollars")
    limit, used, remaining = (number(section.get(name), maximum=MAX_AMOUNT) for name in names)
    if used is None and limit is not None and remaining is not None:
        used = max(0.0, limit - remaining)
    return 100 * used / limit if used is not None and limit else None


def _complete(flat: Window | None, limit: Window | None) -> Window | None:
    """Return the flat window, which is more precise, with what only its entry in `limits` has.

    A flat placeholder says nothing, whatever its entry says.
    """
    if flat is None or limit is None or flat.is_placeholder:
        return limit or flat
    return replace(
        flat,
        resets_at=limit.resets_at if flat.resets_at is None and flat.utilization > 0 else flat.resets_at,
        severity=flat.severity or limit.severity,
        locked=flat.locked or limit.locked,
    )


def _parse_pools(
    body: Mapping[str, Any], read_at: datetime, malformed: list[str], ignored: set[str]
) -> dict[str, Window]:
    """Return the dollar pools of the seat: they have code names, and are recognized by their `limit_dollars`."""
    pools: dict[str, Window] = {}
    for name, section in list(body.items())[:MAX_LIMITS]:
        if _is_known(name) or not isinstance(section, dict) or not slug(name):
            continue
        if not number(section.get("limit_dollars"), maximum=MAX_AMOUNT):
            continue
        key, label = POOL + slug(name), f"{slug(name).replace('_', ' ').capitalize()[:MAX_NAME]} pool"
        ignored.discard(clean_text(name) or "?")
        try:
            pools[key] = _window(key, label, section, section.get("utilization"), read_at)
        except Malformed:
            malformed.append(key)
        if len(pools) >= MAX_SCOPED_WINDOWS:
            break
    return pools


def _parse_limits(section: object, read_at: datetime, malformed: list[str], ignored: set[str]) -> dict[str, Window]:
    if section is None:
        return {}
    if not isinstance(section, list):
        malformed.append("limits")
        return {}
    windows: dict[str, Window] = {}
    for entry in section[:MAX_LIMITS]:
        if not isinstance(entry, dict):
            malformed.append("limits")
            continue
        kind = _kind(entry)
        if kind is None:
            ignored.add(f"{LIMITS}{clean_text(entry.get('kind'), MAX_NAME) or '?'}")
            continue
        key, label = kind
        try:
            window = _window(key, label, entry, entry.get("percent"), read_at)
        except Malformed:
            malformed.append(f"limits.{key}")
            continue
        twin = windows.get(key)
        if twin is None and len(windows) >= MAX_SCOPED_WINDOWS:
            break
        if twin is None or twin.utilization < window.utilization:  # the tighter one stops work first
            windows[key] = window
    return windows


def _kind(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the key and the label of a limit's window, None if it is of an unknown kind."""
    match entry.get("kind"):
        case "session":
            return FIVE_HOUR, FLAT_WINDOWS[FIVE_HOUR]
        case "weekly_all":
            return SEVEN_DAY, FLAT_WINDOWS[SEVEN_DAY]
        case "weekly_scoped":
            return _scoped(entry.get("scope"))
        case _:
            return None


def _scoped(scope: object) -> tuple[str, str] | None:
    if not isinstance(scope, dict):
        return None
    model, surface = _name(scope.get("model")), _name(scope.get("surface"))
    if model is not None and slug(model) == "all_models":
        model = None
        if surface is None:
            return SEVEN_DAY, FLAT_WINDOWS[SEVEN_DAY]
    parts = [part for part in (model, surface) if part is not None]
    key = "_".join(slug(part) for part in parts)
    if not key:
        return None
    if key == "on":
        key = "on_model"  # seven_day_on_pace would be the week's own
    name = parts[0] if len(parts) == 1 else f"{parts[0][: MAX_NAME // 2]} ({parts[1][: MAX_NAME // 2 - 3]})"
    return f"{SEVEN_DAY}_{key}", f"Weekly {name}"


def _name(scope: object) -> str | None:
    """Return the name of a model or a surface, or its id if it has no name; None if there is neither."""
    texts = [scope.get(key) for key in ("display_name", "id")] if isinstance(scope, dict) else [scope]
    for text in texts:
        name = clean_text(text, MAX_NAME)
        if name is not None and slug(name):
            return name
    return None
