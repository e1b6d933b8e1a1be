"""One window followed over time: what is kept from reading to reading, and what each reading changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from claude_usage_mqtt.instants import SAME_INSTANT, steady
from claude_usage_mqtt.usage import derived
from claude_usage_mqtt.usage.derived import RECENT, RECENT_SAMPLES, Sample
from claude_usage_mqtt.usage.events import (
    LIMIT,
    LIMIT_REACHED,
    RESET,
    RESET_EARLY,
    THRESHOLD_REACHED,
    Event,
    newly_reached,
)
from claude_usage_mqtt.usage.plausibility import REFILL, Suspect, doubt, same_reset
from claude_usage_mqtt.usage.reading import STATUSLINE, WEEK, Details, Window

UNKNOWN_AFTER_RESET = timedelta(minutes=2)
"""How long the old numbers are shown after a reset: the poll that follows it comes after one minute."""

UNKNOWN_LENGTH = timedelta(days=1)
"""How long an event of a window of unknown length is worth delivering."""

AHEAD = timedelta(minutes=1)
"""A reading further in the future than this was made while the clock was wrong, or is wrong now: it is not shown."""

SAMPLE_EVERY = timedelta(seconds=55)
"""Readings closer than this to the last sample add nothing; it bounds what is kept."""

OLDER_SAMPLES = 24
"""Samples kept of the time before the last hour."""

MAX_SAMPLES = 100

ENTITIES_KEPT = timedelta(hours=24)
"""Entities of a window that good responses lack for this long are removed: shorter absences are faults of the API."""

STUB_KEPT = timedelta(hours=1)
"""How long the order to remove its entities stays on the broker, so that a Home Assistant that is just
restarting gets it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowState(Details):
    """What is remembered of one window.

    `resets_at` is the published one: a whole minute, the same object of time from reading to reading.
    `peak` is the highest utilization since the last reset or drop. `present` says whether the last good response
    had the window, `absent_for` for how long good responses have lacked it, and `seen_among` which unknown sections
    came with it when it was last seen. Of a `blank` one only the entities are kept: its numbers are another
    account's, or were never good, and the next reading is a first one. `suspect` is an unlikely reading that waits
    for the next one.
    """

    key: str
    label: str
    duration: timedelta | None
    utilization: float
    resets_at: datetime | None
    read_at: datetime
    peak: float = 0.0
    samples: tuple[Sample, ...] = ()
    present: bool = True
    absent_for: timedelta = timedelta(0)
    seen_among: tuple[str, ...] = field(default=(), repr=False)
    limit_at: datetime | None = None
    blank: bool = False
    suspect: Suspect | None = None

    @property
    def is_retired(self) -> bool:
        """Whether its entities are being removed."""
        return self.absent_for >= ENTITIES_KEPT

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it needs to be kept anymore."""
        return self.absent_for >= ENTITIES_KEPT + STUB_KEPT

    @property
    def newest(self) -> datetime:
        """When the newest reading was made, believed or not: only a later one can say more."""
        return self.read_at if self.suspect is None else max(self.read_at, self.suspect.window.read_at)

    @property
    def numbers(self) -> tuple[float, datetime | None]:
        """What changes while somebody works, or when a window begins."""
        return self.utilization, self.resets_at

    @property
    def is_limit_reached(self) -> bool:
        """Whether the window cannot be used."""
        return self.utilization >= LIMIT or self.locked

    @property
    def is_idle(self) -> bool:
        """Whether the window has not started."""
        return self.resets_at is None and self.utilization == 0

    def is_known(self, now: datetime, stale_after: timedelta) -> bool:
        """Whether the numbers may be shown: present, read recently, and of a window that is not over."""
        return self.present and -AHEAD <= now - self.read_at < stale_after and not self._is_over(now)

    def _is_over(self, now: datetime) -> bool:
        if self.resets_at is None:
            return False
        return now >= self.resets_at + (timedelta(0) if self.suspect else UNKNOWN_AFTER_RESET)

    def known_reset(self, now: datetime) -> datetime | None:
        """Return the reset if it is still ahead: it stays true when the numbers are not known anymore."""
        return None if self.blank or self.resets_at is None or now >= self.resets_at else self.resets_at

    def unknown_at(self, stale_after: timedelta) -> datetime:
        """Return when the numbers stop being known if nothing newer is read."""
        stale = self.read_at + stale_after
        if self.resets_at is None:
            return stale
        return min(stale, self.resets_at + (timedelta(0) if self.suspect else UNKNOWN_AFTER_RESET))


def look_back(duration: timedelta | None) -> timedelta:
    """Return how far the rate behind `limit_at` looks back: a fifth of the window, an hour at least, a day at most.

    A shorter time makes the expected instant jump from reading to reading.
    """
    return RECENT if duration is None else min(max(duration / 5, RECENT), timedelta(days=1))


def first_reading(window: Window) -> WindowState:
    """Start to follow a window: what it has reached already is not an event."""
    resets_at = steady(None, window.resets_at)
    is_over = resets_at is not None and resets_at + UNKNOWN_AFTER_RESET <= window.read_at
    state = _state(window, resets_at)
    return replace(state, peak=state.utilization, samples=(_sample(state),), present=not is_over, blank=is_over)


def next_reading(
    known: WindowState, window: Window, *, account: str, thresholds: Iterable[float], now: datetime, is_stale: bool
) -> tuple[WindowState, list[Event]]:
    """Follow `known` with another reading; return what is known then, and what happened in between.

    One that is older, of a window that is over, or unlikely changes nothing. `is_stale` says that the known number
    is too old to be shown.
    """
    if known.blank:
        return first_reading(window), []
    window = replace(window, utilization=round(window.utilization, 2), resets_at=_reset(known, window))
    is_same = same_reset(known.resets_at, window.resets_at)
    if window.read_at <= known.newest or _is_late(known, window):
        return known, []
    if window.source == STATUSLINE and is_same and known.present:
        # Each open session shows the numbers of its own last response: of two numbers the lower one is older, unless
        # there is a sign of a new response.
        drop = known.utilization - window.utilization
        if window.at_least and drop > 0:
            window = replace(window, utilization=known.utilization)
        elif window.may_be_old and 0 < drop < REFILL and not is_stale and known.suspect is None:
            return known, []
    suspect = known.suspect
    if suspect is None or not suspect.is_confirmed_by(window):
        doubted = doubt(known.utilization, known.resets_at, window)
        if doubted is not None:
            return replace(known, suspect=doubted), []
    return _believed(known, window, account=account, thresholds=thresholds, now=now)


def no_reading(known: WindowState, passed: timedelta, ignored: tuple[str, ...], *, is_kept: bool) -> WindowState:
    """Follow `known` with a good response that lacks the window, `passed` after the good response before it.

    If there is an unknown section that was not there when the window was last seen, the window may have been renamed:
    then, and if `is_kept`, its entities stay.
    """
    absent_for = known.absent_for
    if not known.present and not is_kept and set(ignored) <= set(known.seen_among):
        absent_for += passed
    if not known.is_retired:
        absent_for = min(absent_for, ENTITIES_KEPT)  # the order to remove is never skipped
    return replace(known, present=False, absent_for=absent_for, suspect=None)


def shifted(state: WindowState, step: timedelta) -> WindowState:
    """Move what was recorded at clock time by a step of the clock; the reset is somebody else's time."""
    samples = tuple(Sample(sample.at + step, sample.utilization) for sample in state.samples)
    return replace(state, read_at=state.read_at + step, samples=samples, suspect=None)


def _believed(
    known: WindowState, window: Window, *, account: str, thresholds: Iterable[float], now: datetime
) -> tuple[WindowState, list[Event]]:
    state = _state(window, window.resets_at)
    ended = _ended(known, state)

    def event(event_type: str, **details: object) -> Event:
        values = {
            "resets_at": state.resets_at,
            "previous_utilization": 0.0 if ended else known.utilization,
        } | details
        return Event(
            event_type=event_type,
            account=account,
            at=now,
            window=state.key,
            label=state.label,
            utilization=state.utilization,
            expires_at=state.resets_at or now + (state.duration or UNKNOWN_LENGTH),
            **values,  # type: ignore[arg-type]
        )

    events: list[Event] = []
    peak, was_limited, samples, limit_at = known.peak, known.is_limit_reached, known.samples, known.limit_at
    if ended is not None:
        events.append(event(ended, resets_at=known.resets_at, previous_utilization=known.utilization))
        is_refill = ended == RESET_EARLY and same_reset(known.resets_at, state.resets_at)
        peak = state.utilization if is_refill else 0.0
        was_limited, samples, limit_at = False, (), None
    was_limited = was_limited or peak >= LIMIT
    reached = newly_reached(peak, state.utilization, thresholds)
    if reached:
        events.append(event(THRESHOLD_REACHED, thresholds=reached))
    if state.is_limit_reached and not was_limited:
        events.append(event(LIMIT_REACHED))
    samples = _sampled(samples, _sample(state), look_back(state.duration))
    state = replace(state, peak=max(peak, state.utilization), samples=samples)
    return replace(state, limit_at=derived.steady_limit_at(limit_at, _limit_at(state), state.read_at)), events


def _limit_at(state: WindowState) -> datetime | None:
    now, resets_at = state.read_at, state.resets_at
    rate = derived.burn_rate(state.samples, now, look_back(state.duration))
    reached_at = steady(None, derived.limit_at(state.utilization, rate, now, resets_at))
    if reached_at is None or state.locked or (resets_at is not None and reached_at >= resets_at):
        return None  # rounding to the minute may have put it at the reset
    return None if state.duration == WEEK and is_on_pace(state, now) else reached_at


def is_on_pace(state: WindowState, now: datetime) -> bool | None:
    """Return whether the window lasts to its reset at the average pace."""
    projected = derived.projected(state.utilization, derived.elapsed(state.resets_at, state.duration, now))
    return derived.on_pace(state.utilization, state.resets_at, projected, locked=state.locked)


def _state(window: Window, resets_at: datetime | None) -> WindowState:
    return WindowState(
        key=window.key,
        label=window.label,
        duration=window.duration,
        utilization=round(window.utilization, 2),
        resets_at=resets_at,
        read_at=window.read_at,
        **window.details(),
    )


def _reset(known: WindowState, window: Window) -> datetime | None:
    """Return the reset to publish for a reading: the known one if it means the same, or if the reading has none."""
    is_running = known.resets_at is not None and window.read_at < known.resets_at
    if window.resets_at is None and is_running and known.utilization - window.utilization < REFILL:
        return known.resets_at
    if window.resets_at is None and is_running and not window.is_idle:
        return known.resets_at
    return steady(known.resets_at, window.resets_at)


def _is_late(known: WindowState, window: Window) -> bool:
    """Whether a reading describes a window that is over: its reset has passed, or is an earlier one than is known."""
    resets_at = window.resets_at
    if resets_at is None:
        return False
    is_earlier = resets_at != known.resets_at and resets_at <= known.read_at + SAME_INSTANT
    return is_earlier or resets_at <= window.read_at


def _ended(known: WindowState, new: WindowState) -> str | None:
    """Return RESET or RESET_EARLY if the window we knew is over or was refilled, else None."""
    drop = known.utilization - new.utilization
    begun = None if new.resets_at is None or new.duration is None else new.resets_at - new.duration
    if known.resets_at is None:
        # Nobody said when it was due, but one that has not begun, or has begun since, is another one. With no less in
        # it, it may be the same, read first by a machine whose clock was behind: unless its whole length has passed.
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
    # One that began well before it was due and was read since, with no less use, is the same one prolonged.
    if drop > 0 or begun is None or known.duration is None:
        return RESET
    earliest = min(known.read_at, known.resets_at - known.duration / 2) - SAME_INSTANT
    return RESET if begun >= earliest else None


def _sample(state: WindowState) -> Sample:
    """Return a sample at a whole second, so that it is the same after it was saved and restored."""
    return Sample(state.read_at.replace(microsecond=0), state.utilization)


def _sampled(samples: tuple[Sample, ...], new: Sample, span: timedelta) -> tuple[Sample, ...]:
    kept = [sample for sample in samples if sample.at < new.at]
    # The newest reading always counts; it makes room for the next one if it is close to the one before.
    if len(kept) >= RECENT_SAMPLES and kept[-1].at - kept[-2].at < SAMPLE_EVERY:
        kept.pop()
    thinned: list[Sample] = []
    for sample in (*kept, new):
        is_recent = new.at - sample.at <= RECENT
        if is_recent or not thinned or sample.at - thinned[-1].at >= span / OLDER_SAMPLES:
            thinned.append(sample)
    return tuple(derived.recent(thinned, new.at, span)[-MAX_SAMPLES:])
