"""Extra usage over time: what is published of it, and what happens when it begins, runs out, or starts over."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from claude_usage_mqtt.service.documents import documents
from parts.simulation import TOPICS, Simulation, make_state

START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RESET = START + timedelta(hours=3)


def extra(used: int, limit: int | None = 2000, **more: Any) -> dict[str, Any]:
    """Return extra usage in cents."""
    return {"is_enabled": True, "monthly_limit": limit, "used_credits": used, "currency": "USD"} | more


BLANK = extra(0, None, is_enabled=False)
"""The amounts after an organization's cap has turned extra usage off: it is the same money afterward."""


def answer(utilization: float, money: object) -> dict[str, Any]:
    """Return a response with the session and extra usage."""
    return {"five_hour": {"utilization": utilization, "resets_at": str(RESET)}, "extra_usage": money}


def live(*answers: tuple[float, object]) -> Simulation:
    """Let an account live through responses, `(utilization, money)` for each poll; the last one stays."""
    waiting = [answer(*values) for values in answers]
    simulation = Simulation(lambda _: waiting.pop(0) if len(waiting) > 1 else waiting[0], START, make_state(0))
    simulation.run(START + timedelta(minutes=6 * len(answers)))
    return simulation


def happened(simulation: Simulation) -> list[str]:
    """Return the account's events without `extra_usage_`, thresholds with their number."""
    events = [(event.event_type, event.threshold) for event in simulation.events if event.window is None]
    names = [kind if threshold is None else f"{kind} {threshold:g}" for kind, threshold in events]
    return [name.removeprefix("extra_usage_") for name in names]


@pytest.mark.parametrize(
    ("answers", "events"),
    [
        # It covers a session that is used up, reaches its thresholds once, and runs out.
        (
            [(95, extra(100)), (100, extra(100)), (100, extra(1500)), (100, extra(1510))],
            ["started", "threshold_reached 75"],
        ),
        ([(100, extra(1900)), (100, extra(2000)), (100, extra(2000))], ["limit_reached", "blocked"]),
        # The organization's cap, a pool of nothing, and a switch turned off block; no limit at all does not.
        ([(95, extra(100)), (100, extra(100, disabled_reason="org_spend_cap_reached"))], ["blocked"]),
        ([(95, extra(0, 0)), (100, extra(0, 0))], ["blocked"]),
        ([(95, extra(100)), (100, extra(100, is_enabled=False))], ["blocked"]),
        ([(95, extra(0, None)), (100, extra(100, None))], ["started"]),
        # A prepaid balance ends before the limit does.
        ([(100, extra(100, balance=300)), (100, extra(400, balance=0))], ["limit_reached", "blocked"]),
        # A spent balance is the limit, whatever its percentage: one notification, without a threshold.
        ([(100, extra(1400, balance=300)), (100, extra(1700, balance=0))], ["limit_reached", "blocked"]),
        # Rounding and corrections below 100 % end neither a block nor the spending of money.
        ([(n, extra(0, 0)) for n in (95, 100, 99, 100, 98.5, 100)], ["blocked"]),
        ([(n, extra(100)) for n in (95, 100, 99, 100, 98.5, 100)], ["started"]),
        # A refill does.
        ([(n, extra(0, 0)) for n in (95, 100, 99, 60, 60)], ["blocked", "unblocked"]),
        # A new month, and a raised limit, arm the thresholds again.
        ([(5, extra(1900)), (5, extra(0)), (5, extra(1600))], ["threshold_reached 75"]),
        ([(5, extra(1900)), (5, extra(1900, 10_000)), (5, extra(8000, 10_000))], ["threshold_reached 75"]),
        # The API turns extra usage off in the same response that shows its limit reached.
        (
            [
                (5, extra(1450)),
                (5, extra(2057, is_enabled=False, disabled_reason="org_level_disabled_until")),
                (5, extra(2057, is_enabled=False, disabled_reason="org_level_disabled_until")),
                (5, extra(0)),
            ],
            ["threshold_reached 90", "limit_reached"],
        ),
        # A limit that was raised while it was off arms the thresholds again.
        ([(5, extra(1850)), (5, BLANK), (5, extra(1850, 10_000)), (5, extra(8000, 10_000))], ["threshold_reached 75"]),
        # A limit that is reached while it is off was not spent by anybody.
        ([(5, extra(100, is_enabled=False)), (5, extra(2057, is_enabled=False))], []),
        # A response without it in between does not hide anything.
        ([(5, extra(1400)), (5, None), (5, extra(1600))], ["threshold_reached 75"]),
        ([(5, extra(1900)), (5, None), (5, extra(0)), (5, extra(1600))], ["threshold_reached 75"]),
        # A malformed section in between changes nothing.
        ([(5, extra(1900)), (5, "soon"), (5, extra(1900))], []),
    ],
)
def test_events(answers: list[tuple[float, object]], events: list[str]) -> None:
    """Each thing that happens to extra usage is one event."""
    assert happened(live(*answers)) == events


@pytest.mark.parametrize(
    "off",
    [
        BLANK,
        {"is_enabled": False, "monthly_limit": None, "used_credits": None, "utilization": None},
        None,
    ],
)
def test_blanked_amounts_are_not_a_new_month(off: object) -> None:
    """Money that was not reported for a while is not counted twice in the statistics."""
    simulation = live((5, extra(1850)), (5, off), (5, extra(1860)))
    money = [shown.state["extra_usage"] for shown in simulation.shown if shown.state["extra_usage"]]
    assert {amounts["period_start"] for amounts in money} == {"2026-11-01T00:00:00+00:00"}
    assert money[-1]["used"] == 18.6
    assert happened(simulation) == []


def test_another_currency_is_counted_separately() -> None:
    """Dollars are not added to euros."""
    simulation = live((5, extra(1850, currency="EUR")), (5, extra(1850)))
    periods = [shown.state["extra_usage"]["period_start"] for shown in simulation.shown]
    assert periods[0] < periods[-1]
    assert happened(simulation) == []


def test_events_have_rounded_numbers() -> None:
    """A notification does not show the noise of a division."""
    (event,) = [event for event in live((5, extra(100)), (5, extra(1990))).events if event.window is None]
    document = event.document("default")
    assert (document["utilization"], document["previous_utilization"]) == (99.5, 5.0)
    assert (document["threshold"], document["thresholds"]) == (90.0, [75.0, 90.0])


@pytest.mark.parametrize(
    ("money", "amounts"),
    [
        ([extra(100)], {"used", "limit", "remaining", "utilization"}),
        ([extra(100, None)], {"used"}),
        ([extra(100, 0)], {"used"}),
        ([extra(100, None, balance=300)], {"used", "remaining"}),
        ([extra(100, None), extra(100)], {"used", "limit", "remaining", "utilization"}),
        ([extra(100), extra(100, None)], {"used"}),
        # A response without it takes nothing away.
        ([extra(100), None], {"used", "limit", "remaining", "utilization"}),
        ([extra(100, None), None], {"used"}),
        ([extra(100, is_enabled=False)], set()),
    ],
)
def test_an_account_without_a_limit_has_no_rows_for_one(money: list[object], amounts: set[str]) -> None:
    """An account without a spending limit does not have three rows that are "Unknown" forever."""
    responses: list[object] = []
    simulation = Simulation(lambda _: answer(5, responses[-1]), START, make_state(0))
    for response in (*money, money[-1]):
        responses.append(response)
        simulation.run(simulation.now + timedelta(minutes=12))
        announced = json.loads(dict(documents(simulation.state, simulation.now))[TOPICS.config])["components"]
        simulation.restart()
    shown = {key.removeprefix("extra_usage_") for key, row in announced.items() if "unique_id" in row}
    assert shown & {"used", "limit", "remaining", "utilization"} == amounts


def test_a_malformed_section_keeps_the_amounts() -> None:
    """What was read a moment ago is still shown, with its own time."""
    simulation = live((5, extra(1900)), (6, "soon"))
    state = simulation.shown[-1].state
    assert state["windows"]["five_hour"]["utilization"] == 6
    assert state["extra_usage"]["used"] == 19
    assert state["extra_usage"]["read_at"] < state["windows"]["five_hour"]["read_at"]
