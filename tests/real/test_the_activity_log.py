"""The activity log and the recorder of a real Home Assistant after ordinary days of a simulated account."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.demo.simulated_api import SimulatedApi
from parts.broker import Mosquitto
from parts.credentials import write_credentials
from parts.service import HEALTH, STATE, running_service
from parts.watcher import Watcher
from parts.worker import Worker
from real.home import HomeAssistant, StepClock, pass_until

HOURS = 50
"""Two working days and two nights."""

HIDDEN = ("sensor.claude_weekly_limit_at", "sensor.claude_weekly_fable_limit_at")
"""Entities that are not enabled by default; another test may have enabled them."""

FIRST_LINES = 2
"""Lines of an entity that do not count: its first state, and its return after it was unavailable. Both depend on what
the tests before have left in Home Assistant."""

NEWS = ("_event", "_resets_at", "_limit_reached", "claude_blocked", "claude_blocked_until", "extra_usage_active")
"""Ends of the entities that only change with an event or a reset."""


def events_and_resets(windows: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the part of the state that changes with an event or a reset."""
    return [
        (
            key,
            window["resets_at"],
            window["limit_reached"],
            *((window["utilization"] or 0) >= percent for percent in (75, 90)),
        )
        for key, window in windows.items()
    ]


@pytest.mark.parametrize("times", [0.6, 1.0], ids=["ordinary days", "days over pace"])
def test_the_activity_log_is_about_events_and_resets(
    home: HomeAssistant, mosquitto: Mosquitto, watcher: Watcher, tmp_path: Path, times: float
) -> None:
    """At most one line in ten is not about an event or a reset; nothing makes a line with every poll.

    The recorder gets at most one row of an entity per poll, and none without a line unless it is a number.
    """
    write_credentials(tmp_path, expires_in=dt.timedelta(days=30))
    clock = StepClock(speed=0)  # what is published with a sign of life and after the poll that follows must not differ
    with SimulatedApi(Worker(clock.now, times)) as api, running_service(mosquitto.port, api.url, tmp_path, clock=clock):
        home.wait(lambda states: states.get("sensor.claude_weekly_usage", {}).get("state") not in (None, "unknown"))
        home.wait_for(sensor__claude_plan="Max 5x")

        moments = []

        def live(span: dt.timedelta) -> int:
            """Let time pass, and return the number of polls in it; note when an event or a reset happened."""
            until, polls = clock.now() + span, 0
            while clock.now() < until:
                due = dt.datetime.fromisoformat(watcher.json(HEALTH)["next_poll"])
                known, at = watcher.json(STATE)["windows"], dt.datetime.now(dt.UTC)
                pass_until(clock, due + dt.timedelta(seconds=1), watcher)
                polls += 1
                windows = watcher.json(STATE)["windows"]
                if events_and_resets(windows) != events_and_resets(known):
                    projected = windows["seven_day"]["projected"]
                    home.wait_for(sensor__claude_weekly_projected="unknown" if projected is None else str(projected))
                    moments.append((at, dt.datetime.now(dt.UTC)))
            return polls

        live(dt.timedelta(hours=1))  # the first state of each entity is a line, too
        began = dt.datetime.now(dt.UTC)
        polls = live(dt.timedelta(hours=HOURS))
        ours = ",".join(entity for entity in home.states() if ".claude_" in entity and entity not in HIDDEN)
        since = began.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines = home.rest("GET", f"/api/logbook/{since}?entity={ours}")
        histories = home.rest(
            "GET", f"/api/history/period/{since}?filter_entity_id={ours}&significant_changes_only=0&skip_initial_state"
        )
    counts = Counter(line["entity_id"] for line in lines)
    rows = {history[0]["entity_id"]: len(history) for history in histories if history}
    noise = Counter(
        line["entity_id"]
        for line in lines
        if not line["entity_id"].endswith(NEWS)
        and counts[line["entity_id"]] > FIRST_LINES
        and not any(begun <= dt.datetime.fromisoformat(line["when"]) <= ended for begun, ended in moments)
    )
    assert counts["event.claude_session_event"] > HOURS / 10, counts
    assert noise.total() <= counts.total() / 10, (noise, counts)
    assert max(rows.values()) <= polls + FIRST_LINES, rows
    assert {entity for entity in rows if entity not in counts} <= NUMBERS, rows


NUMBERS = {
    *(
        f"sensor.claude_{window}_{of}"
        for window in ("session", "weekly", "weekly_fable")
        for of in ("usage", "projected")
    ),
    *(f"sensor.claude_extra_usage_{amount}" for amount in ("used", "limit", "remaining", "utilization")),
    "sensor.claude_tightest",
}
"""The entities that are drawn as a curve: Home Assistant makes no lines of them."""
