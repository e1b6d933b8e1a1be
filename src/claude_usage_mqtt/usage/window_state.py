"""The state of one window between readings, and what follows from it as time passes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Self

from claude_usage_mqtt.instants import steady
from claude_usage_mqtt.usage import derived
from claude_usage_mqtt.usage.absence import MayBeAbsent
from claude_usage_mqtt.usage.derived import RECENT, Sample
from claude_usage_mqtt.usage.events import LIMIT
from claude_usage_mqtt.usage.plausibility import REFILL, Suspect
from claude_usage_mqtt.usage.reading import WEEK, WindowNumbers

UNKNOWN_AFTER_RESET = timedelta(minutes=2)
"""How long the old numbers are shown after a reset: the poll that follows it comes after one minute."""

AHEAD = timedelta(minutes=1)
"""A reading further in the future than this is not shown: the clock was wrong then, or is wrong now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowState(WindowNumbers, MayBeAbsent):
    """The remembered state of one window.

    `resets_at` is the published one: a whole minute, the same object of time from reading to reading.
    `peak` is the highest utilization since the last reset or drop. `present` says whether the last good response
    had the window. Of a `blank` one only the entities are kept: its numbers are another account's, or were never good,
    and the next reading counts as the first. `suspect` is an unlikely reading that waits for the next one.
    `begun_after` is when the window before it ended: it cannot have begun earlier.
    """

    peak: float = 0.0
    samples: tuple[Sample, ...] = ()
    present: bool = True
    absent_for: timedelta = timedelta(0)
    seen_among: tuple[str, ...] = field(default=(), repr=False)
    limit_at: datetime | None = None
    blank: bool = False
    suspect: Suspect | None = None
    begun_after: datetime | None = None

    @property
    def length(self) -> timedelta | None:
        """How long it lasts: as long as its kind, unless the previous one ended too late for that.

        Weeks of five days were reported. If it seems under half as long, or less than an hour shorter, its reset moved.
        """
        if self.duration is None or self.resets_at is None or self.begun_after is None:
            return self.duration
        length = self.resets_at - self.begun_after
        return length if self.duration / 2 <= length <= self.duration - timedelta(hours=1) else self.duration

    @property
    def newest(self) -> datetime:
        """When the newest reading was made, believed or not: only a later one can say more."""
        return self.read_at if self.suspect is None else max(self.read_at, self.suspect.window.read_at)

    def is_known(self, now: datetime, stale_after: timedelta) -> bool:
        """Whether the numbers may be shown: present, read recently, and of a window that is not over."""
        return (
            self.present
            and -AHEAD <= now - self.read_at < stale_after
            and (self._over_at is None or now < self._over_at)
        )

    @property
    def _over_at(self) -> datetime | None:
        if self.resets_at is None:
            return None
        return self.resets_at + (timedelta(0) if self.suspect else UNKNOWN_AFTER_RESET)

    @property
    def stays_used_up(self) -> bool:
        """Whether it was used up and has since dropped by no more than rounding and corrections."""
        return self.peak >= LIMIT and self.peak - self.utilization < REFILL

    def known_reset(self, now: datetime) -> datetime | None:
        """Return the reset if it is still ahead: it stays true when the numbers are no longer known."""
        return None if self.blank or self.resets_at is None or now >= self.resets_at else self.resets_at

    def unknown_at(self, stale_after: timedelta) -> datetime:
        """Return when the numbers stop being known if nothing newer is read."""
        stale_at = self.read_at + stale_after
        return stale_at if self._over_at is None else min(stale_at, self._over_at)

    @property
    def look_back(self) -> timedelta:
        """How far the rate behind `limit_at` looks back: a fifth of the window, an hour at least, a day at most.

        With a shorter time the expected instant would jump between readings.
        """
        return RECENT if self.duration is None else min(max(self.duration / 5, RECENT), timedelta(days=1))

    def rate(self, now: datetime) -> float | None:
        """Return the percent per hour behind `limit_at`."""
        return derived.burn_rate(self.samples, now, self.look_back)

    def with_limit(self, known: datetime | None) -> Self:
        """Return it with the limit that is expected now; `known` was expected before."""
        return replace(self, limit_at=derived.steady_limit_at(known, self._expected_limit(), self.read_at))

    def _expected_limit(self) -> datetime | None:
        rate = self.rate(self.read_at)
        reached_at = steady(None, derived.limit_at(self.utilization, rate, self.read_at, self.resets_at))
        if reached_at is None or self.locked or (self.resets_at is not None and reached_at >= self.resets_at):
            return None  # rounding to the minute may have moved it onto the reset
        return None if self.duration == WEEK and self.is_on_pace() else reached_at

    def shifted(self, step: timedelta) -> Self:
        """Return it after a clock step: everything moves but the reset, which is somebody else's time."""
        samples = tuple(Sample(sample.at + step, sample.utilization) for sample in self.samples)
        return replace(self, read_at=self.read_at + step, samples=samples, suspect=None)
