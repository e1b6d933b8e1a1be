"""An account as the loop keeps it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from claude_usage_mqtt.errors import CredentialsUnreadable
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.options import AccountOptions
from claude_usage_mqtt.service.reporter_exchange import ReporterExchange
from claude_usage_mqtt.service.summary import Digest, digest
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.policy import Policy
from claude_usage_mqtt.sources.source import Source


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
    alive_until: datetime | None = None
    """The sign of life that was published last."""

    def report_hanging(self) -> None:
        """Show that the poll under way does not end."""
        place = "The login" if self.source is None else self.source.place
        self.state.report(CredentialsUnreadable(f"{place} cannot be read: reading it hangs."))


def watch(
    options: AccountOptions, sources: Iterable[Source], exchange: ReporterExchange, rng: random.Random, now: datetime
) -> Watched:
    """Return an account of which nothing is known yet."""
    policy = Policy(interval=options.interval, limited=options.limited, rng=rng)
    reporters = exchange.source(options.topics.account)
    state = AccountState(options, policy, None if reporters is None else exchange.reporters)
    source = in_order([*sources, *([] if reporters is None else [reporters])])
    return Watched(state=state, source=source, digest=digest(state, now), look_at=now)
