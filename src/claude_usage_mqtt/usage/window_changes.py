"""What a reading, or its absence, changes in a window that is followed, and what has happened in between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import datetime, timedelta

from claude_usage_mqtt.instants import SAME_INSTANT, steady
from claude_usage_mqtt.usage.derived import sampled
from claude_usage_mqtt.usage.events import (
    LIMIT,
    LIMIT_REACHED,
    RESET,
    RESET_EARLY,
    THRESHOLD_REACHED,
    Event,
    newly_reached,
)
from claude_usage_mqtt.usage.plausibility import REFILL, doubt, same_reset
from claude_usage_mqtt.usage.reading import STATUSLINE, Window, WindowNumbers
from claude_usage_mqtt.usage.window_state import UNKNOWN_AFTER_RESET, WindowState

SEEN_WITHIN = timedelta(days=1)
"""From the last reading of a window to the first one of the next: after a longer one that may be another early reset's,
and have begun at any time."""

UNKNOWN_LENGTH = timedelta(days=1)
"""How long an event of a window of unknown length is worth delivering."""


def first_reading(window: Window) -> WindowState:
    """Start following a window: what it has already reached is not an event."""
    resets_at = steady(None, window.resets_at)
    is_over = resets_at is not None and resets_at + UNKNOWN_AFTER_RESET <= window.read_at
    state = _state(window, resets_at)
    samples = sampled((), state.read_at, state.utilization, state.look_back)
    return replace(state, peak=state.utilization, samples=samples, present=not is_over, blank=is_over)


def next_reading(
    known: WindowState, window: Window, *, thresholds: Iterable[float], now: datetime, is_stale: bool
) -> tuple[WindowState, list[Event]]:
    """Update `known` with another reading; return the new state, and what happened in between.

    A reading that is older, unlikely, or of a window that is over changes nothing. `is_stale`: the known number is too
    old to be shown.
    """
    if known.blank:
        return first_reading(window), []
    window = replace(window, utilization=round(window.utilization, 2), resets_at=_reset(known, window))
    is_same = same_reset(known.resets_at, window.resets_at)
    if window.read_at <= known.newest or _is_late(known, window):
        return known, []
    if window.source == STATUSLINE and is_same:
        window = replace(window, locked=known.locked)  # the source does not say
    if window.source == STATUSLINE and is_same and known.present:
        # Each open session shows the numbers of its own last response: the lower of two numbers is older, unless there
        # is a sign of a new response. What a terminal shows first decides nothing.
        drop = known.utilization - window.utilization
        if window.at_least and drop > 0:
            window, drop = replace(window, utilization=known.utilization), 0.0
        is_lower = drop > 0 and (drop < REFILL or window.is_first)
        if window.may_be_old and not is_stale and (is_lower if known.suspect is None else window.is_first):
            return known, []
    suspect = known.suspect
    lowest = window.utilization
    if suspect is not None and suspect.is_confirmed_by(window):
        lowest = min(lowest, suspect.window.utilization)
    else:
        doubted = doubt(known.utilization, known.resets_at, window)
        if doubted is not None:
            return replace(known, suspect=doubted), []
    return _believed(known, window, lowest, thresholds=thresholds, now=now)


def _believed(
    known: WindowState, window: Window, lowest: float, *, thresholds: Iterable[float], now: datetime
) -> tuple[WindowState, list[Event]]:
    """Apply a reading that is believed; `lowest` is its utilization, or the lower one that it confirmed."""
    state = _state(window, window.resets_at)
    ended = _ended(known, state, known.utilization - lowest)

    limit_reached = Event(
        event_type=LIMIT_REACHED,
        at=now,
        window=state.key,
        label=state.label,
        utilization=state.utilization,
        previous_utilization=0.0 if ended else known.utilization,
        resets_at=state.resets_at,
        expires_at=state.resets_at or now + (state.duration or UNKNOWN_LENGTH),
    )
    events: list[Event] = []
    peak, was_limited, samples, limit_at = known.peak, known.is_limit_reached, known.samples, known.limit_at
    if ended is not None:
        it_ended = limit_reached._replace(event_type=ended, previous_utilization=known.utilization)
        events.append(it_ended._replace(resets_at=known.resets_at))
        is_refill = ended == RESET_EARLY and same_reset(known.resets_at, state.resets_at)
        peak = lowest if is_refill else 0.0
        was_limited, samples, limit_at = False, (), None
    was_limited = was_limited or peak >= LIMIT
    # A lock is the limit: a threshold below it is not reported until the window is unlocked.
    counted = 0.0 if state.locked and state.utilization < LIMIT else state.utilization
    reached = newly_reached(peak, counted, thresholds)
    if reached:
        events.append(limit_reached._replace(event_type=THRESHOLD_REACHED, thresholds=reached))
    if state.is_limit_reached and not was_limited:
        events.append(limit_reached)
    samples = sampled(samples, state.read_at, state.utilization, state.look_back)
    begun_after = known.begun_after
    if ended == RESET:
        begun_after = known.resets_at if state.read_at - known.read_at <= SEEN_WITHIN else None
    state = replace(state, peak=max(peak, counted), samples=samples, begun_after=begun_after)
    return state.with_limit(limit_at), events


def _state(window: Window, resets_at: datetime | None) -> WindowState:
    numbers = {field.name: getattr(window, field.name) for field in fields(WindowNumbers)}
    return WindowState(**numbers | {"utilization": round(window.utilization, 2), "resets_at": resets_at})


def _reset(known: WindowState, window: Window) -> datetime | None:
    """Return the reset to publish for a reading: the known one if it means the same, or if the reading has none."""
    is_running = known.resets_at is not None and window.read_at < known.resets_at
    is_refill = window.is_idle and known.utilization - window.utilization >= REFILL
    if window.resets_at is None and is_running and not is_refill:
        return known.resets_at
    return steady(known.resets_at, window.resets_at)


def _is_late(known: WindowState, window: Window) -> bool:
    """Whether a reading describes a window that is over: its reset has passed, or is earlier than the known one."""
    resets_at = window.resets_at
    if resets_at is None:
        return False
    is_earlier = resets_at != known.resets_at and resets_at <= known.read_at + SAME_INSTANT
    return is_earlier or resets_at <= window.read_at


def _ended(known: WindowState, new: WindowState, drop: float) -> str | None:
    """Return RESET or RESET_EARLY if the window we knew is over or was refilled, else None."""
    begun = None if new.resets_at is None or new.duration is None else new.resets_at - new.duration
    if known.resets_at is None:
        # No source said when it was due, but one that has not begun, or has begun since, is another one. If its use is
        # no lower, it may be the same, first read by a machine whose clock was behind, unless its length has passed.
        if new.resets_at is None and new.utilization > 0:
            return RESET_EARLY if drop >= REFILL else None
        is_same = drop <= 0 and (new.duration is None or new.read_at - known.read_at < new.duration)
        is_other = new.utilization == 0 if begun is None else begun > known.read_at + SAME_INSTANT and not is_same
        return RESET if known.utilization > 0 and is_other else None
    if new.resets_at == known.resets_at:
        return RESET_EARLY if drop >= REFILL else None
    if new.read_at < known.resets_at - SAME_INSTANT:
        # A reset may drift by a day while its window continues.
        has_begun_since = begun is not None and begun >= known.read_at - SAME_INSTANT
        return RESET_EARLY if drop >= REFILL or (drop > 0 and (has_begun_since or new.is_idle)) else None
    # One that began well before it was due and was read since, with no less use, was extended.
    if drop > 0 or begun is None or known.duration is None:
        return RESET
    earliest = min(known.read_at, known.resets_at - known.duration / 2) - SAME_INSTANT
    return RESET if begun >= earliest else None
