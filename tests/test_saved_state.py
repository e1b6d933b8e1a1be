"""What survives a restart: everything that is needed, from documents that cannot be trusted."""

import json
import math
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.usage.absence import ENTITIES_KEPT
from claude_usage_mqtt.usage.account import AccountUsage, Plan
from claude_usage_mqtt.usage.derived import MAX_SAMPLES
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.reading import MAX_WINDOWS, SESSION, WEEK, ExtraUsage, Owner
from claude_usage_mqtt.usage.saved_state import WINDOW_KEY, restore, save
from parts.hostile import values
from parts.readings import RESET, START, make_account, make_answer, make_reading, make_usage, minutes, shown, take

NOW = minutes(121)
MONEY = ExtraUsage(enabled=True, used=1.9, limit=None, utilization=None, currency="EUR")


def lived() -> AccountUsage:
    """Return an account with a past of two hours: a session that burns, a week, a model that is missing, money."""
    usage = make_account()
    usage.identify(Owner(organization="ab" * 8))
    for minute in range(0, 121, 5):
        at = minutes(minute) + timedelta(microseconds=123_456)
        windows = [make_reading(at, minute / 2, RESET), make_reading(at, 20, START + 4 * SESSION, key="seven_day")]
        if minute < 60:
            windows.append(make_reading(at, 7.25, START + 5 * SESSION, key="seven_day_opus"))
        take(usage, make_usage(at, *windows, money=MONEY), (75,))
    usage.plan = Plan("max")
    return usage


def restarted(
    usage: AccountUsage, now: datetime = NOW, *, has_memory: bool = True, has_state: bool = True
) -> AccountUsage:
    """Return what a fresh start makes of what was retained."""
    memory = json.loads(json.dumps(save(usage), allow_nan=False)) if has_memory else None
    state = json.loads(json.dumps(state_document(usage, now), allow_nan=False)) if has_state else None
    fresh = make_account()
    restore(fresh, memory, state, now)
    return fresh


def test_a_restart_changes_no_number() -> None:
    """What is published after a restart is what was there before, burn rate and prediction included."""
    usage = lived()
    later = NOW + timedelta(minutes=3)
    fresh = restarted(usage, later)
    assert state_document(fresh, later) == state_document(usage, later)
    assert shown(fresh, later)["burn_rate"] == 30
    assert shown(fresh, later)["limit_at"] is not None
    assert (fresh.owner, fresh.currency) == (usage.owner, usage.currency)
    assert save(fresh) == save(usage)


def test_events_fire_once_over_a_restart() -> None:
    """Events that were reported are not reported again; later ones are."""
    usage = make_account()
    take(usage, make_answer(START, 70), (75, 90))
    assert len(take(usage, make_answer(minutes(5), 80), (75, 90))) == 1
    take(usage, make_answer(minutes(10), 60), (75, 90))
    fresh = restarted(usage, minutes(11))
    assert take(fresh, make_answer(minutes(15), 80), (75, 90)) == []
    fresh = restarted(fresh, minutes(16))
    events = take(fresh, make_answer(minutes(400), 91, minutes(500)), (75, 90))
    assert [event.event_type for event in events] == ["reset", "threshold_reached"]
    assert events[0].resets_at == RESET
    fresh = restarted(fresh, minutes(401))
    assert take(fresh, make_answer(minutes(405), 92, minutes(500)), (75, 90)) == []


def test_a_reset_that_happened_while_away_fires_late() -> None:
    """The numbers were unknown when the program came back; the reset is still reported, once."""
    usage = make_account()
    take(usage, make_answer(START, 70), ())
    fresh = restarted(usage, minutes(400))
    assert shown(fresh, minutes(400))["utilization"] is None
    events = take(fresh, make_answer(minutes(401), 0, None), ())
    assert [(event.event_type, event.previous_utilization) for event in events] == [("reset", 70)]


def test_the_state_alone_serves() -> None:
    """An older version, or an emptied health topic: numbers, money and events are restored from the state document."""
    usage = lived()
    fresh = restarted(usage, has_memory=False)
    before, after = state_document(usage, NOW), state_document(fresh, NOW)
    for window in (*before["windows"].values(), *after["windows"].values()):
        del window["burn_rate"], window["limit_at"], window["read_at"]
    assert after == before
    assert fresh.has_extra_usage
    assert fresh.currency == "EUR"
    assert take(fresh, make_answer(minutes(125), 60), (30, 75)) == []
    assert len(take(fresh, make_answer(minutes(130), 75), (30, 75))) == 1
    events = take(restarted(fresh, minutes(131), has_memory=False), make_answer(minutes(302), 0, None))
    assert [event.event_type for event in events] == ["reset"]


def test_the_state_alone_shows_a_reset_while_away() -> None:
    """Old numbers in the state belong to a window that is over, whenever the program comes back."""
    usage, fresh = make_account(), make_account()
    take(usage, make_answer(START, 70), ())
    restore(fresh, None, state_document(usage, START), minutes(599.5))
    assert shown(fresh, minutes(599.5))["utilization"] is None
    events = take(fresh, make_answer(minutes(599.6), 80, minutes(600)), (75,))
    assert [event.event_type for event in events] == ["reset", "threshold_reached"]


def test_a_reset_that_is_not_a_whole_minute_becomes_one() -> None:
    """Resets are published as whole minutes, whatever was retained."""
    fresh, memory = make_account(), deepcopy(MEMORY)
    memory["windows"]["five_hour"]["resets_at"] = "2026-11-20T14:59:47.5+00:00"
    restore(fresh, memory, None, NOW)
    assert shown(fresh, NOW)["resets_at"] == RESET.isoformat()


def test_the_state_alone_knows_what_is_announced() -> None:
    """A window without numbers keeps its entities, and its next reading counts as the first."""
    usage = lived()
    fresh = restarted(usage, has_memory=False)
    assert "seven_day_opus" in state_document(fresh, NOW)["windows"]
    at = minutes(125)
    back = make_usage(at, make_reading(at, 99, START + 5 * SESSION, key="seven_day_opus"))
    assert take(fresh, back, (75,)) == []


def test_the_memory_alone_serves() -> None:
    """If only the state was lost, nothing is unknown."""
    usage = lived()
    fresh = restarted(usage, has_state=False)
    assert fresh.has_extra_usage
    assert state_document(fresh, NOW) == state_document(usage, NOW)


def test_a_removal_continues_over_a_restart() -> None:
    """The day without a window, and the hour of its removal, do not start over with each restart."""
    usage = make_account()
    at = START
    take(usage, make_usage(at, make_reading(at, 5, START + 5 * SESSION, key="seven_day_opus"), money=MONEY), ())
    was_retired = False
    while "seven_day_opus" in usage.windows or usage.money is not None:
        at += timedelta(minutes=30)
        take(usage, make_usage(at, make_reading(at, 5, None)), ())
        usage = restarted(usage, at) if usage.windows else usage
        was_retired |= any(window.is_retired for window in usage.windows.values())
        assert at < START + timedelta(hours=27)
    assert was_retired
    assert at >= START + timedelta(hours=25)


def test_another_account_is_noticed_over_a_restart() -> None:
    """Logging in as somebody else while the program is away is not a reset either."""
    usage = make_account()
    usage.identify(Owner(organization="aa" * 8))
    take(usage, make_answer(START, 80), (75,))
    fresh = restarted(usage, minutes(5))
    assert fresh.identify(Owner(organization="bb" * 8))
    fresh = restarted(fresh, minutes(6))
    assert shown(fresh, minutes(6))["utilization"] is None
    assert take(fresh, make_answer(minutes(10), 3, minutes(200)), (75,)) == []


def test_an_empty_broker_is_not_a_memory() -> None:
    """On an empty broker the program starts from nothing."""
    for memory, state in ((None, None), ({}, {}), ([], "x"), ({"format": 99}, None)):
        usage = make_account()
        restore(usage, memory, state, NOW)
        assert not usage.is_known
        assert state_document(usage, NOW)["windows"] == {}


def test_a_foreign_format_is_left_and_the_state_serves() -> None:
    """A memory in another version's format is not guessed at."""
    fresh = make_account()
    restore(fresh, MEMORY | {"format": 99}, STATE, NOW)
    assert fresh.owner == Owner()
    assert shown(fresh, NOW)["utilization"] == 60


def test_nothing_is_fresh_while_the_clock_is_behind() -> None:
    """A clock that is behind (no battery, no network yet) makes neither the old numbers nor its own readings fresh."""
    usage = lived()
    fresh = restarted(usage, minutes(30))
    check(fresh, minutes(30))
    take(fresh, make_answer(minutes(35), 45), ())
    assert not fresh.is_fresh(minutes(35))
    take(fresh, make_answer(minutes(125), 65), ())
    assert shown(fresh, minutes(125))["utilization"] == 65


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("label", value) for value in ("\x1b\x07", None)),
        *(("utilization", value) for value in ("12", math.nan, -1, True)),
        *(("resets_at", value) for value in ("soon", 17, "2027-11-20T15:00:00+00:00")),
    ],
)
def test_a_damaged_window_is_left_out_and_takes_no_other_with_it(key: str, value: Any) -> None:
    """One bad entry costs one window."""
    fresh, memory = make_account(), deepcopy(MEMORY)
    memory["windows"]["five_hour"][key] = value
    restore(fresh, memory, None, NOW)
    assert set(fresh.windows) == {"seven_day", "seven_day_opus"}


@pytest.mark.parametrize("key", ["five_hour ", "seven_day/x", "seven_day_{{ x }}", "Seven_day", "x", "seven_day_" * 9])
def test_a_hostile_key_is_not_a_window(key: str) -> None:
    """Keys become topics and templates, so those on the broker are trusted no more than the API's."""
    fresh = make_account()
    restore(fresh, MEMORY | {"windows": {key: MEMORY["windows"]["five_hour"]}}, None, NOW)
    assert fresh.windows == {}


def check(usage: AccountUsage, now: datetime) -> None:
    """Check that everything in it is finite, bounded, and in the past if it is about the past."""
    document = state_document(usage, now)
    text = json.dumps([document, save(usage)], allow_nan=False)
    assert len(text) < 400_000
    text.encode()
    assert len(usage.windows) <= MAX_WINDOWS
    for instant in (usage.history.last_read, usage.history.last_complete, usage.history.last_change):
        assert instant is None or instant <= now + WEEK
    for key, window in usage.windows.items():
        assert WINDOW_KEY.fullmatch(key)
        assert window.label.isprintable()
        assert window.read_at <= now + WEEK
        assert all(sample.at <= now + WEEK and math.isfinite(sample.utilization) for sample in window.samples)
        assert len(window.samples) <= MAX_SAMPLES
        assert window.absent_for <= 3 * ENTITIES_KEPT
        published = document["windows"][key]
        resets_at = parse_instant(published["resets_at"])
        assert resets_at is None or (resets_at.second == 0 and resets_at <= now + 2 * (window.duration or WEEK))
        limit_at = parse_instant(published["limit_at"])
        assert limit_at is None or (resets_at is not None and now < limit_at < resets_at)
        assert published["utilization"] is None or 0 <= published["utilization"] <= 200


def places(document: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON document that could hold something else."""
    found: list[tuple[Any, Any]] = []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        found.append((document, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


MEMORY, STATE = save(lived()), state_document(lived(), NOW)


@given(st.data(), st.booleans())
@settings(max_examples=100)
def test_no_damage_breaks_the_start(data: st.DataObject, has_memory: bool) -> None:  # noqa: FBT001
    """Whatever has replaced one of our numbers, the start survives it and publishes nothing absurd."""
    memory, state = deepcopy(MEMORY) if has_memory else None, deepcopy(STATE)
    for _ in range(data.draw(st.integers(1, 4))):
        container, key = data.draw(st.sampled_from(places([memory or {}, state])))
        if isinstance(container, list) or key in container:
            container[key] = data.draw(values)
    usage = make_account()
    restore(usage, memory, state, NOW)
    check(usage, NOW)
    later = NOW + 8 * SESSION + WEEK  # when nothing can still be in the future
    for at in (later, later + timedelta(minutes=1)):
        take(usage, make_answer(at, 41, later + SESSION / 2), (75,))
    check(usage, later + timedelta(minutes=1))
    assert shown(usage, later + timedelta(minutes=1))["utilization"] == 41


@given(values, values)
def test_no_document_at_all_breaks_the_start(memory: Any, state: Any) -> None:
    """Documents that others put on our topics are ignored."""
    usage = make_account()
    restore(usage, memory, state, NOW)
    check(usage, NOW)


def test_a_memory_without_end_is_bounded() -> None:
    """A document with thousands of windows and samples fills neither memory nor broker."""
    memory = deepcopy(MEMORY)
    window = memory["windows"]["seven_day"]
    window["samples"] = [[int(START.timestamp()) - 10**5 + n, 1.0] for n in range(10**4)]
    memory["windows"] = {f"seven_day_m{n}": window for n in range(5000)}
    usage = make_account()
    restore(usage, memory, None, NOW)
    assert len(usage.windows) == MAX_WINDOWS
    check(usage, NOW)
