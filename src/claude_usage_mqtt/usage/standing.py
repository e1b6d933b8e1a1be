"""Can I work now? What blocks an account, until when, which window is tightest: in one sentence, and in events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from claude_usage_mqtt.usage.events import BLOCKED, EXTRA_USAGE_STARTED, UNBLOCKED, Event
from claude_usage_mqtt.usage.money import ACCOUNT_EVENT_LASTS
from claude_usage_mqtt.usage.reading import ExtraUsage, stops_all_work
from claude_usage_mqtt.usage.window_state import WindowState

MAX_SUMMARY = 200
"""Characters; it is read aloud, and shown on small displays."""


class Standing(NamedTuple):
    """What all windows and the money of an account mean together.

    `blocked` is None if that is not known. `active`: a window is used up, and extra usage covers it.
    """

    blocked: bool | None
    blocked_until: datetime | None
    active: bool | None
    tightest: WindowState | None
    tightest_model: WindowState | None


def standing(
    windows: Iterable[WindowState],
    unusable: Iterable[str],
    money: ExtraUsage | None,
    now: datetime,
    stale_after: timedelta,
    *,
    has_money: bool,
) -> Standing:
    """Return what `windows` and `money` mean together.

    `unusable` are the keys of existing windows for which the last response had no usable number. `has_money`: `money`
    is None because it is not known.
    """
    existing = [window for window in windows if not window.is_retired]
    known = [window for window in existing if window.is_known(now, stale_after)]
    stopping = [window for window in known if stops_all_work(window.key)]
    used_up = [window for window in stopping if window.is_limit_reached]
    # A window that a response lacks is still expected; a blank one, of which only the entities are kept, is not.
    expected = {window.key for window in existing if not window.blank}.union(unusable)
    are_all_known = bool(stopping) and set(filter(stops_all_work, expected)) <= {window.key for window in stopping}
    covers = None if money is None and has_money else money is not None and money.covers
    blocked = active = False if are_all_known else None
    if used_up:
        active = covers
        if not covers:
            blocked = None if covers is None else True
    resets = [window.resets_at for window in used_up if window.resets_at is not None]
    return Standing(
        blocked=blocked,
        blocked_until=max(resets) if blocked and len(resets) == len(used_up) else None,
        active=active,
        tightest=_tightest(stopping),
        tightest_model=_tightest(window for window in known if not stops_all_work(window.key)),
    )


def _tightest(windows: Iterable[WindowState]) -> WindowState | None:
    return max(windows, key=lambda window: (window.is_limit_reached, window.utilization), default=None)


class AccountEvents:
    """Remembers what was last certain, so that each change is one event."""

    def __init__(self, *, was_blocked: bool | None = None, was_active: bool | None = None) -> None:
        self.was_blocked = was_blocked
        self.was_active = was_active

    def update(self, where: Standing, now: datetime) -> list[Event]:
        """Return what has happened since the last reading."""
        happened: list[str] = []
        if where.active is not None:
            if where.active and self.was_active is False:
                happened.append(EXTRA_USAGE_STARTED)
            self.was_active = where.active
        if where.blocked is not None:
            if self.was_blocked is not None and where.blocked != self.was_blocked:
                happened.append(BLOCKED if where.blocked else UNBLOCKED)
            self.was_blocked = where.blocked
        tightest = where.tightest
        return [
            Event(
                event_type=event_type,
                at=now,
                label=None if tightest is None else tightest.label,
                utilization=None if tightest is None else tightest.utilization,
                resets_at=where.blocked_until,
                expires_at=now + ACCOUNT_EVENT_LASTS,
            )
            for event_type in happened
        ]


def summary(where: Standing, windows: Sequence[WindowState], money: ExtraUsage | None, now: datetime) -> str:
    """Return one sentence or more, of at most 200 characters, about the known `windows`; times are local."""
    sentences: list[str] = []
    if where.blocked:
        until = "" if where.blocked_until is None else f" until {clock_time(where.blocked_until, now)}"
        sentences.append(f"Blocked{until}.")
    elif where.active:
        sentences.append("Paid extra usage is active.")
    for window in sorted(windows, key=lambda window: not stops_all_work(window.key)):
        reset = ""
        if window.resets_at is not None and (window.key == "five_hour" or window is where.tightest):
            reset = f", resets {clock_time(window.resets_at, now)}"
        sentences.append(f"{_name(window)} {window.utilization:.0f} %{reset}.")
    if money is not None and money.enabled and money.used is not None:
        limit = "" if money.limit is None else f" of {money.limit:.2f}"
        sentences.append(f"Extra usage {money.used:.2f}{limit} {money.currency or ''}".strip() + ".")
    text = ""
    for sentence in sentences or ["The usage is not known."]:
        if len(text) + len(sentence) + 1 <= MAX_SUMMARY:
            text = f"{text} {sentence}".strip()
    return text


def _name(window: WindowState) -> str:
    return "Week" if window.key == "seven_day" else window.label.removeprefix("Weekly ")


def clock_time(instant: datetime, now: datetime) -> str:
    """Return `21:29`, with the weekday unless it is within a day, with the date if it is a week or more ahead."""
    local = instant.astimezone()
    if instant - now < timedelta(hours=20):
        return f"{local:%H:%M}"
    return f"{local:%a %H:%M}" if instant - now < timedelta(days=6) else f"{local:%b} {local.day} {local:%H:%M}"
