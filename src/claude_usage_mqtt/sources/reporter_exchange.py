"""The publisher's side of the reporters' topics: what to subscribe to, what to send, and who gets what arrives.

What arrives may come from anybody who may publish there: it is parsed, bounded, and believed only as far as necessary.
It does not talk to the broker itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from claude_usage_mqtt.sources.account_reporters import AccountReporters
from claude_usage_mqtt.sources.reporter import Asks, ReporterSource
from claude_usage_mqtt.sources.reporter_machines import Machine, MachineRegistry, sentence
from claude_usage_mqtt.sources.reporter_messages import MACHINE, Presence, parse_answer, parse_presence
from claude_usage_mqtt.topics import ReporterTopics

Handler = Callable[..., set[str]]
"""Takes the machine's name, the payload, and when it came; with `is_replayed` if it was retained. Returns the accounts
that it concerns."""


class ReporterExchange:
    """Asks reporters for the `accounts` that have them as a source; does nothing if there are none.

    Workers ask through `send`, which the service sets: it gets a topic and a payload, from any thread.
    """

    def __init__(self, base_topic: str, accounts: Iterable[str] = ()) -> None:
        self.send: Callable[[str, bytes], None] | None = None
        self._base = base_topic
        self._asks = Asks(self._send)
        self._registry = MachineRegistry(accounts)
        self._accounts = {account: AccountReporters(account, self._registry) for account in self._registry.accounts}

    def _send(self, machine: str, payload: bytes) -> None:
        if self.send is not None:
            self.send(ReporterTopics(base=self._base, machine=machine).ask, payload)

    def reporters(self, account: str) -> AccountReporters | None:
        """Return the reporters of an account, None if it does not have them as a source."""
        return self._accounts.get(account)

    def sources(self, account: str) -> tuple[ReporterSource, ...]:
        """Return the reporters of an account as a source, if it has them."""
        return (ReporterSource(self._accounts[account], self._asks),) if account in self._accounts else ()

    def topics(self) -> dict[str, Handler]:
        """Return what to subscribe to, with its handlers."""
        any_reporter = ReporterTopics(base=self._base, machine="+")
        return {any_reporter.presence: self._announced, any_reporter.answer: self._answered} if self._accounts else {}

    def _announced(self, name: str, payload: bytes, now: datetime, *, is_replayed: bool) -> set[str]:
        """Process what a reporter announced, or its last will."""
        presence = parse_presence(payload) if payload else Presence(online=False)
        with self._registry.changed:
            machine = self._registry.machines.get(name)
            if presence is not None and presence.online and MACHINE.fullmatch(name):
                concerned = self._arrived(name, machine, presence, now, is_replayed=is_replayed)
                self._registry.changed.notify_all()
                return concerned
            if presence is None or machine is None or not machine.online:
                return set()
            machine.away_since = now
            if not payload:  # a clean shutdown; a last will comes from the broker, long after it slept
                machine.seen_at = now
            self._asks.give_up(name)
            return machine.accounts

    def _arrived(
        self, name: str, machine: Machine | None, presence: Presence, now: datetime, *, is_replayed: bool
    ) -> set[str]:
        """Note what a reporter has; a replayed message does not mean that the machine was there just now."""
        announced = {account: login for account, login in presence.accounts.items() if account in self._accounts}
        if not announced:
            self._registry.mention(name, "", sentence([], [name], self._accounts))
        if machine is None:
            machine = Machine(name, now)
            if not announced or not self._registry.add(machine, now):
                return set()
        is_awake = not (machine.online and is_replayed)
        machine.away_since, machine.seen_at = None, now
        changed = announced.keys() | machine.accounts
        for account in changed:
            login = machine.login(account)
            login.announce(announced.get(account), is_awake=is_awake)
            self._accounts[account].compare(login, now)
        return changed

    def _answered(self, machine: str, payload: bytes, now: datetime, *, is_replayed: bool) -> set[str]:
        """Hand over an answer; if somebody else asked for it, note its requests."""
        answer = parse_answer(payload, now, machine)
        if is_replayed or answer is None or self._asks.deliver(machine, answer):
            return set()
        with self._registry.changed:
            known = self._registry.machines.get(machine)
            if not answer.requests or known is None or answer.account not in known.accounts:
                return set()
            self._accounts[answer.account].unasked += answer.requests
            return {answer.account}

    def connected(self) -> list[str]:
        """Note a connection to the broker; return the known machines' topics.

        They are also subscribed to by name: not every broker replays retained messages to a wildcard.
        """
        with self._registry.changed:
            self._registry.is_connected = True
            return [ReporterTopics(base=self._base, machine=name).presence for name in sorted(self._registry.machines)]

    def disconnected(self) -> None:
        """Note that the connection is lost."""
        with self._registry.changed:
            self._registry.is_connected = False

    def clock_stepped(self, step: timedelta) -> None:
        """Follow a clock that was set by `step`."""
        with self._registry.changed:
            for account in self._accounts.values():
                account.clock_stepped(step)
            for machine in self._registry.machines.values():
                machine.clock_stepped(step)
