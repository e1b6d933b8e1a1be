"""A made-up subscription, and what Claude's usage endpoint would answer for it.

Within days the account shows everything worth seeing: windows that fill, run out and reset, nights in which the session
is idle, money that drains once the quota is gone. It knows nothing of the rest of the package: the wire format is
written a second time here on purpose, so that the parser meets an independent source.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

_STEP = timedelta(minutes=1)
_LONGEST_ADVANCE = timedelta(days=8)  # longer than any window, so nothing that is skipped could still be seen
_SESSION = timedelta(hours=5)
_WEEK = timedelta(days=7)
_DAY = 13 * 60, 16 * 60  # minutes that somebody works, with pauses
_RESET_JITTER_US = 2_000_000  # the endpoint's timestamps move by up to 2 s between answers

_WEEKLY_SHARE = 0.05  # points of the week that one point of the session costs: 20 full sessions a week
_MODEL_SHARE = 0.1  # the same for the weekly window of the one model, while that model is in use
_MODEL_NAME = "Fable"

_CURRENCY = "EUR"
_EXPONENT = 2
_MONTHLY_LIMIT = 5_000  # minor units
_EXTRA_COST = 3.0  # minor units for what would have been one point of the session


@dataclass(slots=True)
class _Window:
    """A quota that starts with its first use, is fixed from then on, and is idle again after its reset."""

    span: timedelta
    utilization: float = 0.0
    resets_at: datetime | None = None

    @property
    def is_full(self) -> bool:
        return self.utilization >= 100

    def expire(self, now: datetime) -> None:
        """Become idle if the reset has come."""
        if self.resets_at is not None and now >= self.resets_at:
            self.utilization, self.resets_at = 0.0, None

    def use(self, points: float, now: datetime) -> None:
        """Use up some points, starting the window if it was idle; it never goes beyond 100."""
        if self.resets_at is None:
            self.resets_at = now + self.span
        self.utilization = min(100.0, self.utilization + points)

    def wire_reset(self, jitter: timedelta) -> str | None:
        return None if self.resets_at is None else (self.resets_at + jitter).isoformat(timespec="microseconds")


def _rhythm(rng: random.Random) -> Iterator[tuple[float, bool]]:
    """Yield how somebody works: the points of the session that each minute costs, and whether the one model is in use.

    Bursts and pauses make a long day; then comes a night.
    """
    until_night = rng.randint(*_DAY)
    while True:
        points, on_model, minutes = rng.uniform(0.15, 0.7), rng.random() < 0.4, rng.randint(15, 100)
        yield from itertools.repeat((points, on_model), minutes)
        until_night -= minutes
        if until_night > 0:
            pause = rng.randint(5, 50)
            until_night -= pause
        else:
            pause = rng.randint(6 * 60, 9 * 60)
            until_night = rng.randint(*_DAY)
        yield from itertools.repeat((0.0, False), pause)


class SimulatedAccount:
    """One made-up subscription: its usage follows from the clock and the seed, not from how often it is asked.

    `clock` returns an aware datetime in UTC. It may run fast and may jump; the next answer makes up for the jump, for
    at most eight days of it. Not safe for use from several threads at once.
    """

    def __init__(self, clock: Callable[[], datetime], seed: int = 0) -> None:
        self._clock = clock
        self._rhythm: Iterator[tuple[float, bool]] = _rhythm(random.Random(seed))
        self._jitter = random.Random(seed + 1)  # separate, so that asking does not change what happens
        self._now = clock().astimezone(UTC).replace(second=0, microsecond=0)
        # The week is under way at the start: a demo that shows only zeros for hours shows nothing.
        begun = self._now - timedelta(days=2)
        self._session = _Window(_SESSION)
        self._week = _Window(_WEEK, utilization=31.0, resets_at=begun + _WEEK)
        self._model = _Window(_WEEK, utilization=18.0, resets_at=begun + _WEEK)
        self._extra_used = 190.0

    def answer(self) -> dict[str, Any]:
        """Return what the usage endpoint would answer now, as the JSON document's dict."""
        self._advance()
        jitter = timedelta(microseconds=self._jitter.randint(-_RESET_JITTER_US, _RESET_JITTER_US))
        return {
            "five_hour": _wire_window(self._session, jitter),
            "seven_day": _wire_window(self._week, jitter),
            "seven_day_oauth_apps": None,
            "seven_day_opus": None,
            "seven_day_sonnet": None,
            "seven_day_cowork": None,
            "iguana_necktie": None,
            "extra_usage": self._wire_extra_usage(),
            "limits": [
                _wire_limit("session", "session", self._session, jitter),
                _wire_limit("weekly_all", "weekly", self._week, jitter),
                _wire_limit("weekly_scoped", "weekly", self._model, jitter, model=_MODEL_NAME),
            ],
            "spend": self._wire_spend(),
        }

    def _advance(self) -> None:
        target = self._clock().astimezone(UTC)
        if target - self._now > _LONGEST_ADVANCE:
            self._now = (target - _LONGEST_ADVANCE).replace(second=0, microsecond=0)
        while self._now + _STEP <= target:
            self._step(self._now + _STEP)

    def _step(self, now: datetime) -> None:
        if now.month != self._now.month:
            self._extra_used = 0.0
        self._now = now
        for window in (self._session, self._week, self._model):
            window.expire(now)
        points, on_model = next(self._rhythm)
        if points == 0:
            return
        if self._session.is_full or self._week.is_full:
            self._extra_used = min(_MONTHLY_LIMIT, self._extra_used + points * _EXTRA_COST)
            return
        self._session.use(points, now)
        self._week.use(points * _WEEKLY_SHARE, now)
        if on_model:
            self._model.use(points * _MODEL_SHARE, now)

    def _wire_extra_usage(self) -> dict[str, Any]:
        used = float(round(self._extra_used))
        return {
            "is_enabled": True,
            "monthly_limit": _MONTHLY_LIMIT,
            "used_credits": used,
            "utilization": used / _MONTHLY_LIMIT * 100,
            "currency": _CURRENCY,
            "decimal_places": _EXPONENT,
            "disabled_reason": None,
        }

    def _wire_spend(self) -> dict[str, Any]:
        used = round(self._extra_used)
        return {
            "used": _wire_money(used),
            "limit": _wire_money(_MONTHLY_LIMIT),
            "percent": used * 100 // _MONTHLY_LIMIT,
            "enabled": True,
        }


def _wire_window(window: _Window, jitter: timedelta) -> dict[str, Any]:
    return {
        # Through a fraction, for the floating-point noise that the endpoint's numbers have.
        "utilization": round(window.utilization, 2) / 100 * 100,
        "resets_at": window.wire_reset(jitter),
        "limit_dollars": None,
        "used_dollars": None,
        "remaining_dollars": None,
        "locked_reason": None,
    }


def _wire_limit(
    kind: str, group: str, window: _Window, jitter: timedelta, *, model: str | None = None
) -> dict[str, Any]:
    return {
        "kind": kind,
        "group": group,
        "percent": int(window.utilization),
        "severity": "critical" if window.utilization >= 95 else "warning" if window.utilization >= 80 else "normal",
        "resets_at": window.wire_reset(jitter),
        "scope": model and {"model": {"id": None, "display_name": model}, "surface": None},
        "is_active": window.resets_at is not None,
    }


def _wire_money(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": _CURRENCY, "exponent": _EXPONENT}
