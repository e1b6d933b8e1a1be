"""A reporter's own limit: 20 requests in an hour, a minute apart, whatever it is asked and by whom."""

import itertools
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.reporter.budget import SPACING, Budget
from claude_usage_mqtt.sources.reporter_messages import Answer
from claude_usage_mqtt.sources.request_log import BUDGET, BUDGET_SPAN
from parts.service import Clock


class Limit:
    """The limit of one account, at moments that the test sets."""

    def __init__(self) -> None:
        self.clock = Clock(speed=0.0)
        self._budget = Budget("claude-usage", ["default"], self.clock, limited=True)

    def wait(self, at: timedelta) -> timedelta:
        """Return how long a request would have to wait at a moment."""
        self.clock.sleep(at - timedelta(seconds=self.clock.steady()))
        return self._budget.wait("default")

    def allowed(self, asked_at: list[timedelta]) -> list[timedelta]:
        """Return when requests are made if it is asked at these moments."""
        made = []
        for at in asked_at:
            if not self.wait(at):
                self._budget.record("default", timedelta(0))
                made.append(at)
        return made

    def note_answer(self, at: timedelta) -> None:
        """Note that another machine made a request."""
        self.wait(at)
        self._budget.note_answer(Answer(id="a", account="default", requests=1))


@given(st.lists(st.timedeltas(timedelta(0), 4 * BUDGET_SPAN), max_size=300).map(sorted))
def test_never_more_than_the_limit_in_any_hour(asked_at: list[timedelta]) -> None:
    """However often it is asked, it makes at most 20 requests in any hour, and never two within a minute."""
    made = Limit().allowed(asked_at)
    assert all(later - earlier > SPACING - timedelta(milliseconds=1) for earlier, later in itertools.pairwise(made))
    assert all(sum(at <= other < at + timedelta(hours=1) for other in made) <= BUDGET for at in made)


def test_it_asks_as_often_as_it_may() -> None:
    """An honest service that asks every three minutes is never refused."""
    every_three_minutes = [timedelta(seconds=181.5 * count) for count in range(200)]
    assert Limit().allowed(every_three_minutes) == every_three_minutes


def test_the_wait_is_what_it_says() -> None:
    """A refusal names a time after which a request is no longer refused."""
    limit, later = Limit(), timedelta(seconds=2000)
    limit.allowed([timedelta(minutes=count) for count in range(30)])
    wait = limit.wait(later)
    assert wait > timedelta(0)
    assert not limit.wait(later + wait)


def test_requests_of_other_machines_count() -> None:
    """Asking three reporters in turn gives no more than asking one."""
    limit = Limit()
    for count in range(18):
        limit.note_answer(timedelta(minutes=count))
    assert limit.wait(timedelta(minutes=18)) == BUDGET_SPAN - timedelta(minutes=18)
