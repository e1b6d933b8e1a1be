"""What makes lines in Home Assistant's activity log, over days of a simulated account."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from parts.lighter_account import LighterAccount
from parts.simulation import Simulation, make_state

DAYS = timedelta(hours=50)
START = datetime(2026, 11, 29, 6, 0, tzinfo=UTC)
SEEDS = range(4)


def live(seed: int, share: float) -> Simulation:
    """Return an account after days of work that began at another time with each seed."""
    start = START + seed * timedelta(hours=7, minutes=13)
    now = [start]
    account = LighterAccount(lambda: now[0], share, seed)

    def respond(at: datetime) -> dict[str, Any]:
        now[0] = at
        return account.answer()

    simulation = Simulation(respond, start, make_state(seed))
    simulation.run(start + DAYS)
    return simulation


@pytest.mark.parametrize("seed", SEEDS)
def test_the_expected_time_of_a_limit_moves_only_by_much(seed: int) -> None:
    """On its topic it moves by more than a twentieth of the time until it, five minutes at least.

    A week on pace has none.
    """
    moves = 0
    for before, after in pairwise(shown.state["windows"] for shown in live(seed, 1.0).shown):
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
