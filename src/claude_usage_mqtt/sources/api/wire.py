"""The wire form of the usage endpoint, turned into a Usage. Everything here is outside data: nothing is trusted.

A section that is malformed becomes unknown and takes no other with it; keys that are not known are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import InvalidResponse
from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.untrusted import clean_text, number, slug
from claude_usage_mqtt.usage.reading import MAX_AMOUNT, MAX_UTILIZATION, SESSION, WEEK, ExtraUsage, Reading, Window

FLAT_WINDOWS: Mapping[str, tuple[str, timedelta]] = {
    "five_hour": ("Session", SESSION),
    "seven_day": ("Weekly", WEEK),
    "seven_day_opus": ("Weekly Opus", WEEK),
    "seven_day_sonnet": ("Weekly Sonnet", WEEK),
    "seven_day_oauth_apps": ("Weekly OAuth apps", WEEK),
    "seven_day_cowork": ("Weekly Cowork", WEEK),
    "seven_day_omelette": ("Weekly Omelette", WEEK),
}
OTHER_SECTIONS = frozenset({"extra_usage", "limits", "spend"})

MAX_SCOPED_WINDOWS = 20
MAX_LIMITS = 200
MAX_IGNORED = 50
MAX_NAME = 30
"""Characters of a model's name, so that the label made of it is within MAX_LABEL."""


class _Malformed(Exception):  # noqa: N818 - never leaves this module
    """A section is not what it should be."""


def parse_usage(answer: object, read_at: datetime, plan: str | None = None) -> Reading:
    """Return what an answer of the endpoint says.

    Raises InvalidResponse where it is no object, or holds none of the sections a usage answer has.
    """
    if not isinstance(answer, dict):
        raise InvalidResponse("The API's answer is no usage document; a newer version of this program may help.")
    if not (FLAT_WINDOWS.keys() | OTHER_SECTIONS) & answer.keys():
        raise InvalidResponse("The API's answer holds no known section; a newer version of this program may help.")
    malformed: list[str] = []
    limits = _parse_limits(answer.get("limits"), read_at, malformed)
    windows: dict[str, Window] = {}
    for key, (label, duration) in FLAT_WINDOWS.items():
        window = None
        try:
            window = _parse_flat(answer.get(key), key, label, duration, read_at)
        except _Malformed:
            malformed.append(key)
        window = _complete(window, limits.pop(key, None))
        if window is not None:
            windows[key] = window
    windows.update(limits)
    return Reading(
        read_at=read_at,
        windows=windows,
        extra_usage=_parse_money(answer, malformed),
        plan=plan,
        malformed=tuple(malformed),
        ignored=tuple(sorted(clean_text(key) or "?" for key in answer if not _is_known(key))[:MAX_IGNORED]),
    )


def _is_known(key: str) -> bool:
    return key in FLAT_WINDOWS or key in OTHER_SECTIONS


def _parse_flat(section: object, key: str, label: str, duration: timedelta, read_at: datetime) -> Window | None:
    if section is None:
        return None
    if not isinstance(section, dict):
        raise _Malformed
    return _window(key, label, duration, section.get("utilization"), section.get("resets_at"), read_at)


def _window(
    key: str, label: str, duration: timedelta, utilization: object, resets_at: object, read_at: datetime
) -> Window:
    percent = number(utilization, maximum=MAX_UTILIZATION)
    reset = parse_instant(resets_at)
    # A reset that is there but unreadable, or beyond what the window could last, spoils the whole window:
    # its number could belong to another window than the one we think.
    if percent is None or (reset is None and resets_at is not None):
        raise _Malformed
    if reset is not None and reset - read_at > 2 * duration:
        raise _Malformed
    return Window(key=key, label=label, duration=duration, utilization=percent, resets_at=reset, read_at=read_at)


def _complete(flat: Window | None, limit: Window | None) -> Window | None:
    """Return the flat window, which is more precise, with what only its entry in `limits` knows."""
    if flat is None or limit is None:
        return flat or limit
    if flat.resets_at is None and flat.utilization > 0 and limit.resets_at is not None:
        return Window(
            key=flat.key,
            label=flat.label,
            duration=flat.duration,
            utilization=flat.utilization,
            resets_at=limit.resets_at,
            read_at=flat.read_at,
        )
    return flat


def _parse_limits(section: object, read_at: datetime, malformed: list[str]) -> dict[str, Window]:
    if section is None:
        return {}
    if not isinstance(section, list):
        malformed.append("limits")
        return {}
    windows: dict[str, Window] = {}
    for key, label, duration, entry in _known_limits(section[:MAX_LIMITS]):
        if len(windows) >= MAX_SCOPED_WINDOWS:
            break
        try:
            window = _window(key, label, duration, entry.get("percent"), entry.get("resets_at"), read_at)
        except _Malformed:
            malformed.append(f"limits.{key}")
            continue
        twin = windows.get(key)
        if twin is None or twin.utilization < window.utilization:  # the tighter one is the one that stops work
            windows[key] = window
    return windows


def _known_limits(section: list[Any]) -> Iterator[tuple[str, str, timedelta, dict[str, Any]]]:
    for entry in section:
        if not isinstance(entry, dict):
            continue
        kind = entry.get("kind")
        if kind == "session":
            yield "five_hour", "Session", SESSION, entry
        elif kind == "weekly_all":
            yield "seven_day", "Weekly", WEEK, entry
        elif kind == "weekly_scoped":
            name = _model_name(entry.get("scope"))
            if name is not None and slug(name):
                yield _model_key(name), f"Weekly {name}", WEEK, entry


def _model_key(name: str) -> str:
    # A model named "On" would share seven_day_on_pace with the week itself.
    model = slug(name)
    return f"seven_day_{model}_model" if model == "on" else f"seven_day_{model}"


def _model_name(scope: object) -> str | None:
    model = scope.get("model") if isinstance(scope, dict) else None
    return clean_text(model.get("display_name"), MAX_NAME) if isinstance(model, dict) else None


def _parse_money(answer: dict[str, Any], malformed: list[str]) -> ExtraUsage | None:
    """Return `extra_usage`, or what `spend` says where that is missing, disabled or malformed."""
    found: ExtraUsage | None = None
    for key, parse in (("extra_usage", _parse_extra_usage), ("spend", _parse_spend)):
        section = answer.get(key)
        if section is None or (found is not None and found.enabled):
            continue
        try:
            money = parse(section)
        except _Malformed:
            malformed.append(key)
        else:
            found = money if found is None or money.enabled else found
    return found


def _parse_extra_usage(section: object) -> ExtraUsage:
    if not isinstance(section, dict) or not isinstance(section.get("is_enabled"), bool):
        raise _Malformed
    places = section.get("decimal_places")
    return _money(
        enabled=section["is_enabled"],
        used=_amount(section.get("used_credits"), places),
        limit=_amount(section.get("monthly_limit"), places),
        percent=section.get("utilization"),
        currency=section.get("currency"),
    )


def _parse_spend(section: object) -> ExtraUsage:
    if not isinstance(section, dict):
        raise _Malformed
    used, limit = section.get("used"), section.get("limit")
    enabled = section.get("enabled", used is not None)
    if not isinstance(used, dict | None) or not isinstance(limit, dict | None) or not isinstance(enabled, bool):
        raise _Malformed
    currency = (used or limit or {}).get("currency")
    if used and limit and used.get("currency") != limit.get("currency"):
        raise _Malformed
    return _money(
        enabled=enabled,
        used=_amount(used.get("amount_minor"), used.get("exponent")) if used else None,
        limit=_amount(limit.get("amount_minor"), limit.get("exponent")) if limit else None,
        percent=section.get("percent"),
        currency=currency,
    )


def _money(*, enabled: bool, used: float | None, limit: float | None, percent: object, currency: object) -> ExtraUsage:
    code = currency if isinstance(currency, str) and re.fullmatch(r"[A-Z]{3}", currency) else None
    if currency is not None and code is None:
        raise _Malformed
    utilization = number(percent, maximum=MAX_UTILIZATION)
    if percent is not None and utilization is None:
        raise _Malformed
    if limit is None:
        utilization = None  # a percentage of no limit says nothing, and it is given as 0
    return ExtraUsage(enabled=enabled, used=used, limit=limit, utilization=utilization, currency=code)


def _amount(minor: object, places: object) -> float | None:
    """Return minor units as whole ones: divided by 10^`places`, 2 where missing."""
    if minor is None:
        return None
    places = 2 if places is None else places
    amount = number(minor, maximum=MAX_AMOUNT)
    if amount is None or isinstance(places, bool) or not isinstance(places, int) or not 0 <= places <= 8:
        raise _Malformed
    return float(amount / 10**places)
