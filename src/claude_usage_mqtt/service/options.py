"""What the settings mean for the service."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.service.usage_log import UsageLog
from claude_usage_mqtt.sources.reporter_exchange import ReporterExchange
from claude_usage_mqtt.sources.source import PolledSource, PushedSource
from claude_usage_mqtt.topics import LONGEST_INTERVAL, SHORTEST_INTERVAL, Topics
from claude_usage_mqtt.usage.account import Rules


class AccountOptions(NamedTuple):
    """What the settings say about an account."""

    topics: Topics
    label: str | None
    interval: timedelta
    limited: bool
    rules: Rules
    discovery: bool = True
    source: PolledSource | None = None
    pushed: tuple[PushedSource, ...] = ()
    instance: str = ""
    """What distinguishes this installation from another that publishes the same account."""
    is_auto: bool = False
    """Whether they are just those available: then a missing one is not reported once another delivers."""

    @property
    def is_polled(self) -> bool:
        """Whether any source is polled."""
        return self.source is not None

    @property
    def shortest_interval(self) -> int:
        """The shortest poll interval that is allowed, in seconds."""
        return SHORTEST_INTERVAL if self.limited else 1

    def allows(self, seconds: int) -> bool:
        """Whether this may be the poll interval."""
        return self.shortest_interval <= seconds <= LONGEST_INTERVAL


class ServiceOptions(NamedTuple):
    """What the loop needs to know; `status_topic` is Home Assistant's."""

    broker: BrokerOptions
    status_topic: str
    accounts: tuple[AccountOptions, ...]
    reporters: ReporterExchange
    usage_log: UsageLog | None = None

    @property
    def first(self) -> AccountOptions:
        """The first account: its base topic, prefix, instance and discovery are the same for all."""
        return self.accounts[0]
