"""The usage of one account followed over time: all windows, the money, and the state document made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import SAME_INSTANT
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import ExtraUsage, Reading, Window
from claude_usage_mqtt.usage.window_state import (
    ENTITIES_KEPT,
    STUB_KEPT,
    UNKNOWN_AFTER_RESET,
    WindowState,
    first_reading,
    next_reading,
    no_reading,
    shifted,
    window_document,
)

LONGEST_GAP = timedelta(minutes=70)
"""Of the time between two whole answers no more than this counts: a longer one is a gap, of which they say nothing."""

MAX_WINDOWS = 40
"""Windows beyond this many are not followed: each has a dozen entities, and answers could name new ones for ever."""

LONGEST_POLL = timedelta(minutes=1)
"""A reading older than the one we know by no more than this was overtaken; by more, the clock was set."""


class AccountUsage:
    """Everything known of one account's usage.

    Fed with each answer, it says what happened (events) and what to publish (`document`). All of it can be
    put into `memory` and taken from there again.
    """

    def __init__(self, account: str) -> None:
        self.account = account
        self.plan: str | None = None
        self.organization: str | None = None
        self.tracks: dict[str, WindowState] = {}
        self.extra_usage: ExtraUsage | None = None
        self.currency: str | None = None
        self.extra_usage_absent_for: timedelta | None = None
        """None where no answer ever had extra usage: then it has no entities."""
        self.last_answer: datetime | None = None
        self.last_whole: datetime | None = None
        """When the last answer came that tells what there is not, too: the status line's are partial."""
        self.last_change: datetime | None = None

    @property
    def is_known(self) -> bool:
        """Whether any answer was ever seen: there is something to publish."""
        return self.last_answer is not None or bool(self.tracks)

    @property
    def has_extra_usage(self) -> bool:
        """Whether extra usage has entities now."""
        return self.extra_usage_absent_for is not None and self.extra_usage_absent_for < ENTITIES_KEPT

    def identify(self, organization: str | None) -> bool:
        """Note whose credentials are used (a hash); None tells nothing.

        Return whether they are another organization's than before: then all numbers and all memory of events
        are forgotten, and only the entities stay, as unknown.
        """
        switched = organization is not None and self.organization not in (None, organization)
        if switched:
            self.tracks = {key: replace(track, present=False, blank=True) for key, track in self.tracks.items()}
            self.plan = self.extra_usage = None
        self.organization = organization or self.organization
        return switched

    def answered(self, usage: Reading, thresholds: Iterable[float]) -> list[Event]:
        """Take in a whole answer: what it lacks is not known any more. Return what happened."""
        now = usage.read_at
        passed = max(timedelta(0), min(now - self.last_whole, LONGEST_GAP)) if self.last_whole else timedelta(0)
        events = self._read(usage, tuple(thresholds))
        for key, track in list(self.tracks.items()):
            if key in usage.windows:
                continue
            track = self.tracks[key] = no_reading(track, passed)  # noqa: PLW2901
            if track.is_gone:
                del self.tracks[key]
        self._take_money(usage.extra_usage, passed, now)
        self.plan = usage.plan
        self.last_answer = self.last_whole = now
        return events

    def glimpsed(self, usage: Reading, thresholds: Iterable[float]) -> list[Event]:
        """Take in a partial answer (the status line's): what it lacks stays. Return what happened.

        One that is not newer than the last answer, or tells nothing that is, changes nothing: `last_answer` stays.
        """
        newer = {key: window for key, window in usage.windows.items() if self._is_newer(window)}
        if not newer:
            return []
        events = self._read(replace(usage, windows=newer), tuple(thresholds))
        self.last_answer = usage.read_at
        return events

    def _is_newer(self, window: Window) -> bool:
        if self.last_answer is not None and window.read_at <= self.last_answer:
            return False
        known = self.tracks.get(window.key)
        if known is None or not known.present:
            return True
        if known.resets_at is None or window.resets_at is None:
            return True
        # Of several open sessions each goes on to show its own last answer: in one window the lower is the older.
        is_same = abs(window.resets_at - known.resets_at) <= SAME_INSTANT
        return not is_same or round(window.utilization, 2) >= known.utilization

    def _read(self, usage: Reading, thresholds: tuple[float, ...]) -> list[Event]:
        events: list[Event] = []
        for key, window in usage.windows.items():
            known = self.tracks.get(key)
            if known is None:
                if len(self.tracks) >= MAX_WINDOWS:
                    continue
                track = first_reading(window)
            elif timedelta(0) < known.read_at - window.read_at <= LONGEST_POLL:
                continue
            else:
                track, happened = next_reading(known, window, thresholds)
                events += happened
            if known is None or (track.utilization, track.resets_at) != (known.utilization, known.resets_at):
                self.last_change = usage.read_at
            self.tracks[key] = track
        return events

    def _take_money(self, money: ExtraUsage | None, passed: timedelta, now: datetime) -> None:
        if money is not None:
            self.currency = money.currency or self.currency
            self.extra_usage_absent_for = timedelta(0)
        elif self.extra_usage_absent_for is not None:
            absent_for = self.extra_usage_absent_for + (passed if self.extra_usage is None else timedelta(0))
            # like a window: the order to remove its entities stands for a while, and is never skipped
            limit = ENTITIES_KEPT if self.has_extra_usage else absent_for
            self.extra_usage_absent_for = min(absent_for, limit)
            if self.extra_usage_absent_for >= ENTITIES_KEPT + STUB_KEPT:
                self.extra_usage_absent_for = None
        if money != self.extra_usage:
            self.last_change = now
        self.extra_usage = money

    def resets(self) -> list[datetime]:
        """Return the known resets, soonest first."""
        return sorted({t.resets_at for t in self.tracks.values() if t.present and t.resets_at is not None})

    def next_unknown(self, now: datetime) -> datetime | None:
        """Return when the next window's numbers become unknown for want of a newer answer."""
        instants = [reset + UNKNOWN_AFTER_RESET for reset in self.resets()]
        return min((instant for instant in instants if instant > now), default=None)

    def shift(self, step: timedelta) -> None:
        """Follow a clock that was set by `step`: what was noted at clock time moves, resets do not."""
        self.tracks = {key: shifted(track, step) for key, track in self.tracks.items()}
        for name in ("last_answer", "last_whole", "last_change"):
            instant = getattr(self, name)
            if instant is not None:
                setattr(self, name, instant + step)

    def document(self, now: datetime) -> dict[str, Any]:
        """Return the state document, every key of it, as of `now`."""
        return {
            "account": self.account,
            "plan": self.plan,
            "windows": {key: window_document(track, now) for key, track in self.tracks.items()},
            "extra_usage": None if self.extra_usage is None else _money_document(self.extra_usage),
        }


def _money_document(money: ExtraUsage) -> dict[str, Any]:
    def places(amount: float | None) -> float | None:
        return None if amount is None else round(amount, 8)

    return {
        "enabled": money.enabled,
        "used": places(money.used),
        "limit": places(money.limit),
        "remaining": places(money.remaining),
        "utilization": None if money.utilization is None else round(money.utilization, 2),
        "currency": money.currency,
    }
