"""The policy of when to ask, with a simulated clock: polite whatever happens, and in time when it matters."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_usage_mqtt.errors import (
    ApiError,
    CredentialsError,
    CredentialsNotFound,
    InsufficientScope,
    InvalidResponse,
    NetworkError,
    RateLimited,
    ServerError,
    TokenExpired,
    Unauthorized,
)
from claude_usage_mqtt.sources.backoff import ACCOUNT, LONGEST_BLOCK, SHUT_OUT_MARGIN, SLOW_INTERVAL, TOKEN
from claude_usage_mqtt.sources.policy import FLOOR, SPACING, Policy
from claude_usage_mqtt.sources.request_log import BUDGET, HOUR
from parts.hostile import values

START = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
Answer = Callable[[datetime], ApiError | CredentialsError | None]


def seconds(count: float) -> timedelta:
    """Return a number of seconds."""
    return timedelta(seconds=count)


def make_policy(interval: float = 300, seed: int = 1, **more: Any) -> Policy:
    """Return a policy with that interval in seconds."""
    return Policy(seconds(interval), random.Random(seed), **more)


def wait_of(policy: Policy, now: datetime) -> timedelta:
    """Return how long it is until the next poll."""
    due = policy.due(now)
    assert due is not None
    return due - now


@dataclass
class House:
    """A policy in use, from one due instant to the next; `answer` is what a request at an instant gets."""

    policy: Policy
    now: datetime = START
    answer: Answer = lambda _: None
    resets: list[datetime] = field(default_factory=list)
    last_change: datetime | None = None
    stale_after: timedelta = HOUR
    requests: list[datetime] = field(default_factory=list)
    attempts: int = 0

    def step(self) -> datetime | None:
        """Poll if that is due; return the instant when the next is."""
        due = self.policy.due(self.now, self.resets)
        if due is None or due > self.now:
            return due
        self.attempts += 1
        self.policy.record_request(self.now)
        error = self.answer(self.now)
        if isinstance(error, CredentialsError):
            self.policy.requests.record_sent(self.now, 0)
        else:
            self.requests.append(self.now)
        if error is None:
            self.policy.succeeded(self.now, self.stale_after, self.last_change)
        else:
            self.policy.failed(self.now, error)
        return self.policy.due(self.now, self.resets)

    def live(self, span: timedelta) -> None:
        """Let time pass, from one due instant to the next."""
        end = self.now + span
        while True:
            due = self.step()
            if due is None or due > end:
                break
            assert due > self.now, "polls without end"
            self.now = due
        self.now = end

    def restart(self) -> None:
        """End the program and start it again, with what it had published."""
        memory = json.loads(json.dumps(self.policy.save()))
        self.policy = Policy(self.policy.interval, random.Random(self.attempts))
        self.policy.restore(memory, self.now, self.resets)

    def sees(self, reset: datetime, within: float = 90) -> bool:
        """Return whether a request came a minute after a reset, and at most this many seconds after it."""
        return any(60 <= (at - reset) / SECOND <= within for at in self.requests)

    def busiest_hour(self) -> int:
        """Return the largest number of requests in any 60 minutes."""
        return max((sum(at <= other < at + HOUR for other in self.requests) for at in self.requests), default=0)

    def gaps(self) -> list[float]:
        """Return the seconds between requests."""
        return [(b - a) / SECOND for a, b in zip(self.requests, self.requests[1:], strict=False)]


def test_the_first_poll_is_at_once() -> None:
    """A user who has just started the program sees numbers at once."""
    assert make_policy().due(START) == START


def test_polls_come_at_the_interval_give_or_take_a_tenth() -> None:
    """The interval in the settings is kept, but not in step with everybody else."""
    house = House(make_policy(300))
    house.live(timedelta(days=1))
    gaps = house.gaps()
    assert 270 <= min(gaps) < 280
    assert 320 < max(gaps) <= 330
    assert len(house.requests) == pytest.approx(288, abs=5)


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 1200),
        st.sampled_from(["pass", "refresh", "restart", "token", "touch", "ask", "reset", "interval"]),
        st.integers(0, 10_000),
    ),
    max_size=120,
)
ERRORS = (ServerError, NetworkError, InvalidResponse, Unauthorized, RateLimited, CredentialsNotFound)
LIMITED = (RateLimited("x", retry_after=HOUR), RateLimited("x", retry_after=SECOND))
FATES = st.lists(
    st.sampled_from([None, None, None, *(kind("x") for kind in ERRORS), *LIMITED]), min_size=1, max_size=12
)


@given(st.sampled_from([180, 300, 3600]), EVENTS, FATES, st.integers(0, 99))
@settings(max_examples=60)
def test_the_budget_holds_whatever_happens(
    interval: int, events: list[tuple[int, str, int]], fates: list[ApiError | CredentialsError | None], seed: int
) -> None:
    """Refreshes, restarts, new tokens, resets and every error together never make more than 20 requests an hour."""
    count = iter(range(10**9))
    house = House(make_policy(interval, seed), answer=lambda _: fates[next(count) % len(fates)])
    for wait, event, number in events:
        house.live(seconds(wait))
        match event:
            case "refresh":
                house.policy.refresh(house.now)
            case "restart":
                house.restart()
            case "token" | "touch":
                house.policy.credentials_changed(house.now)
            case "ask":
                house.policy.poll_soon(house.now)
            case "reset":
                house.resets = [*house.resets[-6:], house.now + seconds(number)]
            case "interval":
                house.policy.set_interval(house.now, seconds(180 + number % 3421))
    house.live(HOUR)
    assert house.busiest_hour() <= BUDGET
    assert min(house.gaps(), default=30) >= SPACING / SECOND


def test_restarts_without_end_stay_within_the_budget() -> None:
    """A container in a crash loop asks no more often than one that keeps running."""
    house = House(make_policy(300))
    for _ in range(1000):
        house.live(seconds(7))
        house.restart()
    assert house.busiest_hour() <= BUDGET
    assert len(house.requests) == pytest.approx(7000 / 300, abs=4)


def test_a_start_after_a_long_time_asks_at_once() -> None:
    """A user who starts the service again after a night sees new numbers at once, not half a minute later."""
    before = make_policy(300)
    before.record_request(START)
    before.succeeded(START, HOUR)
    morning = START + 8 * HOUR
    after = make_policy(300)
    after.restore(before.save(), morning)
    assert after.due(morning) == morning


def test_a_crash_in_the_middle_of_each_request_stays_within_the_budget() -> None:
    """A request that was due counts even if the program ended before it could publish that."""
    house = House(make_policy(180), resets=[START + number * 17 * MINUTE for number in range(3)])
    published = house.policy.save()
    for _ in range(300):
        for is_traced in (True, False):  # a run's first request is recorded and published before it is made
            due = house.policy.due(house.now, house.resets)
            assert due is not None
            house.now = max(house.now, due)
            house.requests.append(house.now)
            house.policy.record_request(house.now)
            published = house.policy.save() if is_traced else published
        house.now += SECOND
        house.policy = make_policy(180)
        house.policy.restore(published, house.now, house.resets)
    assert house.busiest_hour() <= BUDGET


@pytest.mark.parametrize("interval", [180, 181, 200, 240, 300, 301, 420, 600, 900, 1800, 3600])
def test_each_reset_is_seen_within_90_seconds(interval: int) -> None:
    """Whatever the interval, a poll comes between 60 and 90 s after each reset, day after day."""
    house = House(make_policy(interval, seed=interval))
    for number in range(10):
        first = house.now + 5 * HOUR + (interval * 7 + number * 13) % 60 * MINUTE
        house.resets = [first, first + MINUTE, first + 17 * MINUTE, first + 20 * MINUTE]
        house.live(first + 30 * MINUTE - house.now)
        assert all(house.sees(reset) for reset in house.resets), number
    assert house.busiest_hour() <= BUDGET


@given(st.sampled_from([180, 300, 1200]), st.integers(0, 600), st.integers(0, 200), st.integers(0, 99))
def test_a_reset_is_seen_in_time_whatever_is_asked_by_hand(interval: int, refresh: int, twice: int, seed: int) -> None:
    """Refreshes just before or after the reset do not delay the poll that shows it."""
    house = House(make_policy(interval, seed))
    house.live(2 * HOUR)
    reset = house.now.replace(second=0) + 9 * MINUTE
    house.resets = [reset]
    for wait in (refresh, twice):
        house.live(seconds(wait))
        house.policy.refresh(house.now)
    house.live(2 * HOUR)
    assert house.sees(reset)


@pytest.mark.parametrize("every", [1, 30])
def test_refreshes_do_not_use_up_what_resets_need(every: int) -> None:
    """An automation that never stops asking gets only what is allowed, and does not hide the reset."""
    house = House(make_policy(180))
    house.resets = [START + at * MINUTE for at in (151, 158, 165, 172)]
    for _ in range(12_000 // every):
        house.policy.refresh(house.now)
        house.live(seconds(every))
    assert all(house.sees(reset) for reset in house.resets)
    assert house.busiest_hour() <= BUDGET
    assert min(house.gaps()) >= FLOOR / SECOND


@given(st.integers(1, 400), st.integers(0, 25), st.integers(0, 99))
def test_a_reset_is_seen_in_time_over_a_restart(before: int, down: int, seed: int) -> None:
    """A restart around the reset delays its poll by no longer than the program was away."""
    house = House(make_policy(300, seed), resets=[START + 2 * HOUR])
    reset = house.resets[0]
    house.live(2 * HOUR + 3 * MINUTE - seconds(before))
    memory = house.policy.save()
    house.now += seconds(down)
    house.policy = make_policy(300, seed)
    house.policy.restore(memory, house.now, house.resets)
    house.live(HOUR)
    assert house.sees(reset, 90 + down)


def test_a_reset_costs_one_request() -> None:
    """Windows that reset together need one request, and no second one after that."""
    house = House(make_policy(3600), resets=[START + 30 * MINUTE] * 20)
    house.live(50 * MINUTE)
    assert house.requests == [START, START + 31 * MINUTE]


def test_nothing_is_asked_in_the_first_minute_of_a_window() -> None:
    """A response right after a reset may carry the old number: no poll is made then, except one by hand."""
    policy, reset = make_policy(limited=False), START + 10 * MINUTE
    for wanted in (reset, reset + seconds(30)):
        policy.next_regular, policy.confirm_at = wanted, None
        assert policy.due(START, [reset]) == reset + MINUTE
        policy.next_regular, policy.confirm_at = START + HOUR, wanted
        assert policy.due(START, [reset]) == reset + MINUTE
    assert policy.refresh(reset + seconds(5)) == reset + seconds(5)


def test_a_block_is_waited_for() -> None:
    """Retry-After: 3600 means an hour and a margin without a request, refreshes and resets included."""
    house = House(make_policy(300), resets=[START + 10 * MINUTE])
    house.live(MINUTE)
    house.policy.record_request(house.now)
    house.policy.failed(house.now, RateLimited("x", retry_after=HOUR))
    asked = house.policy.refresh(house.now)
    assert asked == house.now + HOUR + SHUT_OUT_MARGIN
    assert house.policy.due(house.now, house.resets) == asked


def test_a_full_window_is_waited_for_longer_each_time() -> None:
    """429 without a time: 300 s, growing by half to 1800 s, and back to 300 s after a good answer."""
    policy, now, waits = make_policy(), START, []
    for _ in range(7):
        policy.record_request(now)
        policy.failed(now, RateLimited("x"))
        waits.append(wait_of(policy, now) / SECOND)
        now += wait_of(policy, now)
    assert waits == [360, 450, 675, 1012.5, 1518.75, 1800, 1800]  # the first by the slow pace after a 429
    policy.succeeded(now, HOUR)
    policy.failed(now, RateLimited("x"))
    assert policy.rate_limit.blocked_until == now + seconds(300)


def test_an_absurd_retry_after_is_bounded() -> None:
    """No answer can silence the program forever."""
    policy = make_policy()
    policy.failed(START, RateLimited("x", retry_after=timedelta(days=4000)))
    assert policy.rate_limit.blocked_until == START + LONGEST_BLOCK


@pytest.mark.parametrize("retry_after", [None, HOUR])
def test_after_a_429_the_pace_is_slow_for_an_hour(retry_after: timedelta | None) -> None:
    """For an hour after the wait there are 360 s between requests, refreshes and resets included; then as before."""
    house = House(make_policy(180))
    house.policy.record_request(START)
    house.policy.failed(START, RateLimited("x", retry_after=retry_after))
    until = house.policy.rate_limit.blocked_until
    assert until is not None
    house.resets = [until + 10 * MINUTE]
    while house.now < until + HOUR:
        house.policy.refresh(house.now)
        house.live(seconds(10))
    assert min(house.gaps()) >= SLOW_INTERVAL / SECOND
    assert house.sees(house.resets[0], 430)
    house.requests.clear()
    house.live(HOUR)
    assert len(house.requests) >= 17


@pytest.mark.parametrize("wait", range(10, 17))
def test_a_slow_pace_still_meets_a_reset(wait: int) -> None:
    """After a 429, a regular poll that would delay the reset's poll waits for it."""
    house = House(make_policy(180), answer=lambda now: RateLimited("x") if now == START else None)
    house.live(10 * MINUTE)
    house.resets = [house.now.replace(second=0) + wait * MINUTE]
    house.live(40 * MINUTE)
    assert house.sees(house.resets[0])


@pytest.mark.parametrize("error", [ServerError("x"), NetworkError("x"), InvalidResponse("x")])
def test_faults_back_off_doubling(error: ApiError) -> None:
    """After a network or server fault the next try comes after 30 s, doubling to 600 s, whatever the interval."""
    policy, now = make_policy(3600), START
    for expected in (30, 60, 120, 240, 480, 600, 600, 600):
        policy.record_request(now)
        policy.failed(now, error)
        wait = wait_of(policy, now)
        assert wait / SECOND == pytest.approx(expected, rel=0.1)
        now += wait
    policy.record_request(now)
    policy.succeeded(now, HOUR)
    assert policy.failures.count == 0
    assert wait_of(policy, now) > seconds(3000)


def test_other_failures_do_not_lengthen_the_back_off() -> None:
    """Days without credentials do not make the first network fault wait ten minutes."""
    house = House(make_policy(), answer=lambda _: CredentialsNotFound("x"))
    house.live(timedelta(days=1))
    house.policy.failed(house.now, NetworkError("x"))
    assert wait_of(house.policy, house.now) <= seconds(33)


@pytest.mark.parametrize("error", [Unauthorized("x"), InsufficientScope("x")])
def test_a_refused_login_is_tried_again_seldom(error: ApiError) -> None:
    """A 401 can be transient, and not every login can be watched: after 15 minutes, then hourly."""
    house = House(make_policy(), answer=lambda _: error, resets=[START + MINUTE])
    house.live(timedelta(days=1))
    gaps = house.gaps()
    assert 13.5 * 60 <= gaps[0] <= 16.5 * 60
    assert all(54 * 60 <= gap <= 66 * 60 for gap in gaps[1:])
    house.answer = lambda _: None
    house.policy.credentials_changed(house.now)
    assert house.policy.due(house.now) == house.now


@pytest.mark.parametrize("error", [CredentialsNotFound("x"), TokenExpired("x")])
@pytest.mark.parametrize("resets", [[], [START + MINUTE]])
def test_missing_credentials_cost_no_request(error: CredentialsError, resets: list[datetime]) -> None:
    """If nothing was sent, nothing is counted, and the credentials are checked at the normal pace."""
    house = House(make_policy(), answer=lambda _: error, resets=resets)
    house.live(HOUR)
    assert house.requests == []
    assert house.attempts <= 15
    assert house.policy.requests.last_hour(house.now) == 0


def test_idle_is_slow_and_the_first_change_ends_it() -> None:
    """When nothing has moved for an hour it asks every 10 minutes, and as before once something moves."""
    house = House(make_policy(200), last_change=START)
    house.live(HOUR + 15 * MINUTE)
    house.requests.clear()
    house.live(5 * HOUR)
    assert 540 <= min(house.gaps()) <= max(house.gaps()) <= 660
    house.last_change = house.now
    house.live(10 * MINUTE)
    house.requests.clear()
    house.live(30 * MINUTE)
    assert max(house.gaps()) <= 220


@pytest.mark.parametrize(
    ("interval", "stale_after", "shortest", "longest"), [(3600, HOUR, 3240, 3960), (240, seconds(528), 200, 1.1 * 264)]
)
def test_idle_keeps_to_the_interval_and_to_how_long_the_numbers_last(
    interval: int, stale_after: timedelta, shortest: float, longest: float
) -> None:
    """An interval of an hour stays one; numbers that last only minutes stay known even if one poll fails."""
    house = House(make_policy(interval), last_change=START, stale_after=stale_after)
    house.live(timedelta(days=1))
    assert shortest <= min(house.gaps()) <= max(house.gaps()) <= longest


@pytest.mark.parametrize(("stale_after", "shortest", "longest"), [(HOUR, 1100, 1300), (HOUR / 2, 800, 960)])
def test_the_status_line_saves_requests_but_not_all(stale_after: timedelta, shortest: int, longest: int) -> None:
    """While it reports the numbers, three of four requests are saved.

    Model windows and money come only from requests: these wait at most half the time until they become unknown.
    """
    house = House(make_policy(300))
    for _ in range(8 * 60):
        house.policy.numbers_arrived(house.now, stale_after)
        house.live(MINUTE)
    assert shortest <= min(house.gaps()[1:]) <= max(house.gaps()) <= longest


def test_an_unlikely_reading_is_confirmed_within_ninety_seconds() -> None:
    """One more poll, a minute later; 75 s if the source repeats its last response for a minute."""
    house = House(make_policy())
    house.live(MINUTE)
    for repeats_for, expected in ((seconds(0), 60), (seconds(60), 75)):
        house.policy.confirm(house.now, repeats_for)
        began, count = house.now, len(house.requests)
        house.live(2 * MINUTE)
        assert len(house.requests) - count <= 2
        assert abs((house.requests[count] - began).total_seconds() - expected) <= 1


@pytest.mark.parametrize("interval", [180, 190, 240])
@pytest.mark.parametrize("has_resets", [False, True])
def test_a_busy_hour_leaves_room_for_the_confirming_poll(interval: int, *, has_resets: bool) -> None:
    """Even at the shortest interval, a jump to the limit is notified of within 90 seconds."""
    house = House(make_policy(interval), resets=[START + number * 31 * MINUTE for number in range(20 * has_resets)])
    for _ in range(8):
        house.live(65 * MINUTE)
        seen = house.now
        house.policy.confirm(house.now)
        count = len(house.requests)
        house.live(2 * MINUTE)
        assert any(SECOND <= at - seen <= 90 * SECOND for at in house.requests[count:])
    assert house.busiest_hour() <= BUDGET


def test_against_a_loopback_endpoint_only_its_429_counts() -> None:
    """The demo and the tests ask as fast as they like, but obey what the endpoint says."""
    house = House(make_policy(1, limited=False))
    house.live(MINUTE)
    assert len(house.requests) > 50
    assert len(house.policy.save()["requests"]) <= 2 * BUDGET
    house.policy.failed(house.now, RateLimited("x", retry_after=MINUTE))
    assert house.policy.due(house.now) == house.now + MINUTE + SHUT_OUT_MARGIN


@pytest.mark.parametrize("error", [RateLimited("x"), RateLimited("x", retry_after=HOUR)])
def test_a_block_survives_a_restart(error: RateLimited) -> None:
    """A restart neither ends a 429 nor forgets whether it belongs to the token or the account."""
    house = House(make_policy(), answer=lambda _: error)
    house.live(MINUTE)
    before = house.policy
    house.restart()
    assert house.policy is not before
    assert house.policy.rate_limit.blocked_until == before.rate_limit.blocked_until
    assert house.policy.rate_limit.blocked_by == (ACCOUNT if error.retry_after else TOKEN)
    assert house.policy.due(house.now) == before.due(house.now)
    house.policy.credentials_changed(house.now)
    assert (house.policy.rate_limit.blocked_until is None) == (error.retry_after is None)


def test_a_back_off_survives_a_restart() -> None:
    """A crash loop with a dead server does not start over at 30 s each time."""
    house = House(make_policy(), answer=lambda _: ServerError("x"))
    house.live(HOUR)
    house.restart()
    count = len(house.requests)
    house.live(HOUR)
    assert len(house.requests) - count <= 8


SOON = st.floats(-(10**6), 10**6).map(lambda s: (START + seconds(s)).isoformat())


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "requests": st.lists(st.floats(START.timestamp() - 10**4, START.timestamp() + 10**6) | values) | values,
            "next_regular": SOON | values,
            "blocked_until": SOON | values,
            "blocked_by": values,
            "slow_until": SOON | values,
            "window_full": values,
            "failures": values,
            "faults": values,
        },
    )
    | values
)
def test_no_memory_can_stop_the_polls_or_break_them(memory: Any) -> None:
    """What others wrote to the broker delays polls by no longer than a block may last, and breaks nothing."""
    house = House(make_policy())
    house.policy.restore(memory, START)
    assert house.policy.requests.last_hour(START) <= 2 * BUDGET + 1
    json.dumps(house.policy.save(), allow_nan=False)
    assert timedelta(0) <= wait_of(house.policy, START) <= LONGEST_BLOCK
    house.live(LONGEST_BLOCK + 2 * HOUR)
    assert house.requests
    assert house.busiest_hour() <= BUDGET


def test_a_clock_set_back_while_the_program_was_away_delays_by_an_hour_at_most() -> None:
    """Requests that seem to lie in the future count as made now."""
    house = House(make_policy())
    house.live(3 * HOUR)
    house.now -= timedelta(days=1)
    house.restart()
    assert wait_of(house.policy, house.now) <= 1.2 * HOUR


@pytest.mark.parametrize("step", [-HOUR, -MINUTE, 10 * MINUTE, timedelta(days=2)])
def test_a_clock_that_is_set_changes_no_wait(step: timedelta) -> None:
    """Waits stay as long as they were, whatever the clock says."""
    house = House(make_policy())
    house.live(20 * MINUTE)
    house.policy.failed(house.now, RateLimited("x"))
    before = wait_of(house.policy, house.now)
    count = house.policy.requests.last_hour(house.now)
    house.policy.clock_stepped(step, house.now + step)
    assert wait_of(house.policy, house.now + step) == before
    assert house.policy.requests.last_hour(house.now + step) == count


def test_a_day_asleep_costs_one_request() -> None:
    """After the host has slept there is one poll, not one for each that was missed."""
    house = House(make_policy(), resets=[START + 5 * HOUR, START + 10 * HOUR])
    house.live(HOUR)
    house.requests.clear()
    house.now += timedelta(days=1)
    house.live(4 * MINUTE)
    assert len(house.requests) == 1
