"""All accounts together: what their common device shows. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.topics import (
    ASLEEP,
    ASLEEP_TOLERATED,
    FAILURES_TOLERATED,
    FIXED_BY_A_PERSON,
    FIXED_BY_TIME,
)


class Digest(NamedTuple):
    """What the summary needs to know about one account, as far as it is known.

    `tightest` is the utilization of the window closest to its limit among those that stop all work, in percent.
    """

    account: str
    label: str
    tightest: float | None
    blocked: bool | None
    blocked_until: datetime | None
    next_reset: datetime | None
    has_problem: bool


def digest(state: AccountState, now: datetime) -> Digest:
    """Return the digest of an account as of `now`."""
    known, where = state.usage.known_windows(now), state.usage.standing(now)
    health, failures = state.health, state.polling.policy.failures.count
    machines = [] if state.reporters is None else [reporter["status"] for reporter in state.reporters.documents(now)]
    return Digest(
        account=state.name,
        label=state.options.label or state.name,
        tightest=None if where.tightest is None else where.tightest.utilization,
        blocked=where.blocked,
        blocked_until=where.blocked_until,
        next_reset=min((w.resets_at for w in known if w.resets_at and w.resets_at > now), default=None),
        has_problem=state.polling.is_on and is_problem(health.status, failures, health.last_success, machines, now),
    )


def is_problem(status: str, failures: int, last_success: datetime | None, machines: list[str], now: datetime) -> bool:
    """Whether a status is a problem yet; the template of the entity `problem` must agree.

    `machines` are the statuses of the reporters.
    """
    if status in FIXED_BY_TIME:
        return failures >= FAILURES_TOLERATED
    if status in ASLEEP:
        is_late = last_success is None or last_success < now - timedelta(seconds=ASLEEP_TOLERATED)
        return is_late or (bool(machines) and set(machines) <= set(FIXED_BY_A_PERSON))
    return status in FIXED_BY_A_PERSON


def summarize(digests: Iterable[Digest]) -> dict[str, Any]:
    """Return the summary's state document."""
    digests = list(digests)
    tightest = {entry.label: entry.tightest for entry in digests if entry.tightest is not None}
    free = [entry.label for entry in digests if entry.label in tightest and entry.blocked is False]
    highest = max(tightest, key=tightest.__getitem__, default=None)
    blocked = [entry for entry in digests if entry.blocked]
    is_blocked = len(blocked) == len(digests)
    return {
        "accounts": [entry.account for entry in digests],
        "blocked": True if is_blocked else False if any(entry.blocked is False for entry in digests) else None,
        "blocked_until": _first(entry.blocked_until for entry in blocked) if is_blocked else None,
        "blocked_accounts": [entry.label for entry in blocked],
        "highest_utilization": None if highest is None else tightest[highest],
        "highest_account": highest,
        "headroom_account": min(free, key=tightest.__getitem__, default=None),
        "next_reset": _first(entry.next_reset for entry in digests),
        "problems": sum(entry.has_problem for entry in digests),
    }


def _first(instants: Iterable[datetime | None]) -> str | None:
    return format_instant(min((instant for instant in instants if instant is not None), default=None))
