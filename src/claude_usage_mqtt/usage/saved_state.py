"""What must survive a restart, as a JSON object, and back again as untrusted input.

Everything read here was on a broker that others may write to: what is not exactly right is left out.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import format_instant, from_epoch, parse_instant, steady
from claude_usage_mqtt.untrusted import clean_text, number
from claude_usage_mqtt.usage.account import MAX_WINDOWS, AccountUsage
from claude_usage_mqtt.usage.derived import Sample
from claude_usage_mqtt.usage.reading import MAX_AMOUNT, MAX_UTILIZATION, OAUTH, SESSION, STATUSLINE, WEEK, ExtraUsage
from claude_usage_mqtt.usage.window_state import MAX_SAMPLES, WindowState

FORMAT = 1
WINDOW_KEY = re.compile(r"five_hour|seven_day(_[a-z0-9]+)*")
MAX_ABSENCE = timedelta(days=3)


def remember(usage: AccountUsage) -> dict[str, Any]:
    """Return the memory of an account's usage as a JSON object."""
    absent = usage.extra_usage_absent_for
    return {
        "format": FORMAT,
        "organization": usage.organization,
        "last_answer": format_instant(usage.last_answer),
        "last_whole": format_instant(usage.last_whole),
        "last_change": format_instant(usage.last_change),
        "currency": usage.currency,
        "extra_usage_absent_for": None if absent is None else int(absent.total_seconds()),
        "windows": {key: _remember_window(track) for key, track in usage.tracks.items()},
    }


def _remember_window(track: WindowState) -> dict[str, Any]:
    return {
        "label": track.label,
        "utilization": track.utilization,
        "resets_at": format_instant(track.resets_at),
        "read_at": track.read_at.timestamp(),
        "source": track.source,
        "peak": track.peak,
        "limit_at": format_instant(track.limit_at),
        "present": track.present,
        "absent_for": int(track.absent_for.total_seconds()),
        "blank": track.blank,
        "samples": [[int(sample.at.timestamp()), sample.utilization] for sample in track.samples],
    }


def is_readable(memory: object) -> bool:
    """Whether `recall` can read this memory: it is in the form that this version writes."""
    return isinstance(memory, dict) and memory.get("format") == FORMAT


def recall(usage: AccountUsage, memory: object, state: object, now: datetime) -> bool:
    """Fill a fresh AccountUsage from its `memory`, and what only the state document holds.

    Without memory (an older version, or one that was emptied) the numbers of the state document serve.
    Return False where there was neither.
    """
    if isinstance(memory, dict) and is_readable(memory):
        organization = memory.get("organization")
        if isinstance(organization, str) and re.fullmatch(r"[0-9a-f]{8,64}", organization):
            usage.organization = organization
        usage.last_answer = _not_after(parse_instant(memory.get("last_answer")), now)
        usage.last_whole = _not_after(parse_instant(memory.get("last_whole")), now)
        usage.last_change = _not_after(parse_instant(memory.get("last_change")), now)
        usage.currency = _currency(memory.get("currency"))
        usage.extra_usage_absent_for = _absence(memory.get("extra_usage_absent_for"))
        _recall_windows(usage, memory.get("windows"), now, from_state=False)
        if isinstance(state, dict):
            _recall_rest(usage, state)
    elif isinstance(state, dict):
        _recall_windows(usage, state.get("windows"), now, from_state=True)
        _recall_rest(usage, state)
        if usage.tracks or usage.extra_usage is not None:
            usage.last_answer = now
    if usage.extra_usage is not None:
        usage.extra_usage_absent_for = timedelta(0)
        usage.currency = usage.extra_usage.currency or usage.currency
    return usage.is_known


def _recall_windows(usage: AccountUsage, windows: object, now: datetime, *, from_state: bool) -> None:
    if not isinstance(windows, dict):
        return
    for key, entry in list(windows.items())[:MAX_WINDOWS]:
        if isinstance(key, str) and len(key) <= 60 and WINDOW_KEY.fullmatch(key) and isinstance(entry, dict):
            track = _recall_window(key, entry, now, from_state=from_state)
            if track is not None:
                usage.tracks[key] = track


def _recall_window(key: str, entry: dict[str, Any], now: datetime, *, from_state: bool) -> WindowState | None:
    duration = SESSION if key == "five_hour" else WEEK
    label = clean_text(entry.get("label"))
    utilization = number(entry.get("utilization"), maximum=MAX_UTILIZATION)
    resets_at = steady(None, parse_instant(entry.get("resets_at")))
    blank = entry.get("blank") is True
    if from_state and utilization is None:
        utilization, blank = 0.0, True  # announced, but not known
    if label is None or utilization is None or (resets_at is None and entry.get("resets_at") is not None):
        return None
    if resets_at is not None and resets_at - now > 2 * duration:
        return None
    peak = number(entry.get("peak"), maximum=MAX_UTILIZATION)
    read_at = _not_after(from_epoch(entry.get("read_at")), now)
    if read_at is None:  # what stood on the broker until now was read before the window was over
        read_at = _not_after(resets_at, now)
    limit_at = steady(None, parse_instant(entry.get("limit_at")))
    return WindowState(
        key=key,
        label=label,
        duration=duration,
        utilization=round(utilization, 2),
        resets_at=resets_at,
        read_at=read_at or now,
        source=STATUSLINE if entry.get("source") == STATUSLINE else OAUTH,
        peak=round(max(utilization, peak or 0.0), 2),
        samples=_samples(entry.get("samples"), now),
        present=entry.get("present") is not False and not blank,
        absent_for=_absence(entry.get("absent_for")) or timedelta(0),
        limit_at=limit_at if resets_at and limit_at and limit_at < resets_at else None,
        blank=blank,
    )


def _samples(value: object, now: datetime) -> tuple[Sample, ...]:
    if not isinstance(value, list):
        return ()
    samples: list[Sample] = []
    for pair in value[-MAX_SAMPLES:]:
        if not isinstance(pair, list) or len(pair) != 2:
            return ()
        at, utilization = from_epoch(pair[0]), number(pair[1], maximum=MAX_UTILIZATION)
        if at is None or utilization is None or at > now or (samples and at < samples[-1].at):
            return ()
        samples.append(Sample(at.replace(microsecond=0), round(utilization, 2)))
    return tuple(samples)


def _recall_rest(usage: AccountUsage, state: dict[str, Any]) -> None:
    usage.plan = clean_text(state.get("plan"))
    money = state.get("extra_usage")
    if not isinstance(money, dict) or not isinstance(money.get("enabled"), bool):
        return
    usage.extra_usage = ExtraUsage(
        enabled=money["enabled"],
        used=number(money.get("used"), maximum=MAX_AMOUNT),
        limit=number(money.get("limit"), maximum=MAX_AMOUNT),
        utilization=number(money.get("utilization"), maximum=MAX_UTILIZATION),
        currency=_currency(money.get("currency")),
    )


def _currency(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Z]{3}", value) else None


def _absence(value: object) -> timedelta | None:
    seconds = number(value, maximum=MAX_ABSENCE.total_seconds())
    return None if seconds is None else timedelta(seconds=seconds)


def _not_after(instant: datetime | None, now: datetime) -> datetime | None:
    return None if instant is None else min(instant, now)
