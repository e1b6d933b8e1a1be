"""The derived numbers: each rule, and that they stay right whatever happens to polls and clocks."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.usage import derived
from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.reading import SESSION, WEEK
from parts.readings import RESET, START, make_account, make_answer, minutes, shown, take

MINUTE = timedelta(minutes=1)


def after(readings: Iterable[tuple[float, float]], resets_at: datetime = RESET) -> dict[str, Any]:
    """Return the shown numbers after readings at these minutes of the window."""
    usage = make_account()
    last = START
    for minute, utilization in readings:
        last = minutes(minute)
        take(usage, make_answer(last, utilization, resets_at), ())
    return shown(usage, last)


def test_elapsed_is_the_share_of_the_window_that_has_passed() -> None:
    """Nothing at the start, all at the reset, and never outside of that."""
    at = [derived.elapsed(RESET, SESSION, START + SESSION * share) for share in (-0.1, 0, 0.25, 1, 1.1)]
    assert at == [0, 0, 25, 100, 100]
    assert derived.elapsed(None, SESSION, START) is None


def test_averages_are_unknown_in_the_first_twentieth() -> None:
    """In the first 5 % of a window one request would project to hundreds of percent."""
    early, later = after([(14.9, 2)]), after([(15, 2)])
    assert (early["projected"], early["on_pace"]) == (None, None)
    assert early["elapsed"] == 4.97
    assert early["pace"] == -2.97
    assert (later["projected"], later["on_pace"]) == (40, True)


def test_on_pace_is_a_projection_within_a_hundred() -> None:
    """A fifth gone and 30 % used is 150 % at the reset; at half time 50 % just lasts, and a little more does not."""
    assert after([(60, 30)])["projected"] == 150
    assert after([(150, 50)])["on_pace"] is True
    assert after([(150, 50.01)])["on_pace"] is False
    assert after([(150, 120)])["on_pace"] is False


def test_idle_is_a_separate_state(usage: AccountUsage) -> None:
    """A session that has not started is 0 % used and on pace; nothing is said about its time."""
    for minute in range(0, 60, 5):
        take(usage, make_answer(minutes(minute), 0, None), ())
    window = shown(usage, minutes(56))
    assert set(window) == set(after([(60, 30)]))
    assert {key: value for key, value in window.items() if value is not None} == {
        "label": "Session",
        "utilization": 0,
        "remaining": 100,
        "duration_hours": 5,
        "on_pace": True,
        "limit_reached": False,
        "locked": False,
        "read_at": minutes(55).isoformat(),
        "source": "oauth",
    }


def test_use_without_a_reset_says_nothing_about_time(usage: AccountUsage) -> None:
    """If no answer said when the window ends, only what needs no end is shown."""
    take(usage, make_answer(START, 30, None), ())
    window = shown(usage, START)
    assert (window["utilization"], window["remaining"]) == (30, 70)
    assert all(window[key] is None for key in ("elapsed", "pace", "projected", "on_pace", "time_remaining_hours"))


@pytest.mark.parametrize(
    ("utilization", "remaining", "is_reached"),
    [(0, 100, False), (99.99, 0.01, False), (100, 0, True), (137.5, 0, True)],
)
def test_remaining_is_never_negative(utilization: float, remaining: float, *, is_reached: bool) -> None:
    """Above 100 % the use is shown unchanged, with nothing left and the limit reached."""
    window = after([(200, utilization)])
    assert (window["utilization"], window["remaining"]) == (utilization, remaining)
    assert window["limit_reached"] is is_reached


def test_time_remaining_has_one_decimal_and_is_never_negative(usage: AccountUsage) -> None:
    """Hours until the reset, and 0 in the two minutes after it."""
    take(usage, make_answer(minutes(99), 5), ())
    assert shown(usage, minutes(100))["time_remaining_hours"] == 3.3
    assert shown(usage, minutes(301))["time_remaining_hours"] == 0


@pytest.mark.parametrize(
    ("readings", "rate"),
    [
        # Two readings, or three within a few minutes, are noise.
        ([(20, 10), (40, 20)], None),
        ([(20, 10), (25, 12), (29.9, 14)], None),
        ([(20, 10), (25, 12), (30, 14)], 24),
        # Use of more than an hour ago does not count, and a downward correction does not gain quota.
        ([(0, 0), (60, 50), *((minute, 50) for minute in range(70, 131, 5))], 0),
        ([(20, 50), (25, 45), (30, 40)], 0),
        # With one poll an hour the last three readings count, and two failed hours change nothing.
        *(([(m, m / 4) for m in range(20, 290, interval)], 15) for interval in (61, 66)),
        ([(m, m / 4) for m in (20, 25, 30, 31, 32, 33, 48, 63, 185, 190, 191.5)], 15),
        # However often there are readings, including status lines.
        *(([(m, m / 4) for m in range(100, 281, interval)], 15) for interval in (1, 3, 5, 10, 20, 29)),
    ],
)
def test_burn_rate(readings: list[tuple[float, float]], rate: float | None) -> None:
    """It is that of the last hour, known after three readings over ten minutes, and never negative."""
    assert after(readings)["burn_rate"] == (None if rate is None else pytest.approx(rate, abs=0.01))


def test_burn_rate_forgets_everything_before_a_reset(usage: AccountUsage) -> None:
    """After a reset three new readings are needed; the drop itself does not count as a rate."""
    for minute in range(270, 300, 5):
        take(usage, make_answer(minutes(minute), minute / 5), ())
    assert shown(usage, minutes(295))["burn_rate"] == 12
    for minute, utilization, rate in ((301, 1, None), (306, 2, None), (310, 3, None), (316, 4, 12)):
        take(usage, make_answer(minutes(minute), utilization, RESET + SESSION), ())
        assert shown(usage, minutes(minute))["burn_rate"] == rate


def test_burn_rate_is_unknown_when_the_readings_are_old(usage: AccountUsage) -> None:
    """After an hour without an answer the burn rate is unknown, and so is when the limit will be reached."""
    for minute in (20, 25, 30):
        take(usage, make_answer(minutes(minute), minute), ())
    assert shown(usage, minutes(90))["burn_rate"] == 60
    window = shown(usage, minutes(91))
    assert (window["burn_rate"], window["limit_at"]) == (None, None)


def test_limit_is_predicted_only_before_the_reset() -> None:
    """A limit that would be reached after the reset is not expected."""
    assert after([(120, 40), (140, 50), (160, 60)])["limit_at"] == "2026-11-20T14:00:00+00:00"
    assert after([(120, 4), (140, 5), (160, 6)])["limit_at"] is None
    assert after([(120, 40), (140, 40), (160, 40)])["limit_at"] is None
    assert after([(120, 80), (140, 90), (160, 100)])["limit_at"] is None


def test_a_limit_that_rounds_onto_the_reset_is_unknown() -> None:
    """A limit 15 seconds before the reset would look like the reset itself."""
    rate = 100 / (300 - 0.25)
    window = after([(minute, minute * rate) for minute in (180, 200, 220)])
    assert window["burn_rate"] is not None
    assert window["limit_at"] is None


def test_limit_does_not_flap_between_minutes() -> None:
    """A steady burn gives one instant, though each reading computes it again from rounded numbers."""
    usage, found = make_account(), set()
    for minute in range(100, 160, 5):
        take(usage, make_answer(minutes(minute + minute % 3 / 30), round((minute + minute % 3 / 30) / 2.4, 2)), ())
        found.add(shown(usage, minutes(minute + 1))["limit_at"])
    assert len(found - {None}) == 1


def test_limit_that_has_passed_unseen_is_unknown(usage: AccountUsage) -> None:
    """If the predicted instant is past and the last reading was below 100, the limit is unknown."""
    for minute in (100, 110, 120):
        take(usage, make_answer(minutes(minute), minute / 1.25), ())
    assert shown(usage, minutes(124))["limit_at"] == "2026-11-20T12:05:00+00:00"
    assert shown(usage, minutes(125))["limit_at"] is None


@given(st.lists(st.floats(0, 290), min_size=3, max_size=400), st.floats(0.01, 3))
def test_a_steady_burn_is_shown_right_or_not_at_all(at: list[float], per_minute: float) -> None:
    """Whenever the readings come, the rate is right within rounding, or unknown."""
    rate = after([(minute, minute * per_minute) for minute in sorted(at)])["burn_rate"]
    if rate is not None:
        assert rate == pytest.approx(per_minute * 60, rel=0.01, abs=0.2)


def test_summer_time_changes_nothing() -> None:
    """A week across the change of the clocks elapses evenly: 100 % are 168 hours."""
    berlin = ZoneInfo("Europe/Berlin")
    resets_at = datetime(2026, 10, 28, 9, 0, tzinfo=berlin)
    begun = (resets_at.astimezone(UTC) - WEEK).astimezone(berlin)
    assert begun.hour == 10
    for share in (0.25, 0.5, 0.75):
        now = (resets_at.astimezone(UTC) - WEEK * (1 - share)).astimezone(berlin)
        assert derived.elapsed(resets_at.astimezone(UTC), WEEK, now) == pytest.approx(100 * share)


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(minutes=-7)])
def test_a_clock_that_is_set_back_changes_no_rate(usage: AccountUsage, step: timedelta) -> None:
    """If the clock was ahead, times recorded by it move with it; only the reset was always right."""
    for minute in (100, 110, 120):
        take(usage, make_answer(minutes(minute), minute / 2), ())
    usage.clock_stepped(step)
    now = minutes(120) + step
    window = shown(usage, now)
    assert window["burn_rate"] == 30
    assert window["resets_at"] == "2026-11-20T15:00:00+00:00"
    take(usage, make_answer(now + 10 * MINUTE, 65), ())
    assert shown(usage, now + 10 * MINUTE)["burn_rate"] == 30


def test_the_samples_are_bounded(usage: AccountUsage) -> None:
    """A status line every second makes the memory no larger, and the rate no worse."""
    for second in range(0, 7200, 7):
        take(usage, make_answer(START + timedelta(seconds=second), second / 360), ())
    assert len(usage.windows["five_hour"].samples) <= 80
    assert shown(usage, minutes(120))["burn_rate"] == pytest.approx(10, abs=0.1)


def test_a_usage_from_the_library_follows_the_same_rules() -> None:
    """`Window` shows scripts what the topics show."""
    window = make_answer(minutes(60), 30)["five_hour"]
    assert (window.elapsed(), window.pace(), window.projected()) == pytest.approx((20, 10, 150))
    assert window.is_on_pace() is False
    assert window.projected(minutes(150)) == 60
    assert window.time_until_reset() == timedelta(hours=4)
    assert (window.remaining, window.is_idle, window.is_limit_reached) == (70, False, False)
    assert make_answer(START, 0, None)["five_hour"].is_on_pace() is True
