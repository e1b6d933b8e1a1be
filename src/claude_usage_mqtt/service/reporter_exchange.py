"""The service's side of the reporters' topics: what it subscribes to, what it sends there, who gets what arrives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.service.inbox import Outgoing
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.reporters import Reporters
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

    def connected(self) -> list[str]:
        """Note a connection to the broker; return what to subscribe to.

        Known machines by name too: not every broker replays retained messages to a wildcard.
        """
        if not self._accounts:
            return []
        self.reporters.connected(is_connected=True)
        known = [ReporterTopics(base=self._base, machine=name).presence for name in self.reporters.names()]
        return [f"{self._base}/reporter/+", f"{self._base}/reporter/+/answer", *known]

    def disconnected(self) -> None:
        """Note that the connection is lost."""
        self.reporters.connected(is_connected=False)

    def take(self, message: Message, now: datetime) -> set[str] | None:
        """Take in a message; return the accounts that it concerns, None if it is not from a reporter."""
        base = f"{self._base}/reporter/"
        if not message.topic.startswith(base):
            return None
        machine, *rest = message.topic.removeprefix(base).split("/")
        if not rest:
            concerned = self.reporters.presence(machine, message.payload, now, is_replayed=message.retain)
            if not self.reporters.is_online(machine):
                self._asks.give_up(machine)
            return concerned
        if rest != ["answer"] or message.retain or self._asks.deliver(machine, message.payload):
            return set()
        return self.reporters.somebody_asked(machine, message.payload, now)
