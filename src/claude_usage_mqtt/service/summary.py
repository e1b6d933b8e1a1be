"""All accounts together: what their common device shows, and which accounts an earlier run knew. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from claude_usage_mqtt import __version__
from claude_usage_mqtt.homeassistant.discovery import Topics
from claude_usage_mqtt.homeassistant.summary import SUMMARY, summary_discovery
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.announcement import encode
from claude_usage_mqtt.usage.health import NO_PROBLEM
from claude_usage_mqtt.usage.moments import format_instant

MAX_FORMER = 500
ACCOUNT_ID = re.compile(r"[a-z0-9_]{1,40}")


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
    known = [track for track in state.usage.tracks.values() if state.is_fresh(now) and track.is_known(now)]
    return Digest(
        account=state.name,
        label=state.options.label or state.name,
        tightest=max((track.utilization for track in known), default=None),
        next_reset=min((track.resets_at for track in known if track.resets_at and track.resets_at > now), default=None),
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


def former_accounts(payload: bytes | None) -> list[str]:
    """Return the accounts that the summary of an earlier run names, untrusted."""
    try:
        document = json.loads(payload or b"null")
    except (ValueError, RecursionError):
        return []
    names = document.get("accounts") if isinstance(document, dict) else None
    if not isinstance(names, list):
        return []
    return [name for name in names[:MAX_FORMER] if isinstance(name, str) and ACCOUNT_ID.fullmatch(name)]


def leftover_topics(base: str, prefix: str, current: Iterable[str], found: Mapping[str, bytes]) -> list[str]:
    """Return the topics of devices that an earlier run published and this one does not.

    `found` is what stands on the broker under the topics of the summary and of the account `default`.
    """
    current = set(current)
    several = len(current) > 1
    summary = Topics(base=base, account=SUMMARY, prefix=prefix)
    former = {name for name in former_accounts(found.get(summary.state)) if name not in current}
    single = Topics(base=base, account="default", prefix=prefix)
    if "default" not in current and found.keys() & {single.state, single.health, single.config}:
        former.add("default")
    gone = [] if several else [topic for topic in (summary.config, summary.state) if topic in found]
    for name in sorted(former):
        topics = Topics(base=base, account=name, prefix=prefix)
        gone += [topics.config, topics.state, topics.health]
    return gone
