"""The tables of entities: one row per entity."""

from __future__ import annotations

from typing import Any

from claude_usage_mqtt.homeassistant.entity import (
    ALIVE,
    HEALTH,
    MONEY,
    STATE,
    Entity,
    binary,
    control,
    event,
    percent,
    sensor,
    timestamp,
)
from claude_usage_mqtt.topics import (
    ASLEEP,
    ASLEEP_TOLERATED,
    FAILURES_TOLERATED,
    FIXED_BY_A_PERSON,
    FIXED_BY_TIME,
    LONGEST_INTERVAL,
    SHORTEST_INTERVAL,
    STATUSES,
)
from claude_usage_mqtt.usage.events import ACCOUNT, ACCOUNT_EVENT_TYPES, EVENT_TYPES

EXTRA_USAGE, EXTRA_USAGE_ENABLED = "extra_usage", "extra_usage_enabled"
PLAN, LOGIN_EXPIRY, POLLING = "plan", "login_expiry", "polling"
"""The features of an account that entities need."""

DURATION = "duration"
"""The feature of a window that has a length: a pool of dollars has none, so it has no pace."""


# Each change of these two is a line in somebody's activity log, so they do not follow each poll. Around 100 % there is
# a band in which nothing changes, wide for a session, whose average varies a lot. A session is over pace only once half
# of it is used, and has an expected time only close to its limit: an earlier prediction often does not come true.
SESSION_BAND, WEEK_BAND = (90, 120), (98, 102)
"""Percent projected at the reset: above the second it is over pace, at or below the first it is on pace again."""

_IS_SHORT = "{window}.duration_hours < 24"
_BACK, _OVER = (
    f"({session} if {_IS_SHORT} else {week})" for session, week in zip(SESSION_BAND, WEEK_BAND, strict=True)
)
_ON_PACE = (
    "none if {window}.utilization is none else false if {window}.limit_reached else true if {window}.projected is none"
    f" else {{window}}.projected <= {_BACK} if this.state == 'off'"
    f" else {{window}}.projected <= {_OVER} or {{window}}.utilization < 50 and {_IS_SHORT}"
)
# What is shown stays while the time expected now is close to it. If none is (nothing is being used), the current time
# counts: a near time stays, for half an hour after it has passed.
_READ = "as_timestamp({window}.read_at)"
_SHOWN = "as_timestamp(this.state, 0)"
_LIMIT_AT = (
    f"none if {{window}}.limit_reached is not false or {{window}}.utilization < 90 and {_IS_SHORT}"
    f" else this.state if (as_timestamp({{window}}.limit_at, {_READ}) - {_SHOWN}) | abs"
    f" <= [1800, ({_SHOWN} - {_READ}) / 2] | max"
    " else {window}.limit_at"
)

WINDOW_ENTITIES: tuple[Entity, ...] = (
    percent("utilization", "usage", "mdi:gauge", "{window}.utilization", suffix="usage"),
    # A reset stays true while the numbers are not known; it is null as soon as it is no longer true.
    timestamp("resets_at", "resets at", "mdi:timer-refresh-outline", "{window}.resets_at", trust=ALIVE),
    percent("projected", "projected at reset", "mdi:chart-line", "{window}.projected", needs=DURATION),
    timestamp("limit_at", "limit expected at", "mdi:timer-alert-outline", _LIMIT_AT, needs=DURATION),
    binary("on_pace", "on pace", _ON_PACE, icon="mdi:speedometer", needs=DURATION),
    binary("limit_reached", "limit reached", "{window}.limit_reached", device_class="problem"),
    event("event", "event", "mdi:bell-outline", "{window}", EVENT_TYPES),
    percent("remaining", "remaining", "mdi:gauge-empty", "{window}.remaining", enabled=False),
    percent("burn_rate", "burn rate", "mdi:fire", "{window}.burn_rate", unit="%/h", precision=1, enabled=False),
    percent("elapsed", "elapsed", "mdi:timelapse", "{window}.elapsed", enabled=False, needs=DURATION),
    percent("pace", "pace", "mdi:speedometer-medium", "{window}.pace", precision=1, enabled=False, needs=DURATION),
    sensor(
        "time_remaining",
        "time remaining",
        "mdi:timer-sand",
        "{window}.time_remaining_hours",
        unit="h",
        device_class="duration",
        precision=1,
        enabled=False,
    ),
)
"""For each window. Names follow the window's label, `{window}` in a value is its object in the state document."""


def _extra_usage(key: str) -> str:
    return f"(value_json.extra_usage or {{}}).get('{key}')"


def _about_money(field: str, name: str, icon: str) -> Entity:
    value = _extra_usage(field)
    return binary(f"extra_usage_{field}", name, value, icon=icon, trust=MONEY, needs=EXTRA_USAGE)


def _money(field: str, name: str, icon: str, **more: Any) -> Entity:
    options = {"device_class": "monetary", "precision": 2, "trust": MONEY, "needs": EXTRA_USAGE_ENABLED} | more
    return sensor(f"extra_usage_{field}", name, icon, _extra_usage(field), **options)


_SINCE = _extra_usage("period_start") + " or ''"

EXTRA_USAGE_ENTITIES: tuple[Entity, ...] = (
    _about_money("enabled", "Extra usage enabled", "mdi:credit-card-check-outline"),
    _about_money("active", "Extra usage active", "mdi:cash-fast"),
    # The amount starts over each month; without the last reset the statistics would count that as a refund.
    _money("used", "Extra usage spent", "mdi:cash-minus", state_class="total", last_reset=_SINCE),
    _money("limit", "Extra usage limit", "mdi:cash-lock"),
    _money("remaining", "Extra usage remaining", "mdi:cash-check"),
    percent(
        "extra_usage_utilization",
        "Extra usage",
        "mdi:cash-clock",
        _extra_usage("utilization"),
        trust=MONEY,
        needs=EXTRA_USAGE_ENABLED,
    ),
)
"""If the API reports extra usage."""

_STATUS_IN_WORDS = "'OK' if value_json.status == 'ok' else value_json.status | replace('_', ' ') | capitalize"
_PLAN = (
    "value_json.tier"
    " if value_json.tier and value_json.tier.lower().startswith((value_json.plan or '').lower())"
    " else [(value_json.plan or '') | capitalize, value_json.tier] | select | join(', ') or none"
)
_PROBLEM = (
    f"value_json.status in {list(FIXED_BY_A_PERSON)!r}"
    f" or value_json.status in {list(FIXED_BY_TIME)!r} and value_json.consecutive_failures >= {FAILURES_TOLERATED}"
    f" or value_json.status in {list(ASLEEP)!r}"
    f" and (as_timestamp(value_json.last_success, 0) < as_timestamp(now()) - {ASLEEP_TOLERATED}"
    f" or value_json.reporters and not value_json.reporters"
    f" | rejectattr('status', 'in', {list(FIXED_BY_A_PERSON)!r}) | list)"
)


def status_in_words(status: str) -> str:
    """Return a status as its entity shows it: `Rate limited`."""
    return "OK" if status == "ok" else status.replace("_", " ").capitalize()


DIAGNOSTIC: dict[str, Any] = {"topic": HEALTH, "trust": ALIVE, "category": "diagnostic"}


def _quiet(key: str, name: str, icon: str) -> Entity:
    return timestamp(key, name, icon, f"value_json.{key}", enabled=False, **DIAGNOSTIC)


ACCOUNT_ENTITIES: tuple[Entity, ...] = (
    binary("blocked", "Blocked", "value_json.blocked", device_class="problem"),
    timestamp("blocked_until", "Blocked until", "mdi:timer-lock-outline", "value_json.blocked_until"),
    percent(
        "tightest",
        "Tightest limit",
        "mdi:gauge-full",
        "(value_json.tightest or {}).get('utilization')",
        attributes="{'window': (value_json.tightest or {}).get('window'),"
        " 'label': (value_json.tightest or {}).get('label'),"
        " 'resets_at': (value_json.tightest or {}).get('resets_at'),"
        " 'summary': value_json.summary, 'updated_at': value_json.updated_at}",
    ),
    event("account_event", "Account event", "mdi:bell-badge-outline", ACCOUNT, ACCOUNT_EVENT_TYPES),
    sensor("plan", "Plan", "mdi:card-account-details-outline", _PLAN, needs=PLAN, **DIAGNOSTIC | {"topic": STATE}),
    sensor(
        "status",
        "Status",
        "mdi:list-status",
        _STATUS_IN_WORDS,
        device_class="enum",
        options=tuple(status_in_words(status) for status in STATUSES),
        attributes="{'code': value_json.status, 'detail': value_json.detail}",
        **DIAGNOSTIC,
    ),
    binary(
        "problem", "Problem", _PROBLEM, device_class="problem", attributes="{'detail': value_json.detail}", **DIAGNOSTIC
    ),
    timestamp(
        "login_expires_at",
        "Login expires at",
        "mdi:account-clock-outline",
        "value_json.get('login_expires_at')",
        needs=LOGIN_EXPIRY,
        **DIAGNOSTIC,
    ),
    # Off by default: each writes a line per poll into the device's activity, and would crowd out everything else.
    _quiet("last_success", "Last success", "mdi:cloud-check-outline"),
    _quiet("next_poll", "Next poll", "mdi:cloud-clock-outline"),
    _quiet("token_expires_at", "Token expires at", "mdi:key-alert-outline"),
    control("refresh", "button", "Refresh", "mdi:refresh", command="refresh", needs=POLLING),
    control(
        "poll_interval",
        "number",
        "Poll interval",
        "mdi:timer-cog-outline",
        value="value_json.poll_interval",
        unit="s",
        device_class="duration",
        category="config",
        command="interval",
        needs=POLLING,
        extra=(("min", SHORTEST_INTERVAL), ("max", LONGEST_INTERVAL), ("step", 1), ("mode", "box")),
    ),
    control(
        "polling",
        "switch",
        "Polling",
        "mdi:cloud-sync-outline",
        value="value_json.polling",
        category="config",
        command="polling",
        needs=POLLING,
    ),
)
"""For each account: whether one can work, diagnostics and controls."""

REPORTER = binary(
    "reporter_{machine}",
    "Reporter {machine}",
    "(value_json.get('reporters') or []) | selectattr('machine', 'eq', '{machine}')"
    " | rejectattr('status', 'eq', 'offline') | list | length > 0",
    device_class="connectivity",
    **DIAGNOSTIC,
)
"""For each machine with a reporter; the service calls it offline after ten minutes of absence."""
