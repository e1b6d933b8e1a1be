"""An account whose truth is known: what the endpoint reports of it, faults included, and what really happened.

Windows fill while somebody works, end at their resets, are refilled, drift, and now and then a response is wrong in a
way that was reported for the real endpoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import RateLimited, ServerError

SESSION, MINUTE, HOUR, DAY = timedelta(hours=5), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass(slots=True)
class TrueWindow:
    """The true window; `fill` counts how often it began, or was refilled (`is_refill`)."""

    key: str
    utilization: float = 0.0
    resets_at: datetime | None = None
    fill: int = 0
    is_refill: bool = False

    def empty(self, utilization: float, resets_at: datetime | None, *, is_refill: bool = False) -> None:
        """Start over, or be refilled."""
        self.utilization, self.resets_at, self.is_refill = utilization, resets_at, is_refill
        self.fill += 1


@dataclass(frozen=True, slots=True)
class Said:
    """What one response said about one window, and whether that is true."""

    at: datetime
    key: str
    utilization: float
    resets_at: datetime | None
    fill: int
    is_refill: bool
    is_true: bool
    is_clock_right: bool


@dataclass
class TrueAccount:
    """The account and its endpoint. It is asked with the real time, which only moves forward."""

    rng: random.Random
    now: datetime
    said: list[Said] = field(default_factory=list)
    is_clock_right: bool = True
    quiet: int = 3
    """Responses that must be right next: a fault that lasts is indistinguishable from the truth."""

    def __post_init__(self) -> None:
        self.session = TrueWindow("five_hour")
        self.week = TrueWindow("seven_day", 20.0, self.now + timedelta(days=2.5))
        self.opus = TrueWindow("seven_day_opus", 12.0, self.now + timedelta(days=2.5))
        self.pace = 0.0
        self.renamed_until = self.now
        self.old_session: tuple[datetime, float] | None = None
        self.flips: list[float] = []
        """The week's number before its refill, for each response that will still have it."""

    @property
    def windows(self) -> tuple[TrueWindow, ...]:
        """Return all windows."""
        return (self.session, self.week, self.opus)

    def live(self, until: datetime) -> None:
        """Let time pass."""
        while self.now + MINUTE <= until:
            self.now += MINUTE
            self._end_windows()
            self._work()
            self._surprise()

    def _end_windows(self) -> None:
        if self.session.resets_at is not None and self.now >= self.session.resets_at:
            self.old_session = (self.now + timedelta(seconds=90), self.session.utilization)
            self.session.empty(0.0, None)
        for window in (self.week, self.opus):
            if window.resets_at is not None and self.now >= window.resets_at:
                self.flips = []
                window.empty(0.0, window.resets_at + self.rng.choice([5, 7, 7]) * DAY)

    def _work(self) -> None:
        if self.rng.random() < 1 / 40:
            self.pace = self.rng.choice([0.0, 0.0, 0.1, 0.4, 1.1])
        if not self.pace or self.session.utilization >= 100:
            return
        if self.session.resets_at is None:
            self.session.resets_at = (self.now + SESSION).replace(second=0, microsecond=0)
        for window, share in ((self.session, 1.0), (self.week, 0.12), (self.opus, 0.2)):
            window.utilization = round(min(window.utilization + self.pace * share, 104.0), 2)

    def _surprise(self) -> None:
        chance = self.rng.random()
        if chance < 1 / 2000 and self.week.utilization >= 30:
            self.flips = [self.week.utilization] * self.rng.choice([0, 3])
            self.week.empty(
                round(self.week.utilization * self.rng.choice([0.0, 0.2]), 2), self.week.resets_at, is_refill=True
            )
            self.quiet = 3
        elif chance < 2 / 2000 and self.session.utilization >= 30:
            self.session.empty(round(self.session.utilization / 5, 2), self.session.resets_at, is_refill=True)
            self.old_session, self.quiet = None, 3
        elif chance < 3 / 2000 and self.week.resets_at is not None and self.week.resets_at - self.now > DAY:
            self.week.resets_at += DAY * self.rng.choice([1, -1]) if self.week.resets_at - self.now > 3 * DAY else DAY
            self.week.resets_at, self.quiet = min(self.week.resets_at, self.now + 7 * DAY), 3
        elif chance < 4 / 2000:
            self.renamed_until = self.now + timedelta(hours=self.rng.choice([1, 30]))

    def respond(self, now: datetime) -> Any:
        """Return the response of the endpoint, or raise its error."""
        self.live(now)
        if self._has_jumped():
            self.quiet = max(self.quiet, 2)
        fault: Callable[[dict[str, Any]], set[str]] | None = None
        if self.quiet > 0:
            self.quiet -= 1
        elif self.flips:
            fault, self.quiet = self._flip, 3
        elif self.rng.random() < 0.08:
            self.quiet = 3
            fault = self.rng.choice(
                [self._spike, self._zero, self._malformed, self._refuse, self._limit, self._nothing]
            )
        document: dict[str, Any] = {window.key: self._section(window) for window in self.windows}
        wrong = fault(document) if fault is not None else set()
        is_old = self.old_session is not None and now < self.old_session[0] and self.old_session[1] >= 50
        # A service with a wrong clock does not know when the reset was, and may ask twice in this time.
        if self.old_session is not None and is_old and self.is_clock_right and not wrong:
            document["five_hour"] = {"utilization": self.old_session[1], "resets_at": (self.now + SESSION).isoformat()}
            wrong, self.quiet = {"five_hour"}, 3
        for window in self.windows:
            section = document.get(window.key)
            if isinstance(section, dict):
                self.said.append(
                    Said(
                        now,
                        window.key,
                        section["utilization"],
                        window.resets_at,
                        window.fill,
                        window.is_refill,
                        window.key not in wrong,
                        self.is_clock_right,
                    )
                )
        if now < self.renamed_until and "seven_day_opus" in document:
            document["nimbus_opus"] = document.pop("seven_day_opus")
            self.said = [said for said in self.said if (said.at, said.key) != (now, "seven_day_opus")]
        return document

    def _has_jumped(self) -> bool:
        """Whether a response will be doubted: a fault in the one that follows would be believed instead."""
        last = {said.key: said for said in self.said}
        return any(
            abs(window.utilization - (last[window.key].utilization if window.key in last else 0.0)) >= 40
            or (window.utilization >= 50 and window.key in last and window.fill != last[window.key].fill)
            for window in self.windows
        )

    def _section(self, window: TrueWindow) -> dict[str, Any]:
        jitter = timedelta(seconds=self.rng.uniform(-1.5, 1.5))
        resets_at = None if window.resets_at is None else (window.resets_at + jitter).isoformat()
        return {"utilization": window.utilization, "resets_at": resets_at}

    def _spike(self, document: dict[str, Any]) -> set[str]:
        if self.session.resets_at is None or self.session.utilization > 59:
            return set()
        document["five_hour"]["utilization"] = 100.0
        return {"five_hour"}

    def _flip(self, document: dict[str, Any]) -> set[str]:
        """Show the number from before the refill once more, if that looks unlikely."""
        old = self.flips.pop()
        if old - self.week.utilization < 45:
            return set()
        document["seven_day"]["utilization"] = old
        return {"seven_day"}

    def _zero(self, document: dict[str, Any]) -> set[str]:
        if not self.is_clock_right:
            return set()  # with a clock that is ahead, it is a window that has just begun
        last = {said.key: said for said in self.said}
        wrong = {key for key, said in last.items() if said.utilization >= 11 and said.fill == self._fill(key)}
        moved = self.rng.choice([None, timedelta(0), DAY])  # sometimes the reset is wrong, too
        for key in wrong:
            resets_at = document[key]["resets_at"]
            document[key] = {"utilization": 0.0, "resets_at": None}
            if moved is not None and resets_at is not None:
                document[key]["resets_at"] = (datetime.fromisoformat(resets_at) + moved).isoformat()
        return wrong

    def _fill(self, key: str) -> int:
        return next(window.fill for window in self.windows if window.key == key)

    def _malformed(self, document: dict[str, Any]) -> set[str]:
        document[self.rng.choice([window.key for window in self.windows])] = "soon"
        return set()

    def _nothing(self, document: dict[str, Any]) -> set[str]:
        document.clear()
        document["maintenance"] = {"until": None}
        return set()

    def _refuse(self, _document: dict[str, Any]) -> set[str]:
        raise ServerError("The API returned a server error (HTTP 500).")

    def _limit(self, _document: dict[str, Any]) -> set[str]:
        raise RateLimited("Rate limited.", retry_after=self.rng.choice([None, None, timedelta(minutes=20)]))
