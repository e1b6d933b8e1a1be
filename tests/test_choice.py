"""Which machine is asked."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import ClaudeUsageError, NetworkError, ServerError, Unauthorized
from claude_usage_mqtt.sources import reporter
from claude_usage_mqtt.sources.account_reporters import AccountReporters
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.reading_json import Busy
from claude_usage_mqtt.sources.reporter import Asks, ReporterSource
from claude_usage_mqtt.sources.reporter_machines import AWAY, OFFLINE, SILENT, Hold, Machine, MachineRegistry, sentence
from claude_usage_mqtt.sources.reporter_messages import AnnouncedLogin
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.usage.reading import OAUTH
from parts import faults
from parts.endpoint import Connect, Endpoint
from parts.service import Clock
from parts.simulation import Simulation, make_state

NOW = dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
OURS, OTHER = Login(account="a" * 16), Login(account="b" * 16)


def reporters(*machines: tuple[str, Login, str], is_online: bool = True) -> AccountReporters:
    """Return the reporters of an account: machines with their logins, and the statuses of these."""
    registry = MachineRegistry(["default"])
    registry.is_connected = True
    found = AccountReporters("default", registry)
    for name, login, status in machines:
        machine = Machine(name, NOW, away_since=None if is_online else NOW)
        machine.login("default").announce(AnnouncedLogin(source=OAUTH, status=status, login=login), is_awake=True)
        assert registry.add(machine, NOW)
    return found


def test_the_machine_that_answered_last_is_asked_first() -> None:
    """A machine that works is kept; then come the others, in a stable order."""
    found = reporters(*((name, OURS, "ok") for name in ("d", "a", "c", "b")))
    assert found.accepts("a", OURS, NOW - 60 * MINUTE)
    assert found.accepts("b", OURS, NOW - MINUTE)
    assert found.to_ask(NOW) == ["b", "a", "c", "d"]


def test_a_machine_that_cannot_answer_is_not_asked() -> None:
    """A machine without a usable login, with another account's login, or asleep is not asked."""
    machines = (("a", OURS, "token_expired"), ("b", OURS, "ok"), ("c", OTHER, "ok"))
    found = reporters(*machines)
    assert found.accepts("b", OURS, NOW)
    assert found.to_ask(NOW) == ["b"]
    assert reporters(*machines, is_online=False).to_ask(NOW) == []


def test_a_silent_machine_is_tried_again() -> None:
    """A machine that did not answer is asked again after a while."""
    found = reporters(("a", OURS, "ok"), ("b", OURS, "ok"))
    found.rejected("a", Hold(SILENT, NOW + MINUTE), NOW)
    assert found.to_ask(NOW) == ["b"]
    assert found.to_ask(NOW + MINUTE) == ["a", "b"]


@pytest.mark.parametrize(
    ("known", "other", "same"),
    [
        (Login(account="a", organization="o"), Login(account="a", organization="p"), True),
        (Login(account="a", organization="o"), Login(account="b", organization="o"), False),
        (Login(organization="o"), Login(account="b", organization="o"), True),
        (Login(organization="o"), Login(account="b", organization="p"), False),
        (Login(account="a"), Login(organization="o"), None),
        (Login(), Login(account="a", organization="o"), None),
    ],
)
def test_logins_are_compared_by_account_first(known: Login, other: Login, same: bool | None) -> None:  # noqa: FBT001
    """Colleagues share an organization; an account that is learned later is not a change."""
    assert known.owner.is_same(other.owner) is same


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (SILENT, "wake one up."),
        ("token_expired", "start Claude Code there once."),
        ("no_credentials", "log in with Claude Code there."),
        ("network_error", "it will be tried again automatically."),
    ],
)
def test_the_advice_fits_what_is_wrong(status: str, advice: str) -> None:
    """Nobody is advised to wake up a machine that is awake, or to log in again because the API is down."""
    machine = Machine(name="laptop", seen_at=dt.datetime(2026, 11, 20, tzinfo=dt.UTC))
    assert sentence([(machine, status)], (), ["default"]).endswith(f"; {advice}")


@pytest.mark.parametrize(("minutes", "status"), [(1, None), (30, "no_reporter")])
def test_a_machine_that_asked_a_moment_ago_is_not_missing(minutes: int, status: str | None) -> None:
    """A second refresh within the minute shows no error; a reached hourly limit is one."""
    found, clock = reporters(("a", OURS, "ok")), SystemClock()
    found.rejected("a", Hold(Busy.status, clock.now() + minutes * MINUTE), NOW)
    result = ReporterSource(found, Asks(lambda *_: None)).poll("default", clock, may_retry=True)
    assert getattr(result.error, "status", None) == status


def test_a_machine_that_has_nothing_new_is_asked_as_often_as_ever() -> None:
    """Claude Code may repeat old numbers for an hour: the end of its reporter's minute causes no poll."""
    found = reporters(("a", OURS, "ok"))
    assert found.has_become_askable(NOW)
    found.rejected("a", Hold(Busy.status, NOW + MINUTE), NOW)
    assert not any(found.has_become_askable(NOW + minutes * MINUTE) for minutes in (0.5, 1, 2))
    found.rejected("a", Hold(Busy.status, NOW + 30 * MINUTE), NOW)
    found.login_failed()
    assert not any(found.has_become_askable(NOW + minutes * MINUTE) for minutes in (3, 29.5))
    assert found.has_become_askable(NOW + 30 * MINUTE)


@pytest.mark.parametrize("status", ["network_error", "invalid_response"])
def test_the_end_of_a_machines_wait_after_a_fault_causes_no_poll(status: str) -> None:
    """While the house has no internet, each machine's five minutes end repeatedly; the back-off decides."""
    found = reporters(("a", OURS, "ok"), ("b", OURS, "ok"))
    assert found.has_become_askable(NOW)
    for name in ("a", "b"):
        found.rejected(name, Hold(status, NOW + 5 * MINUTE), NOW)
    assert not any(found.has_become_askable(NOW + minutes * MINUTE) for minutes in (1, 5, 6))
    assert found.to_ask(NOW + 6 * MINUTE) == ["a", "b"]


def failing_polls(error: ClaudeUsageError, found: AccountReporters | None) -> list[dt.datetime]:
    """Return when an account is polled in an hour in which each poll fails."""

    def world(_: dt.datetime) -> Any:
        raise error

    simulation = Simulation(world, NOW, make_state())
    simulation.state.reporters = found
    simulation.state.tick(NOW)
    simulation.run(NOW + 60 * MINUTE)
    return simulation.polls


@pytest.mark.parametrize("error", [ServerError("out of order"), NetworkError("away")])
def test_in_an_outage_the_waits_grow_though_a_reporter_is_online(error: ClaudeUsageError) -> None:
    """With a request each minute, the hour's budget would be used up when the API is back."""
    polls = failing_polls(error, reporters(("a", OURS, "ok")))
    assert polls == failing_polls(error, None)
    assert len(polls) < 12


def test_a_refused_login_stays_the_reason_while_no_machine_delivers(
    home: Path, endpoint: Endpoint, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a reporter, as most people are, the refused token is the reason, and it is sent again in time."""
    monkeypatch.setattr(reporter, "FIRST_WITHIN", 0.0)
    endpoint.fault = faults.unauthorized()
    source = in_order([ApiSource(CredentialsFile(home), connect()), ReporterSource(reporters(), Asks(lambda *_: None))])
    clock, results = Clock(), []
    for minutes in (0, 5, 9, 13):  # the policy's second try comes after 13.5 minutes at the earliest
        clock.sleep(minutes * MINUTE - dt.timedelta(seconds=clock.steady()))
        results.append(source.poll("default", clock, may_retry=False))
    assert {type(each.error) for each in results} == {Unauthorized}
    assert [each.requests for each in results] == [1, 0, 0, 1]
    assert len({each.fingerprint for each in results}) == 1


@pytest.mark.parametrize("announced", ["ok", "token_expired"])
@pytest.mark.parametrize("hold", [None, Hold(SILENT, NOW + 5 * MINUTE)])
def test_a_machine_that_is_gone_has_one_status(announced: str, hold: Hold | None) -> None:
    """A sleeping laptop has the same status in the list and in the sentence: away, and offline after a while."""
    laptop = Machine("laptop", NOW, away_since=NOW + MINUTE)
    login = laptop.login("default")
    login.announced = AnnouncedLogin(source=OAUTH, status=announced, login=OURS)
    login.hold = hold
    for minutes, expected in ((2, AWAY), (9, AWAY), (12, OFFLINE)):
        now = NOW + minutes * MINUTE
        assert laptop.status(login, now, is_foreign=False) == expected


def test_a_cause_that_all_machines_share_stays_the_status() -> None:
    """While the network is down, machines that wait for their next turn are not reported as missing."""
    found = reporters(("a", OURS, "ok"), ("b", OURS, "ok"))
    found.rejected("a", Hold("network_error", NOW + 5 * MINUTE), NOW)
    assert not found.all_have("network_error", NOW)
    found.rejected("b", Hold("network_error", NOW + 5 * MINUTE), NOW)
    assert found.all_have("network_error", NOW + MINUTE)
    assert not found.all_have("network_error", NOW + 5 * MINUTE)
    assert not reporters().all_have("network_error", NOW)
