"""One window followed over time: resets that do not jitter, and events that each fire once."""

import dataclasses
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import OAUTH, SESSION, STATUSLINE, WEEK
from parts.readings import RESET, make_account, make_answer, make_reading, make_usage, minutes, shown, take

THRESHOLDS = (75.0, 90.0)
NEXT = RESET + SESSION
UNKNOWN_KEYS = {"label", "duration_hours", "source", "read_at"}
"""What is known of a window whose numbers are unknown."""


class Story:
    """Readings one after the other, each `(minute, utilization, reset)`; what happened is kept."""

    def __init__(self) -> None:
        self.usage = make_account()
        self.events: list[Event] = []

    def read(self, *answers: tuple[float, float, datetime | None], thresholds: Iterable[float] = THRESHOLDS) -> None:
        """Process some answers."""
        for minute, utilization, resets_at in answers:
            self.events += take(self.usage, make_answer(minutes(minute), utilization, resets_at), thresholds)

    @property
    def names(self) -> list[str]:
        """What happened to the window, thresholds with their number."""
        events = [event for event in self.events if event.window is not None]
        return [e.event_type if e.threshold is None else f"{e.event_type} {e.threshold:g}" for e in events]


@pytest.mark.parametrize("offset", [0, 1, -1, 28.5, 29.9, 30, 30.1, 31.5, -29.5, -30, -31])
def test_a_day_of_jitter_moves_no_reset(offset: float) -> None:
    """However the API jitters, and however far from the full minute the true reset is, one instant is published."""
    usage, rng, found = make_account(), random.Random(1), set()
    true = minutes(7 * 24 * 60) + timedelta(seconds=offset)
    for minute in range(0, 24 * 60, 5):
        at = minutes(minute)
        window = make_reading(at, minute / 60, true + timedelta(seconds=rng.uniform(-2, 2)), key="seven_day")
        assert take(usage, make_usage(at, window), THRESHOLDS) == []
        found.add(shown(usage, at, "seven_day")["resets_at"])
    (published,) = found
    instant = datetime.fromisoformat(published)
    assert (instant.second, instant.microsecond) == (0, 0)
    assert abs(instant - true) <= timedelta(seconds=32)


@pytest.mark.parametrize("moved", [SESSION, timedelta(minutes=2), -timedelta(minutes=2), -timedelta(minutes=90)])
def test_a_real_move_shows_at_once(moved: timedelta) -> None:
    """A move that is larger than jitter is published at once."""
    story = Story()
    story.read((0, 50, RESET), (5, 50, RESET + moved))
    assert shown(story.usage, minutes(5))["resets_at"] == (RESET + moved).isoformat()


STORIES: dict[str, tuple[list[tuple[float, float, datetime | None]], list[str]]] = {
    "a first start sends no alarm about what was reached long ago": ([(0, 100, RESET), (5, 100, RESET)], []),
    "a reset into an idle window fires once, and not again when the window starts": (
        [(200, 80, RESET), (301, 0, None), (306, 0, None), (400, 1, minutes(700)), (405, 2, minutes(700))],
        ["reset"],
    ),
    "the published minute may be half a minute after the true reset: that is not an early reset": (
        [(200, 80, RESET + timedelta(seconds=31)), (300.6, 0, None), (302, 0, None)],
        ["reset"],
    ),
    "use between a refill and its confirmation hides neither the refill nor a threshold": (
        [(0, 60, RESET), (50, 92, RESET), (100, 74, RESET), (106, 82, RESET), (112, 93, RESET)],
        ["threshold_reached 90", "reset_early", "threshold_reached 75", "threshold_reached 90"],
    ),
    "a window that is prolonged or corrected upwards has not reset, nor one that dips": (
        [(50, 10, RESET), (100, 12, minutes(320)), (110, 11, minutes(320)), (321, 12, minutes(325))],
        [],
    ),
    "correcting a first reset that was read by a clock hours behind is not an event": (
        [(-180, 20, None), (1, 50, RESET), (6, 80, RESET)],
        ["threshold_reached 75"],
    ),
    "a window whose end is unknown has reset once the next one's reset is known": (
        [(0, 80, None), (700, 81, minutes(800))],
        ["reset", "threshold_reached 75"],
    ),
    "rounding reaches no mark twice": (
        [(0, 74, RESET), (1, 74.9999999, RESET), (2, 75.0000001, RESET), (3, 74.99999, RESET)],
        ["threshold_reached 75"],
    ),
    "if the answers never said when, an idle window, or one begun since, shows that the old one is over": (
        [(0, 80, None), (5, 0, None), (10, 0, None), (20, 39, None), (30, 78, None), (400, 5, minutes(600))],
        ["reset", "threshold_reached 75", "reset"],
    ),
    "the thresholds of a new window are reported again": (
        [(0, 70, RESET), (290, 80, RESET), (301, 3, NEXT), (306, 40, NEXT), (310, 78, NEXT)],
        ["threshold_reached 75", "reset", "threshold_reached 75"],
    ),
    "an idle window is not started by old numbers": (
        [(290, 70, RESET), (301, 0, None), (301.5, 80, RESET), (310, 80, RESET), (315, 0, None)],
        ["reset"],
    ),
}


@pytest.mark.parametrize(("answers", "names"), STORIES.values(), ids=STORIES)
def test_what_happened(answers: list[tuple[float, float, datetime | None]], names: list[str]) -> None:
    """Each thing that happened to the window is one event, and nothing else is."""
    story = Story()
    story.read(*answers)
    assert story.names == names
    assert names or story.events == []


def test_each_threshold_fires_once_in_a_window() -> None:
    """However the use rises and dips slightly, each threshold is reported once."""
    story = Story()
    story.read(*((m, u, RESET) for m, u in enumerate((70, 74.99, 75, 74, 76, 89, 91, 85, 95, 99.9, 100, 99, 100, 120))))
    assert story.names == ["threshold_reached 75", "threshold_reached 90", "limit_reached"]
    first = story.events[0].document("default")
    assert first == {
        "event_type": "threshold_reached",
        "id": f"default-five_hour-threshold_reached-{round(minutes(2).timestamp() * 1000)}",
        "at": minutes(2).isoformat(timespec="milliseconds"),
        "window": "five_hour",
        "label": "Session",
        "utilization": 75,
        "previous_utilization": 74.99,
        "resets_at": RESET.isoformat(),
        "threshold": 75,
        "thresholds": [75],
    }


def test_a_jump_is_one_event_with_all_thresholds_that_it_reached() -> None:
    """From 65 to 100 % is one notification, not three, and the limit."""
    story = Story()
    story.read((0, 65, RESET), (5, 100, RESET), thresholds=(90, 75, 75, 100))
    assert story.names == ["threshold_reached 100", "limit_reached"]
    assert story.events[0].thresholds == (75, 90, 100)


def test_a_locked_window_has_reached_its_limit_and_no_threshold() -> None:
    """Passing 90 % and being locked is one notification; a threshold counts again once the window is unlocked."""
    usage, events = make_account(), []
    for minute, utilization, locked in (
        (0, 65, False),
        (5, 91, True),
        (10, 92, True),
        (15, 92, False),
        (20, 100, True),
    ):
        at = minutes(minute)
        window = dataclasses.replace(make_reading(at, utilization, RESET), locked=locked)
        events += take(usage, make_usage(at, window), THRESHOLDS)
    names = [event.event_type for event in events if event.window]
    assert names == ["limit_reached", "threshold_reached", "limit_reached"]
    assert events[0].utilization == 91


def test_a_status_line_does_not_unlock_a_window() -> None:
    """It says nothing about locks: next to the API it neither shows the window as usable nor repeats the event."""
    usage, events, blocked = make_account(), [], []
    for minute, locked, source in ((0, False, OAUTH), (5, True, OAUTH), (8, False, STATUSLINE), (10, True, OAUTH)):
        at = minutes(minute)
        window = dataclasses.replace(make_reading(at, 60, RESET, source=source), locked=locked)
        events += take(usage, make_usage(at, window), partial=source == STATUSLINE)
        blocked.append(usage.standing(at).blocked)
    assert [event.event_type for event in events] == ["limit_reached", "blocked"]
    assert blocked == [False, True, True, True]


def test_a_reset_during_a_gap_fires_once_late_with_its_due_time() -> None:
    """After hours without an answer the reset is reported once, and what the new window has reached too."""
    story = Story()
    story.read((100, 80, RESET), (1000, 92, minutes(1100)), (1005, 93, minutes(1100)))
    assert story.names == ["reset", "threshold_reached 90"]
    assert story.events[1].thresholds == (75, 90)
    assert story.events[0].resets_at == RESET
    assert story.events[1].resets_at == minutes(1100)
    assert [event.previous_utilization for event in story.events] == [80, 0]


SHOWN: dict[str, list[tuple[float, float, datetime | None, float | None]]] = {
    "a near-zero reading just before the reset is not the new window: the old number after it is recognized": [
        (290, 97, RESET, 97),
        (299.3, 0, None, 97),
        (301, 98, NEXT, None),
        (302, 4, NEXT, 4),
    ],
    "two old numbers in a window's first minutes do not confirm each other": [
        (298, 77, RESET, 77),
        (300, 77.3, NEXT, None),
        (301, 77.3, NEXT, None),
        (302, 0.4, NEXT, 0.4),
    ],
    "about 100 % after a sleep over the reset is doubted, however much was used in the window before": [
        (200, 78, RESET, 78),
        (500, 100, NEXT, None),
        (501, 57, NEXT, 57),
    ],
    "a cache that still shows the window before is not believed": [
        (290, 80, RESET, 80),
        (301, 3, NEXT, 3),
        (301.5, 80, RESET, 3),
        (303, 80, RESET, 3),
        (306, 4, NEXT, 4),
        (307, 80, RESET, 4),
    ],
}


@pytest.mark.parametrize("answers", SHOWN.values(), ids=SHOWN)
def test_what_is_shown_around_a_reset(answers: list[tuple[float, float, datetime | None, float | None]]) -> None:
    """No number of the window before is shown in the new one, and the reset is one event."""
    story = Story()
    for *answer, expected in answers:
        story.read(tuple(answer))  # type: ignore[arg-type]
        assert shown(story.usage, minutes(answer[0]))["utilization"] == expected, answer
    assert story.names == ["reset"]


@pytest.mark.parametrize("new_reset", [minutes(400), minutes(302), minutes(150), None])
def test_an_early_reset_fires_once(new_reset: datetime | None) -> None:
    """Use falls and the reset moves before it was due."""
    story = Story()
    story.read((50, 80, RESET), (100, 1 if new_reset else 0, new_reset), (105, 2 if new_reset else 0, new_reset))
    assert story.names == ["reset_early"]
    assert story.events[0].resets_at == RESET
    assert story.events[0].previous_utilization == 80


def test_a_missing_reset_does_not_end_a_window() -> None:
    """An answer that does not say when the window ends changes nothing about it."""
    story = Story()
    story.read((0, 50, RESET), (5, 51, None))
    assert shown(story.usage, minutes(5))["resets_at"] == RESET.isoformat()
    story.read((10, 52, RESET))
    assert story.events == []


def test_a_window_that_is_over_when_first_seen_is_not_shown() -> None:
    """Only its entities exist; the next reading counts as the first, and is not an event."""
    story = Story()
    story.read((305, 80, RESET))
    assert shown(story.usage, minutes(305))["utilization"] is None
    assert story.usage.windows.resets() == []
    story.read((306, 95, NEXT))
    assert shown(story.usage, minutes(306))["utilization"] == 95
    assert story.events == []


def test_the_old_numbers_are_shown_for_two_minutes_after_the_reset() -> None:
    """Until the poll that follows the reset they are shown; if none has come by then, they are unknown."""
    story = Story()
    story.read((290, 80, RESET))
    assert shown(story.usage, RESET + timedelta(seconds=119))["utilization"] == 80
    assert story.usage.changes_at(RESET) == RESET + timedelta(minutes=2)
    window = shown(story.usage, RESET + timedelta(minutes=2))
    assert {key for key, value in window.items() if value is not None} == UNKNOWN_KEYS
    story.read((310, 1, NEXT))
    assert shown(story.usage, minutes(310))["utilization"] == 1


def test_the_windows_do_not_mix() -> None:
    """What happens to one window does not affect another."""
    usage = make_account()
    events: list[Event] = []
    week = minutes(0) + WEEK
    for minute, session, weekly in ((290, 80, 70), (301, 0, 76)):
        at = minutes(minute)
        session_reset = RESET if minute < 300 else None
        windows = make_reading(at, session, session_reset), make_reading(at, weekly, week, key="seven_day")
        events += take(usage, make_usage(at, *windows), THRESHOLDS)
    assert [(event.window, event.event_type) for event in events] == [
        ("five_hour", "reset"),
        ("seven_day", "threshold_reached"),
    ]


@given(st.lists(st.floats(-9.9, 39.9), min_size=1, max_size=30), st.sets(st.floats(1, 130), max_size=4))
def test_within_a_window_a_threshold_fires_exactly_if_it_is_reached_from_below(
    changes: list[float], thresholds: set[float]
) -> None:
    """Whatever the readings, a threshold is reported once if the first was below it and a later one was not."""
    readings = [20.0]
    for change in changes:
        readings.append(round(min(150, max(0, readings[-1] + change)), 2))
    story = Story()
    story.read(*((m, u, RESET) for m, u in enumerate(readings)), thresholds=thresholds)
    first, *later = readings
    drops = any(peak - new >= 10 for peak, new in pairwise(readings))
    expected = sorted(mark for mark in thresholds if first < mark <= max(later))
    found = sorted(threshold for event in story.events for threshold in event.thresholds)
    assert drops or found == expected
    assert drops or story.names.count("limit_reached") == (first < 100 <= max(later))


def test_the_log_does_not_say_of_a_window_what_happened_to_the_account() -> None:
    """After a session's reset the account is unblocked, not the week, which is only the tightest window then."""
    event = Event(event_type="unblocked", at=RESET, expires_at=RESET, label="Weekly", utilization=16.58)
    assert str(event) == "unblocked (closest to its limit: Weekly, 16.58 %)"
