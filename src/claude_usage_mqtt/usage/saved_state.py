"""What must survive a restart, encoded as a JSON object, and parsed as untrusted input.

Everything restored here was on a broker that others may write to: what is not exactly right is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from claude_usage_mqtt.instants import format_instant, from_epoch, parse_instant, steady
from claude_usage_mqtt.untrusted import CURRENCY, HASH, clean_text, matching, number
from claude_usage_mqtt.usage.absence import MayBeAbsent
from claude_usage_mqtt.usage.account import AccountUsage, Plan
from claude_usage_mqtt.usage.derived import MAX_SAMPLES, Sample
from claude_usage_mqtt.usage.json_values import (
    MAX_AHEAD,
    amounts_from_json,
    epoch,
    names,
    saved_absence,
    saved_instant,
)
from claude_usage_mqtt.usage.money import MoneyState, month_of
from claude_usage_mqtt.usage.plausibility import Suspect
from claude_usage_mqtt.usage.reading import (
    MAX_UTILIZATION,
    MAX_WINDOWS,
    OAUTH,
    SOURCES,
    WINDOW_KEY,
    Owner,
    Window,
    duration_of,
)
from claude_usage_mqtt.usage.standing import AccountEvents
from claude_usage_mqtt.usage.window_state import WindowState

FORMAT = 2
READABLE = (1, 2)
"""Version 1 kept the same under other names, inside the health document."""

MAX_SHARE = 50 * MAX_UTILIZATION
"""Percent of the limit of extra usage; more is a fault."""


def save(usage: AccountUsage) -> dict[str, Any]:
    """Return what is known of an account's usage as a JSON object."""
    history = usage.history
    return {
        "format": FORMAT,
        "owner": usage.owner.account,
        "organization": usage.owner.organization,
        "plan": usage.plan.name,
        "tier": usage.plan.tier,
        "last_read": epoch(history.last_read),
        "last_complete": epoch(history.last_complete),
        "last_change": epoch(history.last_change),
        "ignored": list(history.ignored),
        "unusable": list(history.unusable),
        "blocked": usage.events.was_blocked,
        "active": usage.events.was_active,
        "money": None if usage.money is None else _save_money(usage.money, history.ignored),
        "windows": {key: _save_window(window, history.ignored) for key, window in usage.windows.items()},
    }


def _save_window(window: WindowState, ignored: tuple[str, ...]) -> dict[str, Any]:
    saved: dict[str, Any] = {
        "label": window.label,
        "utilization": window.utilization,
        "resets_at": format_instant(window.resets_at),
        "read_at": epoch(window.read_at),
        "source": window.source,
        "machine": window.machine,
        "severity": window.severity,
        "locked": window.locked,
        "peak": window.peak,
        "limit_at": format_instant(window.limit_at),
        "begun_after": format_instant(window.begun_after),
        "present": window.present,
        "blank": window.blank,
        "samples": [[int(sample.at.timestamp()), sample.utilization] for sample in window.samples],
        **_save_absence(window, ignored),
    }
    if window.suspect is not None:
        suspect = window.suspect.window
        saved["suspect"] = {
            "utilization": suspect.utilization,
            "resets_at": format_instant(suspect.resets_at),
            "read_at": epoch(suspect.read_at),
            "baseline": window.suspect.baseline,
        }
    return saved


def _save_money(state: MoneyState, ignored: tuple[str, ...]) -> dict[str, Any]:
    return {
        "amounts": None if state.money is None else asdict(state.money),
        "currency": state.currency,
        "enabled": state.enabled,
        "read_at": epoch(state.read_at),
        "period_start": epoch(state.period_start),
        "peak": state.peak,
        **_save_absence(state, ignored),
    }


def _save_absence(known: MayBeAbsent, ignored: tuple[str, ...]) -> dict[str, Any]:
    saved: dict[str, Any] = {"absent_for": int(known.absent_for.total_seconds())}
    return saved if known.seen_among == ignored else saved | {"seen_among": list(known.seen_among)}


def is_readable(saved: object) -> bool:
    """Whether `restore` can read this: this version or an older one writes this format."""
    return isinstance(saved, dict) and saved.get("format") in READABLE


def restore(usage: AccountUsage, saved: object, state: object, now: datetime) -> None:
    """Fill a fresh AccountUsage from what was saved, and from the state document, which older versions need.

    Without saved state (a much older version, or one that was emptied) the numbers of the state document are used.
    """
    document: dict[str, Any] = state if isinstance(state, dict) else {}
    history = usage.history
    if isinstance(saved, dict) and is_readable(saved):
        usage.owner = Owner(matching(HASH, saved.get("owner")), matching(HASH, saved.get("organization")))
        plan = clean_text(saved.get("plan")) or clean_text(document.get("plan"))
        usage.plan = Plan(plan, clean_text(saved.get("tier")))
        history.last_read = saved_instant(saved.get("last_read", saved.get("last_answer")), now)
        history.last_complete = saved_instant(saved.get("last_complete", saved.get("last_whole")), now)
        history.last_change = saved_instant(saved.get("last_change"), now)
        history.ignored = names(saved.get("ignored"))
        history.unusable = names(saved.get("unusable"))
        usage.events = AccountEvents(was_blocked=_flag(saved.get("blocked")), was_active=_flag(saved.get("active")))
        _restore_windows(usage, saved.get("windows"), now)
        money = saved.get("money", _money_of_document(saved, document, history.last_complete or now))
        usage.money = _restore_money(money, now, history.ignored)
    elif document:
        usage.plan = Plan(clean_text(document.get("plan")))
        _restore_windows(usage, document.get("windows"), now)
        usage.money = _restore_money(_money_of_document({}, document, now), now, ())
        if usage.windows or usage.money is not None:
            history.last_read = now
    instants = (history.last_read, history.last_complete, history.last_change, *usage.read_times().values())
    history.restored = frozenset(instant for instant in instants if instant is not None)


def _restore_windows(usage: AccountUsage, windows: object, now: datetime) -> None:
    if not isinstance(windows, dict):
        return
    for key, entry in list(windows.items())[:MAX_WINDOWS]:
        if isinstance(key, str) and WINDOW_KEY.fullmatch(key) and isinstance(entry, dict):
            window = _restore_window(key, entry, now, usage.history.ignored)
            if window is not None:
                usage.windows[key] = window


def _restore_window(key: str, entry: Mapping[str, Any], now: datetime, ignored: tuple[str, ...]) -> WindowState | None:
    duration = duration_of(key)
    label = clean_text(entry.get("label"))
    utilization = number(entry.get("utilization"), maximum=MAX_UTILIZATION)
    resets_at = steady(None, parse_instant(entry.get("resets_at")))
    blank = entry.get("blank") is True
    if entry.get("utilization") is None:
        utilization, blank = 0.0, True  # from a document: announced, but not known
    if label is None or utilization is None or (resets_at is None and entry.get("resets_at") is not None):
        return None
    if resets_at is not None and duration is not None and resets_at - now > 2 * duration:
        return None
    read_at = saved_instant(entry.get("read_at"), now)
    if read_at is None:  # version 1 did not say when; it was read before the window was over
        read_at = now if resets_at is None else min(resets_at, now)
    peak = number(entry.get("peak"), maximum=MAX_UTILIZATION)
    limit_at = steady(None, parse_instant(entry.get("limit_at")))
    source = entry.get("source")
    window = WindowState(
        key=key,
        label=label,
        duration=duration,
        utilization=round(utilization, 2),
        resets_at=resets_at,
        read_at=read_at,
        source=source if isinstance(source, str) and source in SOURCES else OAUTH,
        machine=clean_text(entry.get("machine")),
        severity=clean_text(entry.get("severity")),
        locked=entry.get("locked") is True,
        peak=round(max(utilization, peak or 0.0), 2),
        samples=_samples(entry.get("samples"), now),
        present=entry.get("present") is not False and not blank,
        absent_for=saved_absence(entry.get("absent_for")),
        seen_among=_seen_among(entry, ignored),
        limit_at=limit_at if resets_at and limit_at and limit_at < resets_at else None,
        begun_after=parse_instant(entry.get("begun_after")),
        blank=blank,
    )
    return _with_suspect(window, entry.get("suspect"), now)


def _seen_among(entry: Mapping[str, Any], ignored: tuple[str, ...]) -> tuple[str, ...]:
    saved = entry.get("seen_among")
    return ignored if saved is None else names(saved)


def _with_suspect(window: WindowState, entry: object, now: datetime) -> WindowState:
    if not isinstance(entry, dict):
        return window
    utilization = number(entry.get("utilization"), maximum=MAX_UTILIZATION)
    baseline = number(entry.get("baseline"), maximum=MAX_UTILIZATION)
    read_at, resets_at = saved_instant(entry.get("read_at"), now), parse_instant(entry.get("resets_at"))
    if utilization is None or baseline is None or read_at is None:
        return window
    suspect = Window(
        key=window.key,
        label=window.label,
        duration=window.duration,
        utilization=utilization,
        resets_at=resets_at,
        read_at=read_at,
    )
    return replace(window, suspect=Suspect(suspect, baseline))


def _samples(value: object, now: datetime) -> tuple[Sample, ...]:
    if not isinstance(value, list):
        return ()
    samples: list[Sample] = []
    for pair in value[-MAX_SAMPLES:]:
        if not isinstance(pair, list) or len(pair) != 2:
            return ()
        at, utilization = from_epoch(pair[0]), number(pair[1], maximum=MAX_UTILIZATION)
        if at is None or utilization is None or at > now + MAX_AHEAD or (samples and at < samples[-1].at):
            return ()
        samples.append(Sample(at.replace(microsecond=0), round(utilization, 2)))
    return tuple(samples)


def _restore_money(entry: object, now: datetime, ignored: tuple[str, ...]) -> MoneyState | None:
    if not isinstance(entry, dict):
        return None
    money, absent_for = amounts_from_json(entry.get("amounts"), most=MAX_SHARE), entry.get("absent_for")
    read_at = saved_instant(entry.get("read_at"), now)
    if read_at is None or (money is None and absent_for is None):
        return None
    return MoneyState(
        money=money,
        read_at=read_at,
        period_start=saved_instant(entry.get("period_start"), now) or month_of(read_at),
        currency=matching(CURRENCY, entry.get("currency")),
        enabled=entry.get("enabled") is True,
        peak=number(entry.get("peak"), maximum=MAX_SHARE) or 0.0,
        absent_for=saved_absence(absent_for),
        seen_among=_seen_among(entry, ignored),
    )


def _money_of_document(saved: Mapping[str, Any], document: Mapping[str, Any], read_at: datetime) -> dict[str, Any]:
    """Return extra usage as it would have been saved; `read_at` is its time if the document has none."""
    section = document.get("extra_usage")
    money = section if isinstance(section, dict) else {}
    return {
        "amounts": money,
        "currency": money.get("currency") or saved.get("currency"),
        "enabled": money.get("enabled"),
        "read_at": money.get("read_at") or epoch(read_at),
        "period_start": money.get("period_start"),
        "peak": money.get("utilization"),
        "absent_for": saved.get("extra_usage_absent_for"),
    }


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
