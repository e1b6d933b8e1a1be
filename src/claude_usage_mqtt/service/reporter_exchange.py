"""The service's side of the reporters' topics: what it subscribes to, what it sends there, who gets what arrives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.service.inbox import Outgoing
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.reporters import Reporters
from claude_usage_mqtt.service.routes import Route
from claude_usage_mqtt.sources.reporter import Asks, ReporterSource
from claude_usage_mqtt.topics import ReporterTopics
from claude_usage_mqtt.usage.reading import REPORTER


class ReporterExchange:
    """Asks reporters for the accounts that have them as a source; does nothing if there are none.

    Workers ask through `put`: only the loop talks to the broker.
    """

    def __init__(self, options: ServiceOptions, put: Callable[[Outgoing], None]) -> None:
        self._base = options.base_topic
        self._accounts = {each.topics.account for each, _ in options.accounts if REPORTER in each.sources}
        self._put = put
        self._asks = Asks(self._send)
        self.reporters = Reporters(self._accounts)

    def _send(self, machine: str, payload: bytes) -> None:
        self._put(Outgoing(Message(topic=ReporterTopics(base=self._base, machine=machine).ask, payload=payload)))

    def source(self, account: str) -> ReporterSource | None:
        """Return the reporters of an account as a source, None if it does not have them."""
        return ReporterSource(self.reporters, self._asks) if account in self._accounts else None

    def routes(self, touch: Callable[[str], object], clock: Clock) -> list[Route]:
        """Return the topics of reporters; `touch` is called with each account that a message concerns."""

        def announced(message: Message, machine: str) -> None:
            for account in self._announced(machine, message, clock.now()):
                touch(account)

        def answered(message: Message, machine: str) -> None:
            if not self._asks.deliver(machine, message.payload):
                for account in self.reporters.somebody_asked(machine, message.payload, clock.now()):
                    touch(account)

        if not self._accounts:
            return []
        any_reporter = ReporterTopics(base=self._base, machine="+")
        return [
            Route(any_reporter.presence, announced, is_early=True, takes_retained=True),
            Route(any_reporter.answer, answered, is_early=True),
        ]

    def _announced(self, machine: str, message: Message, now: datetime) -> set[str]:
        concerned = self.reporters.presence(machine, message.payload, now, is_replayed=message.retain)
        if not self.reporters.is_online(machine):
            self._asks.give_up(machine)
        return concerned

    def connected(self) -> list[str]:
        """Note a connection to the broker; return the known machines' topics.

        They are subscribed to by name too: not every broker replays retained messages to a wildcard.
        """
        self.reporters.connected(is_connected=True)
        return [ReporterTopics(base=self._base, machine=name).presence for name in self.reporters.names()]

    def disconnected(self) -> None:
        """Note that the connection is lost."""
        self.reporters.connected(is_connected=False)
