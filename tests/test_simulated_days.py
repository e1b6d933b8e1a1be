"""Days of answers from a simulated account, against an oracle that knows the truth.

The account has true windows that start with their first use and end when they are due or early. Its answers jitter,
carry float noise, go above 100, lack windows, stay away for hours; the login changes, the program restarts at any
moment. After each step nothing may be shown that the last answer does not support, and of the events that the
answers tell of none may be missing and none told twice.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.reading import SESSION, WEEK, Window
from claude_usage_mqtt.usage.saved_state import recall, remember
from parts.readings import START, make_reading, make_usage, shown

THRESHOLDS = (75, 90)
MARKS = [(75, "threshold_reached 75"), (90, "threshold_reached 90"), (100, "limit_reached")]
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
DURATIONS = {"five_hour": SESSION, "seven_day": WEEK}


@dataclass
class TrueWindow:
    """What really is; `number` counts the windows that there have been."""

    duration: timedelta
    used: float = 0.0
    begun: datetime | None = None
    number: int = 0

    @property
    def reset(self) -> datetime | None:
        """When it really resets."""
        return None if self.begun is None else self.begun + self.duration

    def advance(self, now: datetime) -> None:
        """Let it end where it is due."""
        if self.reset is not None and now >= self.reset:
            self.end()

    def end(self) -> None:
        """Let it be over: idle until it is used."""
        self.used, self.begun, self.number = 0.0, None, self.number + 1

    def use(self, now: datetime, percent: float) -> None:
        """Use some of it, which starts it."""
        self.begun = self.begun or now
        self.used = min(self.used + percent, 180)


@dataclass(frozen=True)
class Told:
    """What the last answer that had the window told of it."""

    number: int
    utilization: float
    reset: datetime | None


@dataclass
class Expectation:
    """What the answers so far support for one window, by rules of our own."""

    told: Told | None = None
    is_present: bool = False
    published: str | None = None
    peak: float = 0.0
    readings: list[tuple[datetime, float]] = field(default_factory=list)

    def hear(self, now: datetime, told: Told) -> list[str]:
        """Take in what an answer tells; return the events that it tells of."""
        events, last = [], self.told
        self.is_present, self.told = True, told
        if last is None:
            self.peak, self.readings, self.published = told.utilization, [(now, told.utilization)], None
            return []
        if told.number != last.number:
            self.published, due = None, self.due(last)
            fell = told.utilization < last.utilization
            if due is not None and (now >= due - MINUTE or fell):
                events.append("reset" if now >= due - MINUTE else "reset_early")
                self.peak, self.readings = 0.0, []
        events += [name for mark, name in MARKS if self.peak < mark <= told.utilization]
        self.peak = max(self.peak, told.utilization)
        self.readings = [(at, u) for at, u in self.readings if now - at >= SECOND] + [(now, told.utilization)]
        return events

    @staticmethod
    def due(told: Told) -> datetime | None:
        """Return the minute nearest to the reset."""
        if told.reset is None:
            return None
        return (told.reset + 30 * SECOND).replace(second=0, microsecond=0)

    def check(self, window: dict[str, Any], now: datetime) -> None:
        """Compare what is shown with what is supported."""
        told, shown_reset = self.told, window["resets_at"] and datetime.fromisoformat(window["resets_at"])
        is_over = told is not None and told.reset is not None and now >= told.reset + 2.6 * MINUTE
        if told is None or not self.is_present or is_over:
            self.check_unknown(window)
            return
        if window["utilization"] is None:  # the published minute lies up to half a minute beside the reset
            assert told.reset is not None
            assert now >= told.reset + 1.4 * MINUTE
            self.check_unknown(window)
            return
        assert window["utilization"] == told.utilization
        assert window["remaining"] == round(max(0, 100 - told.utilization), 2)
        assert window["limit_reached"] == (told.utilization >= 100)
        if told.reset is None:
            unknown = ("resets_at", "elapsed", "pace", "projected", "burn_rate", "limit_at", "time_remaining_hours")
            assert all(window[key] is None for key in unknown)
            assert window["on_pace"] is True
            return
        assert abs(shown_reset - told.reset) <= 33 * SECOND
        assert (shown_reset.second, shown_reset.microsecond) == (0, 0)
        assert self.published in (None, window["resets_at"]), "the reset flaps"
        self.published = window["resets_at"]
        self.check_derived(window, told, shown_reset, now)

    @staticmethod
    def check_unknown(window: dict[str, Any]) -> None:
        """Expect nothing but what the window is called."""
        known = {key for key, value in window.items() if value is not None}
        assert known == {"label", "duration_hours", "source"}

    def check_derived(self, window: dict[str, Any], told: Told, reset: datetime, now: datetime) -> None:
        """Compute the derived numbers another way."""
        length = window["duration_hours"] * 3600
        left = max(0.0, (reset - now).total_seconds())
        elapsed = 100 * min(1, max(0, 1 - left / length))
        assert abs(window["elapsed"] - elapsed) < 0.01
        assert abs(window["pace"] - (told.utilization - elapsed)) < 0.01
        assert abs(window["time_remaining_hours"] - left / 3600) <= 0.0501
        assert (window["projected"] is None) == (elapsed < 5)
        if window["projected"] is None:
            assert window["on_pace"] is None
        else:
            assert abs(window["projected"] - told.utilization / elapsed * 100) < 0.02
            assert window["on_pace"] == (told.utilization / elapsed <= 1)
        self.check_burn(window, told, reset, now)

    def check_burn(self, window: dict[str, Any], told: Told, reset: datetime, now: datetime) -> None:
        """Expect that a rate needs three readings of this window over ten minutes, and lies within what they allow."""
        rate, near = window["burn_rate"], [at for at, _ in self.readings if now - at <= 60 * MINUTE - SECOND]
        if len(near) >= 3 and near[-1] - near[0] >= 10 * MINUTE + SECOND:
            assert rate is not None
        if rate is None:
            assert window["limit_at"] is None
            return
        assert len(self.readings) >= 3
        assert self.readings[-1][0] - self.readings[0][0] >= 10 * MINUTE - SECOND
        assert 0 <= rate <= 6 * (max(u for _, u in self.readings) - min(u for _, u in self.readings)) + 0.1
        if window["limit_at"] is not None:
            assert now < datetime.fromisoformat(window["limit_at"]) < reset
            assert told.utilization < 100


class Days:
    """The account, the program that watches it, and what is expected of the program."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = START + self.rng.uniform(0, 3600) * SECOND
        self.truth = {key: TrueWindow(duration) for key, duration in DURATIONS.items()}
        self.expected = {key: Expectation() for key in DURATIONS}
        self.missing: dict[str, datetime] = {}
        self.login = 0
        self.usage = AccountUsage("default")

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds * SECOND
        for window in self.truth.values():
            window.advance(self.now)

    def work(self, percent: float) -> None:
        """Use some of both windows."""
        self.truth["five_hour"].use(self.now, percent)
        self.truth["seven_day"].use(self.now, percent / 5)

    def answer(self) -> None:
        """Let the program have an answer, and compare the events."""
        windows: list[Window] = []
        expected: list[tuple[str, str]] = []
        for key, window in self.truth.items():
            if key in self.missing and self.now - self.missing[key] < 12 * 60 * MINUTE:
                self.expected[key].is_present = False
                continue
            reset = window.reset and window.reset + self.rng.uniform(-2, 2) * SECOND
            utilization = window.used + (self.rng.uniform(-1, 1) * 1e-9 if window.used > 1 else 0)
            windows.append(make_reading(self.now, utilization, reset, key=key))
            told = Told(window.number, round(utilization, 2), window.reset)
            expected += [(key, name) for name in self.expected[key].hear(self.now, told)]
        self.usage.identify(f"{self.login:016x}")
        events = self.usage.answered(make_usage(self.now, *windows), THRESHOLDS)
        happened = [
            (e.window, e.event_type if e.threshold is None else f"{e.event_type} {e.threshold:g}") for e in events
        ]
        assert happened == expected
        self.check()

    def check(self) -> None:
        """Compare everything shown now."""
        for key, expected in self.expected.items():
            if key in self.usage.tracks:
                expected.check(shown(self.usage, self.now, key), self.now)
            else:
                assert expected.told is None

    # What may happen; `number` is between 0 and 1.

    def do_work(self, number: float) -> None:
        """Use it for some hours."""
        for _ in range(round(60 * number)):
            self.wait(self.rng.uniform(162, 660))
            self.work(self.rng.uniform(0, 3) * (self.rng.random() < 0.7))
            self.answer()

    def do_burst(self, number: float) -> None:
        """Use much of it at once."""
        self.work(120 * number)
        self.answer()

    def do_rest(self, number: float) -> None:
        """Use nothing for some hours, or over a night."""
        for _ in range(round(120 * number)):
            self.wait(self.rng.uniform(270, 330))
            self.answer()

    def do_gap(self, number: float) -> None:
        """Have no answer for up to two days, with or without use meanwhile."""
        self.wait(number * 48 * 3600)
        self.check()
        self.work(self.rng.uniform(0, 90) * (self.rng.random() < 0.5))

    def do_boundary(self, number: float) -> None:
        """Have answers and looks just around a reset."""
        reset = self.truth["five_hour"].reset
        self.wait(0 if reset is None else max(0.0, (reset - self.now) / SECOND - 90 * number))
        for _ in range(12):
            self.answer()
            self.wait(self.rng.uniform(1, 30))
            self.check()

    def do_silence(self, _: float) -> None:
        """Have an answer shortly before a reset, and then only look."""
        reset = self.truth["five_hour"].reset
        if reset is not None:
            self.wait(max(0.0, (reset - self.now) / SECOND - 40))
            self.answer()
            for _step in range(16):
                self.wait(self.rng.uniform(10, 30))
                self.check()

    def do_dip(self, number: float) -> None:
        """Be corrected downwards: the window stays the same."""
        for window in self.truth.values():
            window.used *= 1 - number / 2
        self.answer()

    def do_early(self, number: float) -> None:
        """End a window before it is due; nobody does so in its first minutes."""
        window = self.truth["five_hour" if number < 0.5 else "seven_day"]
        if window.begun is not None and self.now - window.begun > 5 * MINUTE:
            window.end()
            if self.rng.random() < 0.5:
                window.use(self.now, 0)

    def do_vanish(self, number: float) -> None:
        """Leave a window out of the answers, for half a day at most."""
        self.missing = {"five_hour" if number < 0.5 else "seven_day": self.now}

    def do_restart(self, _: float) -> None:
        """End the program and start it anew from what stands on the broker."""
        memory, state = (json.loads(json.dumps(d)) for d in (remember(self.usage), self.usage.document(self.now)))
        before = self.usage.document(self.now)
        self.usage = AccountUsage("default")
        recall(self.usage, memory, state, self.now)
        assert self.usage.document(self.now) == before
        self.check()

    def do_switch(self, number: float) -> None:
        """Log in as somebody else, who has a past of their own."""
        self.login += 1
        for key in self.truth:
            self.truth[key] = TrueWindow(DURATIONS[key])
            self.expected[key] = Expectation()
        if self.rng.random() < 0.8:
            self.work(120 * number)
        self.usage.identify(f"{self.login:016x}")
        self.check()


ACTIONS = (
    Days.do_work,
    Days.do_burst,
    Days.do_rest,
    Days.do_gap,
    Days.do_boundary,
    Days.do_silence,
    Days.do_dip,
    Days.do_early,
    Days.do_vanish,
    Days.do_restart,
    Days.do_switch,
)


@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.floats(0, 1)), min_size=1, max_size=40),
)
@settings(max_examples=200)
def test_days_of_answers(seed: int, actions: list[tuple[Callable[[Days, float], None], float]]) -> None:
    """Whatever happens to an account over days, the numbers are those of its answers and the events are told once."""
    days = Days(seed)
    for action, number in actions:
        action(days, number)
    days.answer()


@pytest.mark.parametrize("seed", range(8))
def test_months_of_answers(seed: int) -> None:
    """A long life with restarts at random moments: nothing that adds up goes wrong, and the memory does not grow."""
    days, rng, sizes = Days(seed), random.Random(seed), set()
    for _ in range(200):
        rng.choice(ACTIONS)(days, rng.random())
        if rng.random() < 0.3:
            days.do_restart(0)
        sizes.add(len(json.dumps(remember(days.usage))))
    assert days.now - START > timedelta(days=20)
    assert max(sizes) < 8000
