"""A reporter's own limit: 20 requests in an hour, a minute apart, whatever it is asked and by whom."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.reporter.answer import MAX_IDS, SeenIds
from claude_usage_mqtt.reporter.budget import HOUR, REQUESTS_PER_HOUR, SPACING, RequestLimit


def allowed(limit: RequestLimit, asked_at: list[float]) -> list[float]:
    """Return when requests are made if it is asked at these moments."""
    made = []
    for now in asked_at:
        if limit.wait(now) == 0:
            limit.record(now)
            made.append(now)
    return made


@given(st.lists(st.floats(0, 4 * HOUR), max_size=300).map(sorted))
def test_never_more_than_the_limit_in_any_hour(asked_at: list[float]) -> None:
    """However it is asked, the API is not asked more than 20 times in any hour, nor twice within a minute."""
    made = allowed(RequestLimit(), asked_at)
    assert all(later - earlier > SPACING - 0.001 for earlier, later in itertools.pairwise(made))
    assert all(sum(at <= other < at + 3600 for other in made) <= REQUESTS_PER_HOUR for at in made)


def test_it_asks_as_often_as_it_may() -> None:
    """An honest service that asks every three minutes is never refused."""
    every_three_minutes = [181.5 * count for count in range(200)]
    assert allowed(RequestLimit(), every_three_minutes) == every_three_minutes


def test_the_wait_is_what_it_says() -> None:
    """A refusal names the time after which the answer is not a refusal."""
    limit = RequestLimit()
    allowed(limit, [60.0 * count for count in range(30)])
    wait = limit.wait(2000)
    assert wait > 0
    assert limit.wait(2000 + wait) == 0


def test_requests_of_other_machines_count() -> None:
    """Somebody who asks three reporters in turn gets no more out of them than out of one."""
    limit = RequestLimit()
    for count in range(18):
        limit.record_elsewhere(60.0 * count, 1)
    assert limit.wait(18 * 60) == HOUR - 18 * 60


def test_an_id_is_answered_once() -> None:
    """A request that is sent twice is answered once; what is remembered has an end."""
    seen = SeenIds()
    assert seen.add("a")
    assert not seen.add("a")
    for count in range(MAX_IDS):
        assert seen.add(str(count))
    assert seen.add("a")
