"""One window followed over time: what is kept from reading to reading, and what each reading changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import SAME_INSTANT, format_instant, steady, whole_minute
from claude_usage_mqtt.usage import derived
from claude_usage_mqtt.usage.derived import RECENT_SAMPLES, Sample
from claude_usage_mqtt.usage.events import RESET, RESET_EARLY, Event, crossed
from claude_usage_mqtt.usage.reading import OAUTH, Window

UNKNOWN_AFTER_RESET = timedelta(minutes=2)
"""How long the old numbers stand after a reset: the poll that follows it comes after one minute."""

STANDS_FOR = timedelta(hours=1)
"""How long numbers stand while only answers come that are older than they are."""

SAMPLE_EVERY = timedelta(seconds=55)
"""Readings closer than this to the last sample add nothing; it bounds what is kept."""

MAX_SAMPLES = 80

ENTITIES_KEPT = timedelta(hours=24)
"""A window that good answers lack for this long is taken back: shorter absences are faults of the API."""

STUB_KEPT = timedelta(hours=1)
"""How long the order to remove its entities stays on the broker, so that a Home Assistant that is just
restarting gets it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowState:
    """What is remembered of one window.

    `resets_at` is the published one: a whole minute, the same object of time from reading to reading.
    `peak` is the highest utilization since the last reset. `present` says whether the last good answer had
    the window; `absent_for` for how long good answers have lacked it. Of a `blank` one only the entities are
    kept: its numbers are another account's, or were never good, and the next reading is a first one.
    """

    key: str
    label: str
    duration: timedelta
    utilization: float
    resets_at: datetime | None
    read_at: datetime
    source: str = OAUTH
    peak: float = 0.0
    samples: tuple[Sample, ...] = ()
    present: bool = True
    absent_for: timedelta = timedelta(0)
    limit_at: datetime | None = None
    blank: bool = False

    @property
    def is_retired(self) -> bool:
        """Whether its entities are being taken back."""
        return self.absent_for >= ENTITIES_KEPT

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it needs to be kept any more."""
        return self.absent_for >= ENTITIES_KEPT + STUB_KEPT

    def is_known(self, now: datetime) -> bool:
        """Whether the numbers may still be shown: the window was there, and its reset has not passed."""
        return self.present and (self.resets_at is None or now < self.resets_at + UNKNOWN_AFTER_RESET)


def first_reading(window: Window) -> WindowState:
    """Start to follow a window: what it has reached already is no event."""
    utilization, resets_at = round(window.utilization, 2), steady(None, window.resets_at)
    is_over = _is_over(resets_at, window.read_at)
    return WindowState(
        key=window.key,
        label=window.label,
        duration=window.duration,
        utilization=utilization,
        resets_at=resets_at,
        read_at=window.read_at,
        source=window.source,
        peak=utilization,
        samples=(_sample(window.read_at, utilization),),
        present=not is_over,
        blank=is_over,
    )


def next_reading(known: WindowState, window: Window, thresholds: Iterable[float]) -> tuple[WindowState, list[Event]]:
    """Follow `known` with a newer reading; return what is known now and what happened in between."""
    if known.blank:
        return first_reading(window), []
    now = window.read_at
    utilization = round(window.utilization, 2)
    resets_at = steady(known.resets_at, window.resets_at)
    if resets_at is None and utilization > 0 and known.resets_at is not None and now < known.resets_at:
        resets_at = known.resets_at  # used but no reset given: the one we know still holds
    if _is_late(known, resets_at, now):
        return _despite_late_reading(known, resets_at, now), []

    events: list[Event] = []
    ended = _ended(known, utilization, resets_at, now)
    if ended is not None:
        events.append(
            Event(
                event_type=ended,
                window=known.key,
                utilization=utilization,
                previous_utilization=known.utilization,
                resets_at=known.resets_at,
            )
        )
        known = replace(known, peak=0.0, samples=(), limit_at=None)
    previous = 0.0 if ended else known.utilization
    events += crossed(
        known.key,
        peak=known.peak,
        utilization=utilization,
        previous=previous,
        resets_at=resets_at,
        thresholds=thresholds,
    )
    track = WindowState(
        key=known.key,
        label=window.label,
        duration=window.duration,
        utilization=utilization,
        resets_at=resets_at,
        read_at=now,
        source=window.source,
        peak=max(known.peak, utilization),
        samples=_sampled(known.samples, _sample(now, utilization)),
    )
    rate = derived.burn_rate(track.samples, now)
    reached_at = steady(known.limit_at, derived.limit_at(utilization, rate, now, resets_at))
    if reached_at is not None and resets_at is not None and reached_at >= resets_at:
        reached_at = None  # rounding to the minute has put it there
    return replace(track, limit_at=reached_at), events


def no_reading(known: WindowState, passed: timedelta) -> WindowState:
    """Follow `known` with a good answer that lacks the window, `passed` after the good answer before it."""
    absent_for = known.absent_for + passed if not known.present else timedelta(0)
    if not known.is_retired:
        absent_for = min(absent_for, ENTITIES_KEPT)  # the order to remove is never skipped
    return replace(known, present=False, absent_for=absent_for)


def shifted(track: WindowState, step: timedelta) -> WindowState:
    """Follow a clock that was set by `step`: what was noted at clock time moves, the reset does not."""
    limit_at = None if track.limit_at is None else whole_minute(track.limit_at + step)
    if limit_at is not None and track.resets_at is not None and limit_at >= track.resets_at:
        limit_at = None
    samples = tuple(_sample(sample.at + step, sample.utilization) for sample in track.samples)
    return replace(track, read_at=track.read_at + step, samples=samples, limit_at=limit_at)


def _is_over(resets_at: datetime | None, now: datetime) -> bool:
    return resets_at is not None and resets_at + UNKNOWN_AFTER_RESET <= now


def _is_late(known: WindowState, resets_at: datetime | None, now: datetime) -> bool:
    """Whether a reading is an old one: it tells of another window than the one we know, and that one is over.

    It is over now, or was when we read the one we know: that tells it from a reset that moves.
    """
    if resets_at is None or resets_at == known.resets_at:
        return False
    return _is_over(resets_at, now) or resets_at <= known.read_at + SAME_INSTANT


def _despite_late_reading(known: WindowState, resets_at: datetime | None, now: datetime) -> WindowState:
    # What is older than what we know takes nothing from it, for a while; anything else says that it is out of date.
    is_older = resets_at is not None and resets_at <= known.read_at + SAME_INSTANT
    stands = known.present and is_older and now - known.read_at < STANDS_FOR
    return replace(known, present=stands, absent_for=timedelta(0))


def _ended(known: WindowState, utilization: float, resets_at: datetime | None, now: datetime) -> str | None:
    """Return RESET or RESET_EARLY where the window we knew is over, else None."""
    begun = None if resets_at is None else resets_at - known.duration
    if known.resets_at is None:
        # nobody said when it was due, but one that has not begun, or has begun since, is another one
        is_other = utilization == 0 if begun is None else begun > known.read_at + SAME_INSTANT
        return RESET if known.utilization > 0 and is_other else None
    if resets_at == known.resets_at:
        return None
    fell = utilization < known.utilization
    if now < known.resets_at - SAME_INSTANT:
        return RESET_EARLY if fell else None
    # one that began well before it was due and was read since, with no less use, is the same one prolonged
    earliest = min(known.read_at, known.resets_at - known.duration / 2) - SAME_INSTANT
    return RESET if fell or begun is None or begun >= earliest else None


def _sample(at: datetime, utilization: float) -> Sample:
    """Return a sample at a whole second, so that it is the same after it was remembered."""
    return Sample(at.replace(microsecond=0), utilization)


def _sampled(samples: tuple[Sample, ...], new: Sample) -> tuple[Sample, ...]:
    kept = [sample for sample in samples if sample.at < new.at]
    # The newest reading always counts; it makes room for the next one where it is close to the one before.
    if len(kept) >= RECENT_SAMPLES and kept[-1].at - kept[-2].at < SAMPLE_EVERY:
        kept.pop()
    kept.append(new)
    return tuple(derived.recent(kept, new.at)[-MAX_SAMPLES:])


def window_document(track: WindowState, now: datetime) -> dict[str, Any]:
    """Return the window's object in the state document, every key of it, as of `now`."""
    document: dict[str, Any] = {
        "label": track.label,
        "utilization": None,
        "remaining": None,
        "resets_at": None,
        "duration_hours": track.duration // timedelta(hours=1),
        "elapsed": None,
        "pace": None,
        "projected": None,
        "on_pace": None,
        "burn_rate": None,
        "limit_at": None,
        "limit_reached": None,
        "time_remaining_hours": None,
        "source": track.source,
    }
    if not track.is_known(now):
        return document
    utilization, resets_at = track.utilization, track.resets_at
    elapsed = derived.elapsed(resets_at, track.duration, now)
    projected = derived.projected(utilization, elapsed)
    left = derived.time_remaining(resets_at, now)
    idle = resets_at is None and utilization == 0
    rate = None if idle else derived.burn_rate(track.samples, now)
    limit_at = track.limit_at if rate is not None and track.limit_at and track.limit_at > now else None
    return document | {
        "utilization": utilization,
        "remaining": _round(max(0.0, 100 - utilization)),
        "resets_at": format_instant(resets_at),
        "elapsed": _round(elapsed),
        "pace": _round(derived.pace(utilization, elapsed)),
        "projected": _round(projected),
        "on_pace": derived.on_pace(utilization, resets_at, projected),
        "burn_rate": _round(rate),
        "limit_at": format_instant(limit_at),
        "limit_reached": utilization >= 100,
        "time_remaining_hours": None if left is None else round(left / timedelta(hours=1), 1),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
