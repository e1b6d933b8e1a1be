"""The numbers derived from a window over time: projection, rates, the expected limit; each a pure function.

Percentages are 0 to 100 and may exceed 100; instants are aware UTC datetimes; None means "not known".
A window that has not started (0 %, no reset) is idle: nothing can be said about its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

TOO_EARLY = 5.0
"""Percent of a window before which its average says nothing yet: one request would project to hundreds."""

RECENT = timedelta(hours=1)
"""What counts as recent for the burn rate: long enough to smooth out a pause, short enough to show a burst."""

RECENT_SAMPLES = 3
RECENT_SPAN = timedelta(minutes=10)
"""Fewer samples, or over less time, are noise: the API often reports whole percents."""

OLDEST_SAMPLE = timedelta(hours=4)
"""No sample older than this counts, however few there are: four times the longest poll interval."""

SAMPLE_EVERY = timedelta(seconds=55)
"""Readings closer than this to the last sample add nothing; this limits how many are kept."""

OLDER_SAMPLES = 24
"""Samples from before the last hour that are kept."""

MAX_SAMPLES = 100

LIMIT_AT_MOVES = timedelta(minutes=5)
"""The least by which the expected time of the limit must move to be published again."""


class Sample(NamedTuple):
    """A utilization (percent) as it was read at an instant."""

    at: datetime
    utilization: float


def elapsed(resets_at: datetime | None, duration: timedelta | None, now: datetime) -> float | None:
    """Return the percent of the window that has passed: `100 · (now - start) / duration`, within 0 and 100."""
    if resets_at is None or duration is None:
        return None
    passed = 100 * (1 - (resets_at - now) / duration)
    return min(100.0, max(0.0, passed))


def projected(utilization: float, elapsed_percent: float | None) -> float | None:
    """Return the percent at the reset if the average pace holds: `100 · utilization / elapsed`.

    Not known in the first 5 % of the window.
    """
    if elapsed_percent is None or elapsed_percent < TOO_EARLY:
        return None
    return 100 * utilization / elapsed_percent


def recent(samples: Sequence[Sample], now: datetime, span: timedelta = RECENT) -> Sequence[Sample]:
    """Return the samples of the last `span`, and as many older ones as it takes to have three over ten minutes."""
    oldest = max(span, OLDEST_SAMPLE)
    known = [sample for sample in samples if now - oldest <= sample.at <= now]
    first = sum(now - sample.at > span for sample in known)
    while first > 0 and not _are_enough(known[first:]):
        first -= 1
    return known[first:]


def _are_enough(samples: Sequence[Sample]) -> bool:
    return len(samples) >= RECENT_SAMPLES and samples[-1].at - samples[0].at >= RECENT_SPAN


def sampled(samples: tuple[Sample, ...], read_at: datetime, utilization: float, span: timedelta) -> tuple[Sample, ...]:
    """Return the samples to keep after a reading; rates over at most `span` are computed from them."""
    new = Sample(read_at.replace(microsecond=0), utilization)  # equal after saving and restoring
    kept = [sample for sample in samples if sample.at < new.at]
    # The newest reading always counts; the next one replaces it if it is close to the one before.
    if len(kept) >= RECENT_SAMPLES and kept[-1].at - kept[-2].at < SAMPLE_EVERY:
        kept.pop()
    thinned: list[Sample] = []
    for sample in (*kept, new):
        is_recent = new.at - sample.at <= RECENT
        if is_recent or not thinned or sample.at - thinned[-1].at >= span / OLDER_SAMPLES:
            thinned.append(sample)
    return tuple(recent(thinned, new.at, span)[-MAX_SAMPLES:])


def burn_rate(samples: Sequence[Sample], now: datetime, span: timedelta = RECENT) -> float | None:
    """Return percent per hour over the last `span`: the rise from the first to the last sample, never below 0.

    There must be three samples over ten minutes, the newest from the last hour, and none from an earlier window.
    """
    found = recent(samples, now, span)
    if not _are_enough(found) or now - found[-1].at > RECENT:
        return None
    hours = (found[-1].at - found[0].at) / timedelta(hours=1)
    return max(0.0, (found[-1].utilization - found[0].utilization) / hours)


def limit_at(utilization: float, rate: float | None, read_at: datetime, resets_at: datetime | None) -> datetime | None:
    """Return when 100 % is reached at `rate` (percent per hour) from the reading at `read_at`.

    None unless that is before the reset; None if the limit has already been reached.
    """
    if rate is None or rate <= 0 or resets_at is None or utilization >= 100:
        return None
    hours = (100 - utilization) / rate
    if hours >= (resets_at - read_at) / timedelta(hours=1):
        return None
    return read_at + timedelta(hours=hours)


def steady_limit_at(known: datetime | None, new: datetime | None, now: datetime) -> datetime | None:
    """Return `known` unless `new` differs by more than a twentieth of the time until it, at least five minutes.

    Each change is a line in somebody's activity log.
    """
    if known is None or new is None or known <= now:
        return new
    return new if abs(new - known) > max(LIMIT_AT_MOVES, (known - now) / 20) else known


def rounded(value: float | None, digits: int = 2) -> float | None:
    """Return the value as it is published; None stays None."""
    return None if value is None else round(value, digits)
