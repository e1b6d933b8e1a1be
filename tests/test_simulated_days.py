"""Days of an account in simulated time, with all faults that were reported: only true numbers are published.

The oracle knows the truth behind each response. It compares what was published with it, and counts the events.
"""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from parts.simulation import Shown, Simulation, make_state
from parts.true_account import Said, TrueAccount

START = datetime(2026, 11, 20, 6, 0, tzinfo=UTC)
DAYS = 4
SEEDS = int(os.environ.get("SIMULATED_LIVES", "3"))
"""More of them with SIMULATED_LIVES=50 in the environment."""
STALE_AFTER = timedelta(minutes=30)
HOUR = timedelta(hours=1)


class Life:
    """A simulation and the truth; `offset` is by how much the machine's clock is wrong."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.truth = TrueAccount(random.Random(seed + 1000), START)
        self.offset = timedelta(0)
        self.simulation = Simulation(self._respond, START, make_state(seed))
        self.shown: list[Shown] = []
        self.asleep: list[tuple[datetime, datetime]] = []
        self.restarts: list[datetime] = []

    def _respond(self, now: datetime) -> object:
        self.truth.is_clock_right = not self.offset
        return self.truth.respond(now - self.offset)

    def run(self, span: timedelta) -> None:
        """Let time pass; note what was shown at the real time."""
        before = len(self.simulation.shown)
        self.simulation.run(self.simulation.now + span)
        self.shown += [Shown(shown.at - self.offset, shown.state) for shown in self.simulation.shown[before:]]

    def set_clock(self, step: timedelta) -> None:
        """Set the machine's clock."""
        self.offset += step
        self.simulation.set_clock(step)

    def sleep(self, span: timedelta) -> None:
        """Let the machine sleep: nothing runs, and its clock is right when it wakes up."""
        begun = self.simulation.now - self.offset
        self.simulation.now += span
        self.asleep.append((begun, begun + span))


def live(seed: int) -> Life:
    """Return an account after some days in which everything happened that can happen."""
    life = Life(seed)
    if seed % 2:
        life.set_clock(-3 * HOUR)
        life.run(timedelta(minutes=7))
        life.set_clock(3 * HOUR)
    end = START + timedelta(days=DAYS)
    while life.simulation.now - life.offset < end:
        life.run(timedelta(minutes=life.rng.uniform(60, 400)))
        match life.rng.randrange(4):
            case 0:
                life.simulation.restart()
                life.restarts.append(life.simulation.now)
            case 1:
                life.sleep(timedelta(minutes=life.rng.uniform(1, 500)))
            case 2:
                step = timedelta(minutes=life.rng.choice([-180, -20, 15, 120]))
                life.set_clock(step)
                life.run(timedelta(minutes=10))
                life.set_clock(-step)
            case _:
                pass
    return life


KEYS = ("five_hour", "seven_day", "seven_day_opus")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_days(seed: int) -> None:
    """What is published is true, each event fires once, and the API is never asked too often."""
    life = live(seed)
    every_published_number_was_said_and_is_true(life)
    each_threshold_once_in_each_window(life)
    each_reset_once(life)
    every_event_has_its_own_id(life)
    the_budget_holds(life)
    the_entities_of_a_renamed_window_stay(life)


def every_published_number_was_said_and_is_true(life: Life) -> None:
    """Check for spikes, near-zero responses, numbers of a window that ended, and numbers that are too old."""
    count, by_number = 0, defaultdict[tuple[str, float], list[Said]](list)
    for said in life.truth.said:
        by_number[said.key, said.utilization].append(said)
    for shown in life.shown:
        for key in KEYS:
            number = shown.window(key).get("utilization")
            if number is None:
                continue
            count += 1
            support = [said for said in by_number[key, number] if shown.at - STALE_AFTER <= said.at <= shown.at]
            # while the clock is wrong nobody can know which window is over
            assert any(said.is_true or not said.is_clock_right for said in support), (shown.at, key, number, support)
    assert count > 1000


def true_readings(life: Life, key: str) -> list[Said]:
    """Return the true readings of a window, whatever the clock said."""
    return [one for one in life.truth.said if one.key == key and one.is_true]


def believed(life: Life, key: str) -> list[Said]:
    """Return what must have been believed of a window: nothing with a wrong clock, and no unconfirmed change."""
    kept: list[Said] = []
    said = [one for one in true_readings(life, key) if one.is_clock_right]
    for one, following in pairwise([*said, None]):
        assert one is not None
        before = kept[-1].utilization if kept and kept[-1].fill == one.fill else 0.0
        is_followed = following is not None and following.fill == one.fill
        if is_followed or abs(one.utilization - before) < 10:
            kept.append(one)
    return kept


def is_refill(before: Said, after: Said) -> bool:
    """Whether the last window was seen being refilled: if it also began unseen, that is not known."""
    is_running = before.resets_at is not None and after.at < before.resets_at
    is_drop = before.utilization - after.utilization >= 10
    return after.is_refill and after.fill == before.fill + 1 and is_running and is_drop


def reached(life: Life, readings: list[Said]) -> Counter[str]:
    """Return how often each limit was reached in these readings of a window: once in each fill that got there."""
    found: Counter[str] = Counter()
    for fill in sorted({said.fill for said in readings}):
        levels = [said.utilization for said in readings if said.fill == fill]
        first = next(index for index, said in enumerate(readings) if said.fill == fill)
        low = levels[0] if first > 0 and is_refill(readings[first - 1], readings[first]) else 0.0
        if first == 0:  # which may have been read by a clock that was wrong
            key = readings[0].key
            low = next(said.utilization for said in life.truth.said if said.key == key and said.fill == fill)
        found.update(str(limit) for limit in (75, 90, 100) if low < limit <= max(levels))
    return found


def each_threshold_once_in_each_window(life: Life) -> None:
    """Check that 75, 90 and the limit each fire once in each window or refill that reached them."""
    for key in KEYS:
        happened: Counter[str] = Counter()
        for event in life.simulation.events:
            if event.window == key and event.event_type == "threshold_reached":
                happened.update(str(int(threshold)) for threshold in event.thresholds)
            elif event.window == key and event.event_type == "limit_reached":
                happened["100"] += 1
        assert reached(life, believed(life, key)) <= happened <= reached(life, true_readings(life, key)), key


def each_reset_once(life: Life) -> None:
    """Check that each window that ended after some use is one reset, each refill one early reset."""
    for key in KEYS:
        early = resets = either = 0
        for before, after in pairwise(believed(life, key)):
            if before.fill == after.fill:
                continue
            wrong = [said for said in life.truth.said if said.key == key and not said.is_clock_right]
            if any(before.at < said.at < after.at for said in wrong):
                either += 2  # nobody could know whether it was due
            elif is_refill(before, after):
                early += 1
            elif before.utilization > 0 and not after.is_refill:
                resets += 1
            else:
                either += 1
        types = Counter(event.event_type for event in life.simulation.events if event.window == key)
        assert early <= types["reset_early"], key
        assert resets <= types["reset"], key
        fills = [said.fill for said in true_readings(life, key)]
        most = either + len(set(fills)) - len({said.fill for said in believed(life, key)})
        assert early + resets <= types["reset"] + types["reset_early"] <= early + resets + most, key


def every_event_has_its_own_id(life: Life) -> None:
    """Check that a consumer that drops ids it has seen loses nothing."""
    ids = [event.document("default")["id"] for event in life.simulation.events]
    assert len(ids) == len(set(ids))


def the_budget_holds(life: Life) -> None:
    """Check for at most 20 requests in any hour, whatever had to be confirmed."""
    polls = sorted(said.at for said in life.truth.said if said.key == "five_hour")
    for index, poll in enumerate(polls):
        assert sum(poll <= other < poll + HOUR for other in polls[index : index + 25]) <= 20


def the_entities_of_a_renamed_window_stay(life: Life) -> None:
    """Check that no entities are removed if the API renames a key for more than a day."""
    assert set(KEYS) <= set(life.simulation.state.usage.windows)
