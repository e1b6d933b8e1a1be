"""Answers of the usage endpoint in its wire form, for every plan that is known."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, Final

Document = dict[str, Any]
When = dt.datetime | str | None

JITTER: Final = dt.timedelta(seconds=-0.61188)
"""How far the sample's resets are from the full hour, like the real ones."""


def sample_usage(
    *,
    now: dt.datetime | None = None,
    five_hour: float | Mapping[str, Any] | None = 42.0,
    resets_at: When | EllipsisType = ...,
    seven_day: float | Mapping[str, Any] | None = 16.580000000000002,
    seven_day_resets_at: When | EllipsisType = ...,
    seven_day_opus: float | Mapping[str, Any] | None = None,
    seven_day_sonnet: float | Mapping[str, Any] | None = None,
    scoped: Mapping[str, float] | None = None,
    limits: Sequence[Any] | EllipsisType | None = ...,
    extra_usage: Any = None,
    spend: Any = None,
    **more: Any,
) -> Document:
    """Build an answer. A number becomes a window, a mapping is used unchanged, `None` is `null`.

    `resets_at` is the five-hour window's. Without the two resets the session ends two to three hours and the
    week three days after `now` (the real time unless given). `scoped` maps a model's display name to its
    weekly percent; `limits` follow from all of these unless given. `more` adds top-level keys.
    """
    hour = (now or dt.datetime.now(dt.UTC)).replace(minute=0, second=0, microsecond=0)
    session_reset = _wire_time(hour + dt.timedelta(hours=3) + JITTER, resets_at)
    week_reset = _wire_time(hour + dt.timedelta(days=3) + JITTER, seven_day_resets_at)
    session, week = _window_or_null(five_hour, session_reset), _window_or_null(seven_day, week_reset)
    if isinstance(limits, EllipsisType):
        found = []
        if session:
            found.append(make_limit("session", session["utilization"], session["resets_at"]))
        if week:
            found.append(make_limit("weekly_all", week["utilization"], week["resets_at"]))
        for model, percent in (scoped or {}).items():
            found.append(make_limit("weekly_scoped", percent, week_reset, model=model))
        limits = found
    return {
        "five_hour": session,
        "seven_day": week,
        "seven_day_oauth_apps": None,
        "seven_day_opus": _window_or_null(seven_day_opus, week_reset),
        "seven_day_sonnet": _window_or_null(seven_day_sonnet, week_reset),
        "seven_day_cowork": None,
        "seven_day_omelette": None,
        "iguana_necktie": None,
        "tangelo": {"utilization": 3.0, "resets_at": None},
        "limits": limits,
        "extra_usage": extra_usage,
        "spend": spend,
    } | more


def plans(now: dt.datetime | None = None) -> Iterator[tuple[str, Document]]:
    """Yield the name and an answer of each plan; the money is in EUR or USD."""
    yield "pro", sample_usage(now=now, extra_usage=make_extra_usage(190.0, 1700, "EUR"))
    yield (
        "max",
        sample_usage(
            now=now,
            scoped={"Fable": 31, "Opus": 7},
            extra_usage=make_extra_usage(1234.0, None, "USD"),
            spend=make_spend(1234, None, "USD"),
        ),
    )
    yield "team", sample_usage(now=now, spend=make_spend(5023, None, "USD"))
    yield (
        "enterprise",
        sample_usage(
            now=now,
            five_hour=None,
            seven_day=None,
            limits=[],
            tangelo=None,
            extra_usage=make_extra_usage(450000, 3000000, "EUR"),
            spend=make_spend(450000, 3000000, "EUR"),
        ),
    )
    yield "free", sample_usage(now=now, five_hour=None, seven_day=None, limits=[], tangelo=None)


def make_window(utilization: float, resets_at: When) -> Document:
    """Build a window; an idle one is `make_window(0, None)`."""
    return {
        "utilization": utilization,
        "resets_at": _wire_time(None, resets_at),
        "limit_dollars": None,
        "used_dollars": None,
        "remaining_dollars": None,
        "locked_reason": None,
    }


def make_limit(kind: str, percent: float, resets_at: When, *, model: str | None = None) -> Document:
    """Build an entry of `limits`; a model makes it a scoped one. The percent is a whole number there."""
    warning, critical = 75, 90
    whole = round(percent)
    return {
        "kind": kind,
        "group": "session" if kind == "session" else "weekly",
        "percent": whole,
        "severity": "critical" if whole >= critical else "warning" if whole >= warning else "normal",
        "resets_at": _wire_time(None, resets_at),
        "scope": {"model": {"id": None, "display_name": model}, "surface": None} if model else None,
        "is_active": kind == "session",
    }


def make_extra_usage(
    used: float, limit: int | None, currency: str, *, decimal_places: int = 2, enabled: bool = True
) -> Document:
    """Build `extra_usage`; the amounts are in minor units, without a `limit` there are no bounds."""
    return {
        "is_enabled": enabled,
        "monthly_limit": limit,
        "used_credits": used,
        "utilization": used / limit * 100 if limit else None,
        "currency": currency,
        "decimal_places": decimal_places,
        "disabled_reason": None if enabled else "out_of_credits",
    }


def make_spend(used: int, limit: int | None, currency: str, *, exponent: int = 2) -> Document:
    """Build `spend`; the amounts are in minor units, without a `limit` there are no bounds."""

    def amount(minor: int) -> Document:
        return {"amount_minor": minor, "currency": currency, "exponent": exponent}

    return {
        "used": amount(used),
        "limit": None if limit is None else amount(limit),
        "percent": round(used / limit * 100) if limit else 0,
        "enabled": True,
    }


def _window_or_null(value: float | Mapping[str, Any] | None, resets_at: str | None) -> Document | None:
    if value is None:
        return None
    return dict(value) if isinstance(value, Mapping) else make_window(value, resets_at)


def _wire_time(default: dt.datetime | None, given: When | EllipsisType) -> str | None:
    when = default if isinstance(given, EllipsisType) else given
    return when.isoformat() if isinstance(when, dt.datetime) else when
