"""A whole account: windows and money that come and go, another account, a partial answer, a clock that is set."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.document import state_document, tier_in_words
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import MAX_WINDOWS, SESSION, STATUSLINE, WEEK, ExtraUsage, Owner, Reading
from claude_usage_mqtt.usage.saved_state import restore, save
from parts.readings import RESET, START, make_account, make_answer, make_reading, make_usage, minutes, shown, take

MONEY = ExtraUsage(enabled=True, used=1.9, limit=17.0, utilization=11.18, currency="EUR")
HOUR = timedelta(hours=1)
OPUS = "seven_day_opus"


def answer(usage: AccountUsage, at: datetime, *keys: str, money: ExtraUsage | None = None) -> list[Event]:
    """Process an answer that has these windows."""
    windows = [make_reading(at, 10, START + 2 * WEEK, key=key) for key in keys]
    return take(usage, make_usage(at, *windows, money=money), (75,))


def follow(
    usage: AccountUsage, begin: datetime, span: timedelta, *keys: str, money: ExtraUsage | None = None
) -> datetime:
    """Process an answer that has these windows every five minutes, for a while; return the instant of the last."""
    at = begin
    while at + timedelta(minutes=5) <= begin + span:
        at += timedelta(minutes=5)
        answer(usage, at, *keys, money=money)
    return at


def test_a_window_that_an_answer_lacks_is_unknown_at_once(usage: AccountUsage) -> None:
    """Its key stays, with nothing in it, until its entities are removed; back again, it is known."""
    assert not usage.is_known
    answer(usage, START, "seven_day", OPUS)
    assert usage.is_known
    answer(usage, minutes(5), "seven_day")
    known = {key for key, value in shown(usage, minutes(5), OPUS).items() if value is not None}
    assert known == {"label", "duration_hours", "source", "read_at"}
    answer(usage, minutes(10), "seven_day", OPUS)
    assert shown(usage, minutes(10), OPUS)["utilization"] == 10
    assert usage.windows[OPUS].absent_for == timedelta(0)


@pytest.mark.parametrize("every", [5, 30, 66])
def test_a_window_is_removed_after_a_day_of_good_answers_and_then_gone(usage: AccountUsage, every: float) -> None:
    """A day without it, then an hour with its removal, whatever the interval; then nothing."""
    answer(usage, START, "seven_day", OPUS)
    at, retired = START, []
    while OPUS in state_document(usage, at)["windows"]:
        at += timedelta(minutes=every)
        answer(usage, at, "seven_day")
        if OPUS in usage.windows and usage.windows[OPUS].is_retired:
            retired.append(at)
    assert 24 * HOUR <= retired[0] - minutes(every) <= timedelta(hours=24, minutes=every)
    assert at - retired[0] >= HOUR


def test_gaps_are_not_good_answers(usage: AccountUsage) -> None:
    """A week without the API removes no entity; only answers that lack the window do."""
    answer(usage, START, "seven_day", OPUS)
    at = minutes(5)
    answer(usage, at, "seven_day")
    for _ in range(7):
        at += timedelta(days=1)
        answer(usage, at, "seven_day")
    assert not usage.windows[OPUS].is_retired
    assert usage.windows[OPUS].absent_for < timedelta(hours=9)


def test_the_removal_is_never_skipped(usage: AccountUsage) -> None:
    """However much time passes before the answer that completes the day, the removal is published for an hour."""
    answer(usage, START, "seven_day", OPUS, money=MONEY)
    at = follow(usage, START, timedelta(hours=23, minutes=58), "seven_day")
    answer(usage, at + timedelta(minutes=69), "seven_day")
    assert usage.windows[OPUS].is_retired
    assert not usage.has_extra_usage
    at = follow(usage, at + timedelta(minutes=69), timedelta(minutes=55), "seven_day")
    assert usage.windows[OPUS].is_retired
    assert usage.money is not None
    follow(usage, at, timedelta(minutes=10), "seven_day")
    assert OPUS not in usage.windows
    assert usage.money is None


def test_a_short_return_restarts_the_day(usage: AccountUsage) -> None:
    """Twenty hours away, back once, twenty hours away: its entities stay."""
    answer(usage, START, "seven_day", OPUS)
    at = follow(usage, START, 20 * HOUR, "seven_day")
    at = follow(usage, at, timedelta(minutes=5), "seven_day", OPUS)
    follow(usage, at, 20 * HOUR, "seven_day")
    assert not usage.windows[OPUS].is_retired


def test_a_window_that_returns_during_its_removal_is_a_window_again(usage: AccountUsage) -> None:
    """The removal is withdrawn, and the numbers are there."""
    answer(usage, START, "seven_day", OPUS)
    at = follow(usage, START, timedelta(hours=24, minutes=15), "seven_day")
    assert usage.windows[OPUS].is_retired
    answer(usage, at + HOUR / 12, "seven_day", OPUS)
    assert not usage.windows[OPUS].is_retired
    assert shown(usage, at + HOUR / 12, OPUS)["utilization"] == 10


def test_the_events_of_a_window_that_was_away_fire_when_it_is_back(usage: AccountUsage) -> None:
    """A reset while the window was missing from the answers fires once, late."""
    take(usage, make_answer(START, 80), (75,))
    assert take(usage, make_usage(minutes(200)), (75,)) == []
    assert take(usage, make_usage(minutes(310)), (75,)) == []
    events = take(usage, make_answer(minutes(320), 2, RESET + SESSION), (75,))
    assert [(event.event_type, event.resets_at) for event in events] == [("reset", RESET)]


def test_another_account_starts_over(usage: AccountUsage) -> None:
    """With other credentials the numbers are unknown at once, and the other account's cause no event."""
    assert not usage.identify(Owner())
    assert not usage.identify(Owner(organization="aa" * 8))
    take(usage, make_usage(START, make_reading(START, 80), money=MONEY), (75,))
    assert not usage.identify(Owner(organization="aa" * 8))
    assert not usage.identify(Owner())
    assert usage.identify(Owner(organization="bb" * 8))
    document = state_document(usage, START)
    assert shown(usage, START)["utilization"] is None
    assert document["extra_usage"] is None
    assert document["plan"] is None
    assert usage.windows.resets() == []
    assert take(usage, make_answer(minutes(5), 95, RESET + HOUR), (75,)) == []
    assert shown(usage, minutes(5))["utilization"] == 95
    assert take(usage, make_answer(minutes(10), 91, RESET + HOUR), (75,)) == []
    assert take(usage, make_answer(minutes(15), 100, RESET + HOUR), (75,))[0].event_type == "limit_reached"
    assert shown(usage, minutes(15))["burn_rate"] == pytest.approx(30)


def test_extra_usage_comes_and_goes_like_a_window(usage: AccountUsage) -> None:
    """No entities before it is seen, none a day after it was last seen, and unknown at once if it is missing."""
    answer(usage, START, "seven_day")
    assert not usage.has_extra_usage
    at = follow(usage, START, HOUR, "seven_day", money=MONEY)
    assert usage.has_extra_usage
    known = state_document(usage, at)["extra_usage"]
    assert (known["used"], known["remaining"], known["read_at"]) == (1.9, 15.1, at.isoformat())
    at = follow(usage, at, 23 * HOUR, "seven_day")
    assert state_document(usage, at)["extra_usage"] is None
    assert usage.has_extra_usage
    at = follow(usage, at, timedelta(hours=1, minutes=30), "seven_day")
    assert not usage.has_extra_usage
    assert usage.money is not None
    at = follow(usage, at, HOUR, "seven_day")
    assert usage.money is None
    answer(usage, at + HOUR, "seven_day", money=MONEY)
    assert usage.has_extra_usage


def test_the_currency_stays_known_while_the_amounts_are_not(usage: AccountUsage) -> None:
    """After an answer without the money, its entities keep their unit."""
    answer(usage, START, money=MONEY)
    answer(usage, minutes(65))
    assert usage.currency == "EUR"
    assert usage.money.absent_for == timedelta(0)
    answer(usage, minutes(70), money=replace(MONEY, currency=None))
    assert usage.currency == "EUR"


def test_the_number_of_windows_is_limited(usage: AccountUsage) -> None:
    """Answers that keep naming new models do not fill broker and memory."""
    for number in range(20):
        answer(usage, minutes(5 * number), *(f"seven_day_m{number}x{n}" for n in range(20)))
    assert len(usage.windows) == MAX_WINDOWS


def test_a_change_is_noticed_whatever_changes(usage: AccountUsage) -> None:
    """The policy polls rarely only while use, resets and money all stay the same."""
    follow(usage, START, 2 * HOUR, "seven_day")
    assert usage.history.last_change == minutes(5)
    at = follow(usage, minutes(120), timedelta(minutes=5), "seven_day", money=MONEY)
    assert usage.history.last_change == at
    take(usage, make_usage(minutes(130), make_reading(minutes(130), 10.5, START + 2 * WEEK, key="seven_day")), ())
    assert usage.history.last_change == minutes(130)


def test_an_older_answer_that_comes_late_changes_nothing(usage: AccountUsage) -> None:
    """While a slow poll was under way the status line reported the reset; the poll's older answer changes nothing."""
    take(usage, make_answer(minutes(290), 80), (75,))
    newer = make_usage(minutes(301), make_reading(minutes(301), 1, RESET + SESSION, source=STATUSLINE))
    assert [event.event_type for event in take(usage, newer, (75,), partial=True)] == ["reset"]
    assert take(usage, make_answer(minutes(300.9), 80), (75,)) == []
    assert shown(usage, minutes(301))["utilization"] == 1
    assert take(usage, make_answer(minutes(306), 2, RESET + SESSION), (75,)) == []
    take(usage, make_answer(minutes(305.9), 1.5, RESET + SESSION), ())
    assert shown(usage, minutes(306))["utilization"] == 2


def test_a_status_line_removes_nothing(usage: AccountUsage) -> None:
    """It reports at most two windows: what it lacks stays, and its own windows name it as their source."""
    answer(usage, START, "seven_day", OPUS, money=MONEY)
    take(usage, make_usage(minutes(1), make_reading(minutes(1), 5, source=STATUSLINE)), (), partial=True)
    document = state_document(usage, minutes(1))
    assert document["windows"][OPUS]["utilization"] == 10
    assert document["windows"]["five_hour"]["source"] == "statusline"
    assert document["extra_usage"] is not None


def test_frequent_status_lines_do_not_keep_what_is_gone(usage: AccountUsage) -> None:
    """Only complete responses count for the day after which a window is removed."""
    answer(usage, START, "seven_day", OPUS)
    for minute in range(1, 27 * 60):
        at = minutes(minute)
        if minute % 5 == 0:
            answer(usage, at, "seven_day")
        else:
            take(usage, make_usage(at, make_reading(at, minute / 100, RESET + 10 * SESSION)), (), partial=True)
    assert OPUS not in usage.windows


def test_after_a_backward_step_recorded_times_move(usage: AccountUsage) -> None:
    """A clock that was ahead and is corrected makes no event, removes nothing, and does not stop the numbers."""
    for minute in (0, 5):
        answer(usage, minutes(minute), "seven_day", OPUS)
    answer(usage, minutes(10), "seven_day")
    usage.clock_stepped(-HOUR)
    assert answer(usage, minutes(15) - HOUR, "seven_day") == []
    assert usage.windows[OPUS].absent_for == timedelta(minutes=5)
    assert usage.windows["seven_day"].resets_at == START + 2 * WEEK
    assert usage.windows["seven_day"].read_at == minutes(15) - HOUR
    assert usage.windows[OPUS].read_at == minutes(5) - HOUR


def test_after_a_forward_step_readings_age_by_it() -> None:
    """A paused machine and one whose clock was set late look the same: old numbers are not shown as fresh."""
    usage = make_account(stale_after=HOUR)
    answer(usage, START, "seven_day")
    usage.clock_stepped(8 * HOUR)
    assert shown(usage, START + 8 * HOUR, "seven_day")["utilization"] is None
    answer(usage, minutes(8 * 60 + 1), "seven_day")
    assert usage.is_fresh(START + 8 * HOUR + timedelta(minutes=2))


def test_each_number_has_its_own_age() -> None:
    """Frequent status lines do not make the model's week and the money of ten hours ago look fresh."""
    usage = make_account(stale_after=HOUR)
    answer(usage, START, "seven_day", OPUS, money=MONEY)
    at = START + 2 * HOUR
    take(usage, make_usage(at, make_reading(at, 12, RESET, source=STATUSLINE)), partial=True)
    document = state_document(usage, at)
    assert document["windows"]["five_hour"]["utilization"] == 12
    assert document["windows"][OPUS]["utilization"] is None
    assert document["windows"][OPUS]["resets_at"] is not None
    assert document["extra_usage"]["used"] is None
    assert usage.is_fresh(at)


def test_nobody_is_allowed_to_continue_while_a_limit_cannot_be_read() -> None:
    """With a session that is over, or a week of 900 %, the other window alone does not mean that work can continue."""
    week = make_reading(minutes(0), 19, START + timedelta(days=3), key="seven_day")
    over = make_reading(minutes(0), 55, minutes(-5))
    for reading in (
        make_usage(minutes(0), week, over),
        replace(make_usage(minutes(0), week), malformed=("five_hour",)),
    ):
        usage = make_account()
        take(usage, reading)
        restarted = make_account()
        restore(restarted, save(usage), None, minutes(1))
        assert [each.standing(minutes(1)).blocked for each in (usage, restarted)] == [None, None]
        take(usage, make_usage(minutes(2), replace(week, read_at=minutes(2)), make_reading(minutes(2), 3)))
        assert usage.standing(minutes(3)).blocked is False


def test_covered_work_may_continue_only_if_all_limits_are_known(usage: AccountUsage) -> None:
    """Extra usage covers a used-up session; whether it covers an unreadable week is not known."""
    week = make_reading(minutes(0), 19, START + timedelta(days=3), key="seven_day")
    take(usage, make_usage(minutes(0), make_reading(minutes(0), 100), week, money=MONEY))
    assert usage.standing(minutes(1))[:3] == (False, None, True)
    for minute in range(5, 40, 5):
        session = make_reading(minutes(minute), 100)
        take(usage, replace(make_usage(minutes(minute), session, money=MONEY), malformed=("seven_day",)))
    usage.rules = usage.rules._replace(stale_after=timedelta(minutes=30))
    assert usage.standing(minutes(36))[:3] == (None, None, True)


def status_line(minute: float, session: tuple[float, datetime], week: tuple[float, datetime]) -> Reading:
    """Return a status line's reading: the percentage and the reset of each window."""
    at = minutes(minute)
    five_hour = make_reading(at, *session, source=STATUSLINE)
    return make_usage(at, five_hour, make_reading(at, *week, key="seven_day", source=STATUSLINE))


OUR_WEEK, THEIR_WEEK = (20, START + 2 * WEEK / 3), (91, START + WEEK / 2)


def ours(minute: float) -> Reading:
    """Return a status line of the account."""
    return status_line(minute, (10, RESET), OUR_WEEK)


def theirs(minute: float, percent: float = 77) -> Reading:
    """Return a status line of another account: no reset agrees with the account's."""
    return status_line(minute, (percent, RESET - HOUR), THEIR_WEEK)


def test_another_accounts_status_line_is_ignored(usage: AccountUsage) -> None:
    """With two logins on a machine the numbers do not jump between them, however often the other one is seen."""
    take(usage, ours(0), (75,), partial=True)
    for minute in range(1, 120, 2):
        assert take(usage, theirs(minute), (75,), partial=True) == []
        assert take(usage, ours(minute + 1), (75,), partial=True) == []
        assert usage.history.saw_foreign(minutes(minute + 1))
    assert shown(usage, minutes(120))["utilization"] == 10
    assert all(window.suspect is None for window in usage.windows.values())
    assert usage.history.saw_foreign(minutes(130))
    assert not usage.history.saw_foreign(minutes(135))


def test_another_accounts_status_line_after_a_session() -> None:
    """If the other login is used once the session is over, the week still says whose the numbers are."""
    usage, over = make_account(), 301
    take(usage, ours(280), (75,), partial=True)
    for minute in (over, over + 1, over + 2):
        later = status_line(minute, (80, RESET + 3 * HOUR), THEIR_WEEK)
        assert take(usage, later, (75,), partial=True) == []
    assert shown(usage, minutes(over + 2), "seven_day")["utilization"] == 20
    begun = status_line(over + 3, (2, RESET + 5 * HOUR), OUR_WEEK)
    assert [event.event_type for event in take(usage, begun, (75,), partial=True)] == ["reset"]


def test_another_account_is_believed_after_an_hour(usage: AccountUsage) -> None:
    """After a login to another account its numbers are shown an hour after the last ones, without a false event."""
    take(usage, ours(0), (75,), partial=True)
    take(usage, theirs(59), (75,), partial=True)
    assert shown(usage, minutes(59))["utilization"] == 10
    assert take(usage, theirs(60, 100), (75,), partial=True) == []
    assert shown(usage, minutes(60))["utilization"] == 100
    assert shown(usage, minutes(60), "seven_day")["utilization"] == 91


def test_another_account_is_not_believed_while_the_api_delivers() -> None:
    """The API's token says whose numbers they are, even if it is asked rarely."""
    usage = make_account(stale_after=timedelta(hours=2.2))
    answer(usage, START, "seven_day")
    for minute in range(5, 130, 5):
        at = minutes(minute)
        reading = make_reading(at, 91, START + WEEK, key="seven_day", source=STATUSLINE)
        assert take(usage, make_usage(at, reading), (75,), partial=True) == []
    assert shown(usage, minutes(125), "seven_day")["utilization"] == 10


@pytest.mark.parametrize(
    ("tier", "words"),
    [
        ("default_claude_max_5x", "Max 5x"),
        ("DEFAULT_CLAUDE_MAX_20X", "Max 20x"),
        ("team_premium_5x", "Team premium 5x"),
        ("default_claude_ai", None),  # a Pro plan's
        ("default_raven", None),  # a team's
        ("x" * 40, None),
        (None, None),
    ],
)
def test_a_tier_in_words(tier: str | None, words: str | None) -> None:
    """People know the multiple of the plan; the API's code names mean nothing to them, and are not shown."""
    assert tier_in_words(tier) == words
