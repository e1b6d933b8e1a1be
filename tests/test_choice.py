"""Which machine is asked."""

import datetime as dt
from typing import Any

import pytest

from claude_usage_mqtt.sources.choice import Candidate, order
from claude_usage_mqtt.sources.source import Login

NOW = dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)


def machine(name: str, **known: Any) -> Candidate:
    """Return a machine that could be asked."""
    return Candidate(machine=name, **{"is_online": True, "is_usable": True, **known})


def names(*candidates: Candidate) -> list[str]:
    """Return who is asked, in this order."""
    return [each.machine for each in order(candidates, NOW)]


def test_whoever_answered_last_is_asked_first() -> None:
    """The machine that works is not changed without need; then the others, in an order that does not jump."""
    long_ago = machine("a", answered_at=NOW - 60 * MINUTE)
    recently = machine("b", answered_at=NOW - MINUTE)
    assert names(machine("d"), long_ago, recently, machine("c")) == ["b", "a", "c", "d"]


@pytest.mark.parametrize(
    "known",
    [
        {"is_online": False},
        {"is_usable": False},
        {"is_foreign": True},
        {"hold_until": NOW + MINUTE},
    ],
)
def test_who_cannot_answer_is_not_asked(known: dict[str, Any]) -> None:
    """Asleep, without a usable login, logged in with another account, or silent a moment ago: not asked."""
    assert names(machine("a", answered_at=NOW, **known), machine("b")) == ["b"]


def test_a_silent_machine_is_tried_again() -> None:
    """A machine that did not answer is asked again after a while."""
    assert names(machine("a", hold_until=NOW)) == ["a"]


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
