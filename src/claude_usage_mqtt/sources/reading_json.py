"""A reading, or an error, as JSON between two machines of one user, and back as untrusted input.

Anybody who may publish on the broker can send such a document: it is parsed and typed as strictly as the API's own
response. It has no times by our clock, only an age: the clocks of two machines differ. A reset is the API's own time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import ApiError, ClaudeUsageError, CredentialsError, InvalidResponse, RateLimited
from claude_usage_mqtt.instants import format_instant, parse_instant
from claude_usage_mqtt.untrusted import clean_text, number
from claude_usage_mqtt.usage.json_values import MAX_NAMES, amounts_from_json, names
from claude_usage_mqtt.usage.reading import (
    MAX_UTILIZATION,
    MAX_WINDOWS,
    REPORTER,
    WINDOW_KEY,
    ExtraUsage,
    Reading,
    Window,
    duration_of,
)

OLDEST = timedelta(days=1)
"""Older numbers do not answer a request."""

MAX_DETAIL = 300
"""Characters of an error's sentence."""

LONGEST_WAIT = timedelta(hours=25)
"""No wait of more than an hour was ever seen in a response of the API."""

LONGEST_POOL = timedelta(days=366)


class Busy(RateLimited):
    """The reporter would not ask the API now, but after `retry_after`: its own limit, or another request under way."""

    status = "busy"


_KINDS: tuple[type[ApiError | CredentialsError], ...] = (
    *ApiError.__subclasses__(),
    *CredentialsError.__subclasses__(),
    Busy,
)
ERRORS = {kind.status: kind for kind in _KINDS}


def reading_to_json(reading: Reading, now: datetime) -> dict[str, Any]:
    """Return the JSON object of a reading."""
    money = reading.extra_usage
    return {
        "age": round(max(0.0, (now - reading.read_at).total_seconds()), 1),
        "windows": {
            window.key: {
                "label": window.label,
                "utilization": window.utilization,
                "resets_at": format_instant(window.resets_at),
                "severity": window.severity,
                "locked": window.locked,
                "is_placeholder": window.is_placeholder,
                "at_least": window.at_least,
            }
            for window in list(reading)[:MAX_WINDOWS]
        },
        "extra_usage": None if money is None else asdict(money),
        "plan": reading.plan,
        "tier": reading.tier,
        "malformed": list(reading.malformed[:MAX_NAMES]),
        "ignored": list(reading.ignored[:MAX_NAMES]),
        "is_partial": reading.is_partial,
    }


def reading_from_json(document: object, now: datetime, machine: str) -> Reading:
    """Return the reading that `machine` sent, with times by our clock.

    Raises InvalidResponse if it is not one, or if any of its windows is wrong: a number could belong to another window.
    """
    if not isinstance(document, dict):
        raise _not_understood(machine)
    age = number(document.get("age"), maximum=OLDEST.total_seconds())
    windows, money = document.get("windows"), document.get("extra_usage")
    if age is None or not isinstance(windows, dict) or len(windows) > MAX_WINDOWS:
        raise _not_understood(machine)
    read_at = now - timedelta(seconds=age)
    return Reading(
        read_at=read_at,
        windows={key: _window(key, section, read_at, machine) for key, section in windows.items()},
        extra_usage=None if money is None else _money(money, machine),
        plan=clean_text(document.get("plan")),
        tier=clean_text(document.get("tier")),
        malformed=names(document.get("malformed")),
        ignored=names(document.get("ignored")),
        is_partial=document.get("is_partial") is True,
    )


def error_to_json(error: ClaudeUsageError) -> dict[str, Any]:
    """Return the JSON object of an error."""
    wait = error.retry_after if isinstance(error, RateLimited) else None
    return {
        "status": error.status if error.status in ERRORS else InvalidResponse.status,
        "detail": clean_text(str(error), MAX_DETAIL),
        "retry_after": None if wait is None else round(wait.total_seconds()),
    }


def error_from_json(document: object, machine: str) -> ApiError | CredentialsError:
    """Return the error that `machine` sent; InvalidResponse if it is not one. Its sentence begins with the machine."""
    section: Mapping[str, Any] = document if isinstance(document, dict) else {}
    status = section.get("status")
    kind = ERRORS.get(status) if isinstance(status, str) else None
    detail = clean_text(section.get("detail"), MAX_DETAIL)
    if kind is None or detail is None:
        return _not_understood(machine)
    sentence = f"{machine}: {detail}"
    if issubclass(kind, RateLimited):
        wait = number(section.get("retry_after"), maximum=LONGEST_WAIT.total_seconds())
        return kind(sentence, retry_after=timedelta(seconds=wait) if wait else None)
    return kind(sentence)


def _not_understood(machine: str) -> InvalidResponse:
    return InvalidResponse(f"The answer of the reporter on {machine} was not understood; update it, or this service.")


def _window(key: str, section: object, read_at: datetime, machine: str) -> Window:
    if not WINDOW_KEY.fullmatch(key) or not isinstance(section, dict):
        raise _not_understood(machine)
    label = clean_text(section.get("label"))
    utilization = number(section.get("utilization"), maximum=MAX_UTILIZATION)
    resets_at = parse_instant(section.get("resets_at"))
    if label is None or utilization is None or (resets_at is None and section.get("resets_at") is not None):
        raise _not_understood(machine)
    duration = duration_of(key)
    if resets_at is not None and resets_at - read_at > (2 * duration if duration else LONGEST_POOL):
        raise _not_understood(machine)
    return Window(
        key=key,
        label=label,
        duration=duration,
        utilization=utilization,
        resets_at=resets_at,
        read_at=read_at,
        source=REPORTER,
        machine=machine,
        severity=clean_text(section.get("severity")),
        locked=section.get("locked") is True,
        is_placeholder=section.get("is_placeholder") is True,
        at_least=section.get("at_least") is True,
    )


def _money(section: object, machine: str) -> ExtraUsage:
    known: Mapping[str, Any] = section if isinstance(section, dict) else {}
    money = amounts_from_json(section, most=MAX_UTILIZATION)
    numbers = ("used", "limit", "balance", "utilization", "currency")
    if money is None or any(getattr(money, name) is None and known.get(name) is not None for name in numbers):
        raise _not_understood(machine)
    return money
