"""All accounts together: what their common device shows, and which accounts an earlier run knew. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from claude_usage_mqtt import __version__
from claude_usage_mqtt.homeassistant.summary import summary_discovery
from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.topics import NO_PROBLEM, Topics, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What the summary needs of one account: its tightest window (percent) and its next reset, where fresh."""

    account: str
    label: str
    tightest: float | None
    next_reset: datetime | None
    has_problem: bool


def digest(state: AccountState, now: datetime) -> Digest:
    """Return the digest of an account as of `now`."""
    known = state.usage.known_windows(now)
    return Digest(
        account=state.name,
        label=state.options.label or state.name,
        tightest=max((window.utilization for window in known), default=None),
        next_reset=min((w.resets_at for w in known if w.resets_at and w.resets_at > now), default=None),
        has_problem=state.status not in NO_PROBLEM,
    )


def summary_documents(topics: Topics, digests: list[Digest], *, announce: bool) -> Iterator[tuple[str, bytes]]:
    """Yield topics and payloads for the device of all accounts; none where there is only one."""
    if len(digests) > 1:
        yield topics.state, encode(summarize(digests))
        if announce:
            yield topics.config, encode(summary_discovery(topics, __version__))


def summarize(digests: Iterable[Digest]) -> dict[str, Any]:
    """Return the summary's state document."""
    digests = list(digests)
    tightest = {each.label: each.tightest for each in digests if each.tightest is not None}
    highest = max(tightest, key=tightest.__getitem__, default=None)
    return {
        "accounts": [each.account for each in digests],
        "highest_utilization": None if highest is None else tightest[highest],
        "highest_account": highest,
        "headroom_account": min(tightest, key=tightest.__getitem__, default=None),
        "next_reset": format_instant(min((each.next_reset for each in digests if each.next_reset), default=None)),
        "problems": sum(each.has_problem for each in digests),
    }
