"""What the device of all accounts shows: who is blocked, who is closest to a limit, and who has the most headroom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from claude_usage_mqtt.service.summary import digest, summarize
from claude_usage_mqtt.usage.reading import STATUSLINE, Reading
from parts.documents import sample_usage
from parts.readings import make_reading
from parts.simulation import Simulation, make_state

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
FREE = sample_usage(now=NOW, five_hour=20, seven_day=40, scoped={"Opus": 95})
BUSY = sample_usage(now=NOW, five_hour=60, seven_day=10)
USED_UP = sample_usage(now=NOW, five_hour=0, seven_day=100)


def summary(**responses: Any) -> dict[str, Any]:
    """Return the summary of accounts that got these responses."""
    digests = []
    for name, response in responses.items():
        simulation = Simulation(lambda _, response=response: response, NOW, make_state())  # type: ignore[misc]
        simulation.run(NOW + timedelta(seconds=1))
        digests.append(digest(simulation.state, NOW)._replace(account=name, label=name))
    return summarize(digests)


@pytest.mark.parametrize(
    ("responses", "highest", "headroom", "blocked", "who"),
    [
        # A model's own week does not count: the account with a used-up Opus week has the most headroom.
        ({"a": FREE, "b": BUSY}, ("b", 60), "a", False, []),
        ({"a": FREE, "b": USED_UP}, ("b", 100), "a", False, ["b"]),
        ({"a": BUSY, "b": USED_UP}, ("b", 100), "a", False, ["b"]),
        ({"a": USED_UP, "b": USED_UP}, ("a", 100), None, True, ["a", "b"]),
    ],
)
def test_usage_and_headroom_come_from_what_stops_all_work(
    responses: dict[str, Any], highest: tuple[str, float], headroom: str | None, *, blocked: bool, who: list[str]
) -> None:
    """Highest usage and headroom come from the session and the week; a blocked account has no headroom."""
    found = summary(**responses)
    assert (found["highest_account"], found["highest_utilization"]) == highest
    assert (found["headroom_account"], found["blocked"], found["blocked_accounts"]) == (headroom, blocked, who)
    week = (NOW + timedelta(days=3)).isoformat()
    assert found["blocked_until"] == (week if blocked else None)


def test_an_account_with_an_unknown_limit_is_not_the_one_with_headroom() -> None:
    """A session at 5 % says nothing while the week may be used up."""
    state = make_state()
    reading = make_reading(NOW, 5, NOW + timedelta(hours=2), source=STATUSLINE)
    week = make_reading(NOW - timedelta(hours=2), 99, NOW + timedelta(days=2), key="seven_day")
    for window in (week, reading):
        state.take(Reading(read_at=window.read_at, windows={window.key: window}, is_partial=True), window.read_at)
    found = summarize([digest(state, NOW), digest(make_state(2), NOW)])
    assert (found["highest_utilization"], found["headroom_account"], found["blocked"]) == (5, None, None)
