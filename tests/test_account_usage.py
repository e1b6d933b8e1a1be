"""All of an account: windows and money that come and go, another account, a partial answer, a clock that is set."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from claude_usage_mqtt.usage.account import MAX_WINDOWS, AccountUsage
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import SESSION, STATUSLINE, WEEK, ExtraUsage
from parts.readings import RESET, START, make_answer, make_reading, make_usage, minutes, shown

MONEY = ExtraUsage(enabled=True, used=1.9, limit=17.0, utilization=11.18, currency="EUR")
HOUR = timedelta(hours=1)
OPUS = "seven_day_opus"


def answer(usage: AccountUsage, at: datetime, *keys: str, money: ExtraUsage | None = None) -> list[Event]:
    """Take in an answer that has these windows."""
    windows = [make_reading(at, 10, START + 2 * WEEK, key=key) for key in keys]
    return usage.answered(make_usage(at, *windows, money=money), (75,))


def follow(
    usage: AccountUsage, begin: datetime, span: timedelta, *keys: str, every: float = 5, money: ExtraUsage | None = None
) -> datetime:
    """Take in answers that have these windows, for a while; return the instant of the last."""
    at = begin
    while at + timedelta(minutes=every) <= begin + span:
        at += timedelta(minutes=every)
        answer(usage, at, *keys, money=money)
    return at


def test_a_window_shows_as_soon_as_it_is_seen() -> None:
    """A model that is new needs no restart."""
    usage = AccountUsage("default")
    assert not usage.is_known
    answer(usage, START, "seven_day")
    answer(usage, minutes(5), "seven_day", OPUS)
    assert list(usage.document(minutes(5))["windows"]) == ["seven_day", OPUS]
    assert shown(usage, minutes(5), OPUS)["utilization"] == 10
    assert usage.is_known


def test_a_window_that_an_answer_lacks_is_unknown_at_once() -> None:
    """Its key stays, with nothing in it, until its entities are taken back; back again, it is known."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS)
    answer(usage, minutes(5), "seven_day")
    window = shown(usage, minutes(5), OPUS)
    assert {key for key, value in window.items() if value is not None} == {"label", "duration_hours", "source"}
    answer(usage, minutes(10), "seven_day", OPUS)
    assert shown(usage, minutes(10), OPUS)["utilization"] == 10
    assert usage.tracks[OPUS].absent_for == timedelta(0)


@pytest.mark.parametrize("every", [5, 30, 66])
def test_a_window_is_taken_back_after_a_day_of_good_answers_and_then_gone(every: float) -> None:
    """A day without it, then an hour in which the order to remove stands, whatever the interval; then nothing."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS)
    at, retired_at, gone_at = START, None, None
    while at < START + timedelta(hours=30):
        at += timedelta(minutes=every)
        answer(usage, at, "seven_day")
        track = usage.tracks.get(OPUS)
        if track is not None and track.is_retired and retired_at is None:
            retired_at = at
        if track is None and gone_at is None:
            gone_at = at
    assert retired_at is not None
    assert gone_at is not None
    assert timedelta(hours=24) <= retired_at - minutes(every) <= timedelta(hours=24, minutes=every)
    assert gone_at - retired_at >= timedelta(hours=1)
    assert OPUS not in usage.document(at)["windows"]


def test_gaps_are_no_good_answers() -> None:
    """A week without the API takes no entity back; only answers that lack the window do."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS)
    at = minutes(5)
    answer(usage, at, "seven_day")
    for _ in range(7):
        at += timedelta(days=1)
        answer(usage, at, "seven_day")
    assert not usage.tracks[OPUS].is_retired
    assert usage.tracks[OPUS].absent_for < timedelta(hours=9)


def test_the_order_to_remove_is_never_skipped() -> None:
    """However much time the answer stands for that completes the day, the order stands an hour from then on."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS, money=MONEY)
    at = follow(usage, START, timedelta(hours=23, minutes=58), "seven_day")
    answer(usage, at + timedelta(minutes=69), "seven_day")
    assert usage.tracks[OPUS].is_retired
    assert not usage.has_extra_usage
    at = follow(usage, at + timedelta(minutes=69), timedelta(minutes=55), "seven_day")
    assert usage.tracks[OPUS].is_retired
    assert usage.extra_usage_absent_for is not None
    follow(usage, at, timedelta(minutes=10), "seven_day")
    assert OPUS not in usage.tracks
    assert usage.extra_usage_absent_for is None


def test_a_short_return_begins_the_day_anew() -> None:
    """Twenty hours away, back once, twenty hours away: its entities stay."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS)
    at = follow(usage, START, 20 * HOUR, "seven_day")
    at = follow(usage, at, timedelta(minutes=5), "seven_day", OPUS)
    follow(usage, at, 20 * HOUR, "seven_day")
    assert not usage.tracks[OPUS].is_retired


def test_a_window_that_returns_while_it_is_taken_back_is_a_window_again() -> None:
    """The order to remove is withdrawn, and the numbers are there."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS)
    at = follow(usage, START, timedelta(hours=24, minutes=15), "seven_day")
    assert usage.tracks[OPUS].is_retired
    answer(usage, at + HOUR / 12, "seven_day", OPUS)
    assert not usage.tracks[OPUS].is_retired
    assert shown(usage, at + HOUR / 12, OPUS)["utilization"] == 10


def test_a_renamed_model_is_a_new_window_and_the_old_one_goes() -> None:
    """No restart is needed, and after a day only the new name is left."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS)
    at = follow(usage, START, timedelta(hours=26), "seven_day", "seven_day_fable")
    assert list(usage.document(at)["windows"]) == ["seven_day", "seven_day_fable"]


def test_the_events_of_a_window_that_was_away_are_told_when_it_is_back() -> None:
    """A reset while the window was missing from the answers fires once, late."""
    usage = AccountUsage("default")
    usage.answered(make_answer(START, 80), (75,))
    assert usage.answered(make_usage(minutes(200)), (75,)) == []
    assert usage.answered(make_usage(minutes(310)), (75,)) == []
    events = usage.answered(make_answer(minutes(320), 2, RESET + SESSION), (75,))
    assert [(event.event_type, event.resets_at) for event in events] == [("reset", RESET)]


def test_another_account_starts_afresh() -> None:
    """Other credentials: the numbers are unknown at once, and the other account's are no reset and no threshold."""
    usage = AccountUsage("default")
    assert not usage.identify(None)
    assert not usage.identify("aa" * 8)
    usage.answered(make_usage(START, make_reading(START, 80), money=MONEY), (75,))
    assert not usage.identify("aa" * 8)
    assert not usage.identify(None)
    assert usage.identify("bb" * 8)
    document = usage.document(START)
    assert shown(usage, START)["utilization"] is None
    assert document["extra_usage"] is None
    assert document["plan"] is None
    assert usage.resets() == []
    assert usage.answered(make_answer(minutes(5), 95, RESET + HOUR), (75,)) == []
    assert shown(usage, minutes(5))["utilization"] == 95
    assert usage.answered(make_answer(minutes(10), 76, RESET + HOUR), (75,)) == []
    assert usage.answered(make_answer(minutes(15), 100, RESET + HOUR), (75,))[0].event_type == "limit_reached"
    assert shown(usage, minutes(15))["burn_rate"] == pytest.approx(30)


def test_another_account_without_a_window_gives_it_back_like_any() -> None:
    """What only the former account had is taken back after a day."""
    usage = AccountUsage("default")
    usage.identify("aa" * 8)
    answer(usage, START, "seven_day", OPUS)
    usage.identify("bb" * 8)
    at = follow(usage, START, timedelta(hours=26), "seven_day")
    assert list(usage.document(at)["windows"]) == ["seven_day"]


def test_extra_usage_comes_and_goes_like_a_window() -> None:
    """No entities before it is seen, none a day after it was last seen, and unknown at once where it lacks."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day")
    assert not usage.has_extra_usage
    at = follow(usage, START, HOUR, "seven_day", money=MONEY)
    assert usage.has_extra_usage
    assert usage.document(at)["extra_usage"] == {
        "enabled": True,
        "used": 1.9,
        "limit": 17,
        "remaining": 15.1,
        "utilization": 11.18,
        "currency": "EUR",
    }
    at = follow(usage, at, 23 * HOUR, "seven_day")
    assert usage.document(at)["extra_usage"] is None
    assert usage.has_extra_usage
    at = follow(usage, at, timedelta(hours=1, minutes=30), "seven_day")
    assert not usage.has_extra_usage
    assert usage.extra_usage_absent_for is not None
    at = follow(usage, at, HOUR, "seven_day")
    assert usage.extra_usage_absent_for is None
    answer(usage, at + HOUR, "seven_day", money=MONEY)
    assert usage.has_extra_usage


def test_the_currency_stays_known_while_the_amounts_are_not() -> None:
    """An answer without the money does not take the unit from its entities."""
    usage = AccountUsage("default")
    answer(usage, START, money=MONEY)
    answer(usage, minutes(65))
    assert usage.currency == "EUR"
    assert usage.extra_usage_absent_for == timedelta(0)
    answer(usage, minutes(70), money=replace(MONEY, currency=None))
    assert usage.currency == "EUR"


def test_no_more_windows_are_followed_than_a_house_can_bear() -> None:
    """Answers that name new models without end do not fill broker and memory."""
    usage = AccountUsage("default")
    for number in range(20):
        answer(usage, minutes(5 * number), *(f"seven_day_m{number}x{n}" for n in range(20)))
    assert len(usage.tracks) == MAX_WINDOWS


def test_a_change_is_noticed_whatever_changes() -> None:
    """The schedule asks seldom only while neither use nor resets nor money move."""
    usage = AccountUsage("default")
    follow(usage, START, 2 * HOUR, "seven_day")
    assert usage.last_change == minutes(5)
    at = follow(usage, minutes(120), timedelta(minutes=5), "seven_day", money=MONEY)
    assert usage.last_change == at
    usage.answered(make_usage(minutes(130), make_reading(minutes(130), 10.5, START + 2 * WEEK, key="seven_day")), ())
    assert usage.last_change == minutes(130)


def test_an_overtaken_answer_does_not_turn_back_the_time() -> None:
    """While a slow poll was under way the status line told of the reset; the poll's older answer changes nothing."""
    usage = AccountUsage("default")
    usage.answered(make_answer(minutes(290), 80), (75,))
    newer = make_usage(minutes(301), make_reading(minutes(301), 1, RESET + SESSION, source=STATUSLINE))
    assert [event.event_type for event in usage.glimpsed(newer, (75,))] == ["reset"]
    assert usage.answered(make_answer(minutes(300.9), 80), (75,)) == []
    assert shown(usage, minutes(301))["utilization"] == 1
    assert usage.answered(make_answer(minutes(306), 2, RESET + SESSION), (75,)) == []
    usage.answered(make_answer(minutes(305.9), 1.5, RESET + SESSION), ())
    assert shown(usage, minutes(306))["utilization"] == 2


def test_the_status_line_takes_nothing_away() -> None:
    """It tells of two windows at most: what it lacks stays, and its own have its name as their source."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS, money=MONEY)
    usage.glimpsed(make_usage(minutes(1), make_reading(minutes(1), 5, source=STATUSLINE)), ())
    document = usage.document(minutes(1))
    assert document["windows"][OPUS]["utilization"] == 10
    assert document["windows"]["five_hour"]["source"] == "statusline"
    assert document["extra_usage"] is not None


def test_a_talkative_status_line_does_not_keep_what_is_gone() -> None:
    """The day after which a window is taken back is one of whole answers, whatever is told between them."""
    usage = AccountUsage("default")
    answer(usage, START, "seven_day", OPUS)
    for minute in range(1, 27 * 60):
        at = minutes(minute)
        if minute % 5 == 0:
            answer(usage, at, "seven_day")
        else:
            usage.glimpsed(make_usage(at, make_reading(at, minute / 100, RESET + 10 * SESSION)), ())
    assert OPUS not in usage.tracks


@pytest.mark.parametrize("step", [-HOUR, 30 * HOUR])
def test_a_clock_that_is_set_makes_no_event_and_takes_nothing_back(step: timedelta) -> None:
    """Where the clock was wrong before, what was noted moves along, and the same answers say the same."""
    usage = AccountUsage("default")
    reset = START + 2 * WEEK
    for minute in (0, 5):
        answer(usage, minutes(minute), "seven_day", OPUS)
    answer(usage, minutes(10), "seven_day")
    usage.shift(step)
    assert answer(usage, minutes(15) + step, "seven_day") == []
    assert usage.tracks[OPUS].absent_for == timedelta(minutes=5)
    assert usage.tracks["seven_day"].resets_at == reset
    assert usage.tracks["seven_day"].read_at == minutes(15) + step
    assert usage.tracks[OPUS].read_at == minutes(5) + step
    assert usage.last_answer == usage.last_whole == minutes(15) + step


def test_a_clock_that_is_set_unnoticed_does_not_stop_the_numbers() -> None:
    """An answer that seems an hour older than the last one is shown all the same."""
    usage = AccountUsage("default")
    usage.answered(make_answer(minutes(100), 10), ())
    usage.answered(make_answer(minutes(45), 12), ())
    assert shown(usage, minutes(45))["utilization"] == 12
