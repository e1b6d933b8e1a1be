"""An account as the loop keeps it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime

from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.options import AccountOptions
from claude_usage_mqtt.service.reporters import Reporters
from claude_usage_mqtt.service.summary import Digest, digest
from claude_usage_mqtt.sources.policy import Policy
from claude_usage_mqtt.sources.source import Source
from claude_usage_mqtt.usage.reading import REPORTER


@dataclass(slots=True, kw_only=True)
class Watched:
    """An account in the loop.

    `look_at` is when there is something to do for it by time alone.
    """

    state: AccountState
    source: Source | None
    digest: Digest
    look_at: datetime
    has_polled: bool = False


def watch(
    options: AccountOptions, source: Source | None, rng: random.Random, now: datetime, reporters: Reporters
) -> Watched:
    """Return an account of which nothing is known yet."""
    policy = Policy(interval=options.interval, limited=options.limited, rng=rng)
    state = AccountState(options, policy, reporters if REPORTER in options.sources else None)
    return Watched(state=state, source=source, digest=digest(state, now), look_at=now)
