"""Responses that real accounts got, from public reports, each with what must be published.

A case with several responses is replayed in time: each holds until the next, and the account's own policy decides when
to poll, including the polls that confirm an unlikely reading.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from claude_usage_mqtt.errors import ApiError
from claude_usage_mqtt.sources.api.response import interpret
from parts.simulation import Simulation, make_state, sequence

CASES = Path(__file__).parent / "cases"
SEEDS = range(10)
"""With each seed, the policy's jitter puts the polls at other times."""


def case(name: str) -> Any:
    """Return a case's input."""
    return json.loads((CASES / f"{name}.json").read_text())["input"]


def at(clock: str, day: int = 25) -> datetime:
    """Return an instant on the day of all cases."""
    return datetime.fromisoformat(f"2026-11-{day}T{clock}+00:00")


def responses(name: str) -> dict[datetime, Any]:
    """Return the responses of a case by the instant from which each holds."""
    return {datetime.fromisoformat(reading["at"]): reading["api"] for reading in case(name)["readings"]}


def replay(name: str, *, until: datetime, seed: int = 0, one_poll: tuple[datetime, ...] = ()) -> Simulation:
    """Let an account live through a case."""
    entries = responses(name)
    simulation = Simulation(sequence(entries, one_poll), min(entries), make_state(seed))
    simulation.run(until)
    return simulation


def first_state(name: str) -> dict[str, Any]:
    """Return what is published after the only response of a case."""
    return replay(name, until=at("12:00:01")).shown[-1].state


def money(state: dict[str, Any]) -> tuple[Any, ...]:
    """Return the main fields of extra usage."""
    extra = state["extra_usage"]
    return tuple(extra[key] for key in ("enabled", "used", "limit", "remaining", "utilization", "currency"))


WINDOWS = [
    ("breakdown_rows", {"five_hour": 7.0}),
    ("counters_kept_at_scheduled_reset", {"seven_day": 100.0}),
    ("enterprise_budget_cinder_cove", {"pool_cinder_cove": 100.0}),
    ("enterprise_seat_without_resets", {"five_hour": 100.0, "seven_day": 56.0}),
    ("extra_usage_limit_zero", {"five_hour": 0.0}),
    ("free_plan_empty_object", {}),
    ("kinds_model_scoped_and_session_scoped", {"seven_day": 42.0}),
    ("obsolete_omelette_cowork_zero", {"five_hour": 7.0}),
    ("one_is_one_percent", {"five_hour": 7.0, "seven_day_sonnet": 1.0}),
    ("percent_900", {"five_hour": 100.0}),
    ("scoped_by_surface_only", {"seven_day": 42.0, "seven_day_code": 88.0}),
    ("seven_day_null_fable_present", {"five_hour": 7.0, "seven_day_fable": 39.0}),
    ("team_spend_limit_null_percent_zero", {"five_hour": 12.0}),
    ("weekly_reset_nine_days_ahead", {"seven_day": 93.0}),
    ("window_locked", {"five_hour": 40.0, "seven_day": 100.0}),
]


@pytest.mark.parametrize(("name", "expected"), WINDOWS, ids=[name for name, _ in WINDOWS])
def test_windows(name: str, expected: dict[str, float]) -> None:
    """Each limit of the account is a window with the right number; nothing else is."""
    shown = {key: window["utilization"] for key, window in first_state(name)["windows"].items()}
    assert {key: utilization for key, utilization in shown.items() if utilization is not None} == expected


MONEY = [
    ("currency_lower_case", (True, 1.5, 20.0, 18.5, 7.5, "USD")),
    ("enterprise_budget_cinder_cove", (True, 61.23, 200.0, 138.77, 30.61, "USD")),
    ("enterprise_seat_without_resets", (False, None, None, None, None, None)),
    ("extra_usage_limit_zero", (True, 0.0, None, None, None, "USD")),
    ("gbp_without_decimal_places", (True, 18.56, 20.0, 1.44, 92.8, "GBP")),
    ("jpy_without_decimal_places", (True, 1234.0, 5000.0, 3766.0, 24.68, "JPY")),
    ("team_spend_limit_null_percent_zero", (True, 1.2, None, None, None, "USD")),
]


@pytest.mark.parametrize(("name", "expected"), MONEY, ids=[name for name, _ in MONEY])
def test_money(name: str, expected: tuple[Any, ...]) -> None:
    """Amounts are in the currency's own unit; what is off does not look spent, and only a limit looks like one."""
    assert money(first_state(name)) == expected


def test_a_used_up_pool_stops_work() -> None:
    """The dollars included in an Enterprise seat are its limit, unless extra usage covers it."""
    state = first_state("enterprise_budget_cinder_cove")
    assert state["windows"]["pool_cinder_cove"]["limit_reached"] is True
    assert state["windows"]["pool_cinder_cove"]["resets_at"] == "2026-11-28T12:00:00+00:00"
    assert state["blocked"] is False  # 138.77 USD of extra usage are left
    assert state["extra_usage"]["active"] is True


def test_windows_without_resets() -> None:
    """A used-up session blocks although its end is not known."""
    state = first_state("enterprise_seat_without_resets")
    assert (state["blocked"], state["blocked_until"]) == (True, None)
    assert {window["resets_at"] for window in state["windows"].values()} == {None}


def test_a_plan_without_limits_is_not_a_fault() -> None:
    """An empty response is explained, and polled at the normal pace."""
    simulation = replay("free_plan_empty_object", until=at("14:00:00"))
    assert simulation.state.health.status == "ok"
    assert "no limits" in (simulation.state.health.detail or "")
    assert 10 <= len(simulation.polls) <= 26


@pytest.mark.parametrize(
    ("name", "unknown"),
    [("breakdown_rows", "seven_day_breakdown"), ("kinds_model_scoped_and_session_scoped", "model_scoped")],
)
def test_unknown_sections_are_logged_once(name: str, unknown: str, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown sections and kinds of limits are in the debug log, one line each, however often they come."""
    caplog.set_level(logging.DEBUG, "claude_usage_mqtt")
    replay(name, until=at("13:00:00"))
    (line,) = (message for message in caplog.messages if "not understood" in message)
    assert unknown in line


def test_a_reset_beyond_the_week_is_unknown() -> None:
    """Only the percentage of a week that cannot have begun yet is shown."""
    week = first_state("weekly_reset_nine_days_ahead")["windows"]["seven_day"]
    derived = ("resets_at", "elapsed", "pace", "projected", "on_pace", "time_remaining_hours", "limit_at")
    assert {week[key] for key in derived} == {None}


def test_a_locked_window_is_used_up() -> None:
    """A locked session cannot be used although it is at 40 %; the week that locked it says until when."""
    state = first_state("window_locked")
    session = state["windows"]["five_hour"]
    assert (session["locked"], session["limit_reached"], session["on_pace"]) == (True, True, False)
    assert (state["blocked"], state["blocked_until"]) == (True, "2026-11-27T12:00:00+00:00")


# Sequences


def values(simulation: Simulation, key: str) -> list[tuple[float | None, str | None]]:
    """Return the utilization and the reset that were published, in order, without repetitions."""
    found: list[tuple[float | None, str | None]] = []
    for shown in simulation.shown:
        window = shown.window(key)
        value = (window.get("utilization"), window.get("resets_at"))
        if window and (not found or found[-1] != value):
            found.append(value)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reset_that_keeps_its_number(seed: int) -> None:
    """100 % under a new reset is published, without a second event, once another response confirms it."""
    simulation = replay("counters_kept_at_scheduled_reset", until=at("12:40:00"), seed=seed)
    shown = [value for value in values(simulation, "seven_day") if value[0] is not None]
    assert shown == [(100.0, "2026-11-25T12:05:00+00:00"), (100.0, "2026-12-02T12:05:00+00:00")]
    new = next(s for s in simulation.shown if s.window("seven_day")["resets_at"] == "2026-12-02T12:05:00+00:00")
    polls = [poll for poll in simulation.polls if at("12:07:00") <= poll <= new.at]
    assert len(polls) == 2
    assert polls[1] - polls[0] <= timedelta(seconds=90)
    assert simulation.event_types.count("reset") == 1
    assert simulation.event_types.count("limit_reached") == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_refill(seed: int) -> None:
    """A week that is refilled in the middle is one early reset; thresholds count again, the rate starts over."""
    simulation = replay("refill_same_boundary_weekly", until=at("16:00:00"), seed=seed)
    assert [value for value, _ in values(simulation, "seven_day")] == [73.0, 0.0, 10.0, 80.0, 95.0]
    happened = [(event.event_type, event.threshold) for event in simulation.events if event.window]
    assert happened == [("reset_early", None), ("threshold_reached", 75), ("threshold_reached", 90)]
    rates = [s.window("seven_day")["burn_rate"] for s in simulation.shown if s.window("seven_day")["utilization"] == 10]
    assert all(rate is None or 0 <= rate <= 20 for rate in rates)


def week(utilization: float, resets_at: datetime | None) -> dict[str, Any]:
    """Return a response that has only the week."""
    return {"seven_day": {"utilization": utilization, "resets_at": None if resets_at is None else str(resets_at)}}


RUNNING = at("06:40:00", day=28)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("claimed", [RUNNING, RUNNING + timedelta(days=1), at("12:20:00") + timedelta(days=7), None])
def test_one_near_zero_response_is_not_a_reset_whatever_its_reset(seed: int, claimed: datetime | None) -> None:
    """One response cannot end a week early: the number stays, and nothing fires."""
    moved = RUNNING + timedelta(days=1) if claimed == RUNNING + timedelta(days=1) else RUNNING
    world = {at("12:00:00"): week(60, RUNNING), at("12:19:59"): week(60, moved), at("12:20:00"): week(0, claimed)}
    simulation = Simulation(sequence(world, (at("12:20:00"),)), at("12:00:00"), make_state(seed))
    simulation.run(at("13:30:00"))
    assert set(values(simulation, "seven_day")) == {(60.0, RUNNING.isoformat()), (60.0, moved.isoformat())}
    assert simulation.events == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("length", [timedelta(days=7), timedelta(days=5), None])
def test_a_claimed_reset(seed: int, length: timedelta | None) -> None:
    """A week that starts over early is published within 90 seconds, with one early reset."""

    def world(now: datetime) -> Any:
        if now < at("12:20:00"):
            return week(90, RUNNING)
        # without a message its reset moves on with the clock, or is null until there is one
        return week(0, now + length) if length else week(0, None) if now < at("12:26:00") else week(1, RUNNING)

    simulation = Simulation(world, at("12:00:00"), make_state(seed))
    simulation.run(at("13:30:00"))
    assert [event.event_type for event in simulation.events] == ["reset_early"]
    seen = next(poll for poll in simulation.polls if poll >= at("12:20:00"))
    assert simulation.events[0].at - seen <= timedelta(seconds=90)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drifting_reset(seed: int) -> None:
    """A reset that moves by a day is followed, without any event."""
    simulation = replay("reset_drifts_forward", until=at("12:50:00"), seed=seed)
    assert values(simulation, "seven_day") == [
        (60.0, "2026-11-28T06:40:00+00:00"),
        (61.0, "2026-11-29T06:40:00+00:00"),
        (61.0, "2026-11-30T06:40:00+00:00"),
    ]
    assert simulation.events == []


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("days", [5, 7])
@pytest.mark.parametrize("begins", [0, None])
def test_a_week_of_five_days(days: int, begins: float | None, *, restarted: bool) -> None:
    """If the end of the previous week was seen, the true length counts: after a day, a fifth has passed."""
    reset, second = at("12:40:00"), at("12:40:00") + timedelta(days=days)

    def world(now: datetime) -> Any:
        if now < reset:
            return week(80, reset)
        if begins is None and now < reset + timedelta(hours=1):
            return week(0, None)
        return week(2 if now < reset + timedelta(hours=20) else 19, second)

    simulation = Simulation(world, at("12:00:00"), make_state(1))
    simulation.run(reset + timedelta(hours=12))
    if restarted:
        simulation.restart()
    simulation.run(reset + timedelta(days=1))
    shown = simulation.shown[-1].window("seven_day")
    assert shown["duration_hours"] == days * 24
    assert shown["elapsed"] == pytest.approx(100 / days, abs=0.1)
    assert shown["projected"] == pytest.approx(19 * days, abs=1)
    assert [event.event_type for event in simulation.events] == ["reset"]


def test_a_week_whose_beginning_was_not_seen_counts_as_a_whole_one() -> None:
    """After days without a reading a reset in between is not known: a week has seven days."""
    reset = at("12:40:00")
    entries = {at("12:00:00"): week(80, reset), reset: week(2, reset + timedelta(days=5))}
    simulation = Simulation(sequence(entries), at("12:00:00"), make_state(1))
    simulation.run(at("12:10:00"))
    simulation.now += timedelta(days=2)
    simulation.run(simulation.now + timedelta(minutes=10))
    assert simulation.shown[-1].window("seven_day")["duration_hours"] == 168


@pytest.mark.parametrize("seed", SEEDS)
def test_the_old_number_under_the_new_reset(seed: int) -> None:
    """After a reset the old percentage is not shown as the new window's, and causes no event."""
    simulation = replay("rollover_old_percent_with_new_reset", until=at("14:10:00"), seed=seed)
    new = [value for value, reset in values(simulation, "five_hour") if reset and "T17:05" in reset]
    assert [value for value in new if value is not None] == [12.0, 80.0]
    happened = [(event.event_type, event.threshold) for event in simulation.events if event.window]
    reset = happened.index(("reset", None))
    assert happened[reset:] == [("reset", None), ("threshold_reached", 75)]
    assert at("12:06:00") < simulation.events[reset].at < at("12:12:00")
    assert "blocked" not in simulation.event_types


@pytest.mark.parametrize("seed", SEEDS)
def test_a_spike(seed: int) -> None:
    """100 % in one poll is ignored; 80 % and 100 % that last are published with their events, within 90 seconds."""
    simulation = replay("spike_to_100_in_the_same_window", until=at("14:50:00"), seed=seed, one_poll=(at("13:00:00"),))
    assert [value for value, _ in values(simulation, "five_hour")] == [12.0, 13.0, 80.0, 100.0]
    happened = [(event.event_type, event.threshold) for event in simulation.events if event.window]
    assert happened == [("threshold_reached", 75), ("threshold_reached", 90), ("limit_reached", None)]
    seen = next(poll for poll in simulation.polls if poll >= at("13:40:00"))
    published = next(s.at for s in simulation.shown if s.window("five_hour")["utilization"] == 80)
    assert published - seen <= timedelta(seconds=90)
    assert sum(at("13:00:00") <= poll < at("13:40:00") for poll in simulation.polls) <= 11


OPUS = {"seven_day_opus": {"utilization": 12, "resets_at": str(at("06:40:00", day=30))}}
GONE: dict[str, Any] = {"seven_day_opus": None}
PLACEHOLDER = {"utilization": 0.0, "resets_at": None}
RENAMED = GONE | {"cinder_cove": OPUS["seven_day_opus"]}


@pytest.mark.parametrize(
    ("before", "after", "stays"),
    [
        (OPUS | {"cinder_cove": None}, RENAMED, True),  # a code name may exist, as null, long before it is used
        (OPUS | {"cinder_cove": PLACEHOLDER}, RENAMED, True),
        (OPUS, RENAMED, True),
        (OPUS, GONE | {"amber_gauge": None}, False),  # and one that is still unused is not a new name for a window
        (OPUS, GONE | {"amber_gauge": PLACEHOLDER}, False),
        (OPUS, GONE, False),
    ],
)
def test_a_window_under_another_name_keeps_its_entities(
    before: dict[str, Any], after: dict[str, Any], *, stays: bool
) -> None:
    """A window that the API renames is not removed; one that it drops is, a day later."""
    main = week(12, at("06:40:00", day=30))
    world = {at("12:00:00"): main | before, at("13:00:00"): main | after}
    simulation = Simulation(sequence(world), at("12:00:00"), make_state(1))
    simulation.run(at("16:00:00", day=26))
    assert ("seven_day_opus" in simulation.state.usage.windows) is stays


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("name", "stays"), [("usage_credits", True), ("member_dashboard_available", False)])
def test_extra_usage_under_another_name_keeps_its_entities(name: str, *, stays: bool, restarted: bool) -> None:
    """Extra usage that the API renames is not removed; if it drops it, it is, whatever else it always reports."""
    main = week(12, at("06:40:00", day=30)) | {"member_dashboard_available": True}
    money = {"is_enabled": True, "monthly_limit": 2000, "used_credits": 150, "currency": "USD"}
    world = {at("12:00:00"): main | {"extra_usage": money}, at("12:00:30"): main | {"extra_usage": None, name: money}}
    simulation = Simulation(sequence(world), at("12:00:00"), make_state(1))
    simulation.run(at("13:00:00"))
    if restarted:
        simulation.restart()
    simulation.run(at("16:00:00", day=26))
    assert simulation.state.usage.has_extra_usage is stays


def test_a_malformed_pool_is_not_gone() -> None:
    """A pool of dollars whose number cannot be read is shown until it is too old, and blocks as before."""

    def pool(utilization: object) -> dict[str, Any]:
        section = {"utilization": utilization, "resets_at": None, "limit_dollars": 1000, "used_dollars": None}
        return week(12, at("06:40:00", day=30)) | {"cinder_cove": section}

    world = {at("12:00:00"): pool(40), at("12:10:00"): pool("soon"), at("12:20:00"): pool(None)}
    simulation = Simulation(sequence(world), at("12:00:00"), make_state(1))
    simulation.run(at("12:25:00"))
    assert [value for value, _ in values(simulation, "pool_cinder_cove")] == [40]
    simulation.run(at("16:00:00", day=26))
    assert [value for value, _ in values(simulation, "pool_cinder_cove")] == [40, None]
    assert simulation.shown[-1].state["blocked"] is None


# Refusals


def refused(name: str) -> ApiError:
    """Return the error of a case."""
    given = case(name)
    body = given["body"] if isinstance(given["body"], str) else json.dumps(given["body"])
    with pytest.raises(ApiError) as caught:
        interpret(given["status"], httpx.Headers(given["headers"]), body.encode(), at("12:00:00"))
    return caught.value


def polls_after(name: str, hours: float) -> list[float]:
    """Return after how many minutes the refusal was asked again, while it lasts."""

    def world(_now: datetime) -> Any:
        raise refused(name)

    simulation = Simulation(world, at("12:00:00"), make_state(3))
    simulation.run(at("12:00:00") + timedelta(hours=hours))
    return [(poll - at("12:00:00")).total_seconds() / 60 for poll in simulation.polls[1:]]


def test_an_organization_without_access() -> None:
    """The sentence does not advise logging in again, since that would not help."""
    error = refused("http_401_oauth_not_allowed_for_organization")
    assert error.status == "unauthorized"
    assert "organization" in str(error)
    assert "log in" not in str(error)


@pytest.mark.parametrize("name", ["http_403_request_not_allowed", "http_403_html_challenge"])
def test_a_refused_network_is_transient(name: str) -> None:
    """A refused VPN, proxy or region is tried again automatically, less and less often."""
    error = refused(name)
    assert error.status == "network_error"
    waits = polls_after(name, 1.5)
    assert waits[0] < 1
    assert 8 <= waits[-1] - waits[-2] <= 11.5
    assert len(waits) < 20


def test_a_scope_refusal_without_the_usual_words() -> None:
    """A token that may not read the usage is recognized by the code of the refusal."""
    assert refused("http_403_scope_any_of").status == "insufficient_scope"


def test_a_retry_after_is_waited_out_with_a_margin() -> None:
    """The wait is 3000 s, and 15 minutes more, since many blocks are followed by another one."""
    assert polls_after("http_429_3000", 1.5)[0] == pytest.approx(65, abs=0.1)


def test_a_retry_after_of_zero_is_not_a_permission() -> None:
    """The hourly window is full: at least five minutes pass, then more each time."""
    waits = polls_after("http_429_zero", 3)
    assert waits[0] >= 5
    assert waits[-1] - waits[-2] == pytest.approx(30, abs=0.1)


def test_every_case_is_tested() -> None:
    """No report is forgotten: each recorded response appears in a test of this module."""
    text = Path(__file__).read_text()
    names = [json.loads(path.read_text()) for path in CASES.glob("*.json")]
    recorded = {found["name"] for found in names if found.get("kind") in ("api", "headers")}
    assert {name for name in recorded if f'"{name}"' not in text} == set()
    assert len(recorded) >= 28
