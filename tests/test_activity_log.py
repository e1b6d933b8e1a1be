"""The lines in Home Assistant's activity log, over days of a simulated account."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from claude_usage_mqtt.homeassistant.discovery import discovery
from claude_usage_mqtt.homeassistant.entities import EXTRA_USAGE, PLAN, POLLING
from claude_usage_mqtt.homeassistant.inventory import Inventory
from parts.simulation import TOPICS, Simulation, make_state
from parts.templates import template
from parts.worker import Worker

DAYS = timedelta(hours=50)
START = datetime(2026, 11, 29, 6, 0, tzinfo=UTC)
SEEDS = range(6)

NEWS = ("_resets_at", "_limit_reached", "blocked", "blocked_until", "extra_usage_active")
"""Ends of the entities that only change with an event or a reset."""

MOMENT = timedelta(seconds=90)
"""The time around an event or a reset: the response that shows a reset comes a minute after it."""


def live(seed: int, times: float) -> Simulation:
    """Return an account after days of work that began at another time with each seed."""
    start = START + seed * timedelta(hours=7, minutes=13)
    now = [start]
    account = Worker(lambda: now[0], times, seed)

    def respond(at: datetime) -> dict[str, Any]:
        now[0] = at
        return account.answer()

    simulation = Simulation(respond, start, make_state(seed))
    simulation.run(start + DAYS)
    return simulation


def assert_expected_time_moves_only_by_much(life: Simulation) -> None:
    """Check that `limit_at` moves by a twentieth of its distance, at least five minutes; a week on pace has none."""
    moves = 0
    for before, after in pairwise(shown.state["windows"] for shown in life.shown):
        for key in before.keys() & after.keys():
            window, known = after[key], before[key]["limit_at"]
            assert key == "five_hour" or not (window["limit_at"] and window["on_pace"]), window
            is_same = window["resets_at"] == before[key]["resets_at"]
            if known and window["limit_at"] and is_same and known != window["limit_at"]:
                moves += 1
                new, known = (datetime.fromisoformat(at) for at in (window["limit_at"], known))
                left = known - datetime.fromisoformat(window["read_at"])
                assert abs(new - known) > max(timedelta(minutes=5), left / 20), (known, window)
    assert moves > 20


def test_nine_lines_in_ten_of_an_ordinary_day_are_events_and_resets() -> None:
    """On days within the limits this holds even without counting the lines that come with an event."""
    lives = [live(seed, 0.6) for seed in SEEDS]
    keys = [key for life in lives for _, key in lines(life)]
    total = len(keys) + sum(len(life.events) for life in lives)
    assert sum(not key.endswith(NEWS) for key in keys) <= total / 10, (total, Counter(keys))


@pytest.mark.parametrize("times", [1.0, 1.7])
def test_at_most_one_line_in_ten_is_neither_an_event_nor_a_reset(times: float) -> None:
    """However hard somebody works, most of the log is about events and resets, and their consequences."""
    noise: Counter[str] = Counter()
    total = 0
    for seed in SEEDS:
        life = live(seed, times)
        assert_expected_time_moves_only_by_much(life)
        changes = lines(life)
        moments = [event.at for event in life.events] + [at for at, key in changes if key.endswith(NEWS)]
        noise.update(key for at, key in changes if not any(abs(at - moment) <= MOMENT for moment in moments))
        total += len(changes) + len(life.events)
    assert noise.total() <= total / 10, (total, noise)


def lines(simulation: Simulation) -> list[tuple[datetime, str]]:
    """Return each change, after the first, of a state that is not a number: Home Assistant makes a line from it."""
    templates = {
        key: template(component["value_template"])
        for key, component in announced(simulation)["components"].items()
        if component.get("state_topic") == TOPICS.state
        and "unit_of_measurement" not in component
        and component.get("enabled_by_default", True)
    }
    states = dict.fromkeys(templates, "None")
    found = []
    for shown in simulation.shown:
        for key, render in templates.items():
            known = states[key]
            this = SimpleNamespace(state={"ON": "on", "OFF": "off", "None": "unknown"}.get(known, known))
            states[key] = render(value_json=shown.state, this=this)
            if states[key] != known:
                found.append((shown.at, key))
    first = simulation.shown[0].at + timedelta(hours=1)
    return [(at, key) for at, key in found if at > first]


def announced(simulation: Simulation) -> dict[str, Any]:
    """Return what is announced to Home Assistant of an account that can use extra usage."""
    windows = {key: window["label"] for key, window in simulation.shown[-1].state["windows"].items()}
    features = frozenset({EXTRA_USAGE, PLAN, POLLING})
    return discovery(TOPICS, Inventory(windows=windows, features=features), label=None)
