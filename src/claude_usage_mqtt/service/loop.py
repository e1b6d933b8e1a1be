"""The one loop: when to poll, what to publish, when to stop.

paho's thread, signal handlers and workers only put things into its inbox; everything is decided here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from datetime import datetime
from functools import partial

from claude_usage_mqtt.clock import Clock, StepDetector
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Acknowledged, Connected, Disconnected, Settled, Subscribed
from claude_usage_mqtt.service.accounts import Accounts
from claude_usage_mqtt.service.commands import obey
from claude_usage_mqtt.service.former_devices import FormerDevices
from claude_usage_mqtt.service.inbox import Inbox, Item, Outgoing, Stop
from claude_usage_mqtt.service.liveness import Liveness
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.publishing import Publishing
from claude_usage_mqtt.service.routes import Route
from claude_usage_mqtt.service.startup import Startup
from claude_usage_mqtt.service.workers import Workers
from claude_usage_mqtt.sources.credentials.watch import CachedReading, LoginChanged
from claude_usage_mqtt.sources.reporter_exchange import Handler
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.topics import ONLINE
from claude_usage_mqtt.usage.document import state_document

log = logging.getLogger(__name__)


class Service:
    """Publishes the usage of some accounts until it is asked to stop."""

    def __init__(self, options: ServiceOptions, clock: Clock, rng: random.Random | None = None) -> None:
        rng = rng or random.Random()
        self.inbox: Inbox[Item] = Inbox()
        self._options = options
        self._clock = clock
        self._clock_steps = StepDetector(clock)
        self._liveness = Liveness(options.first.topics.base, options.broker.address)
        options.reporters.send = self._send
        self._publishing = Publishing(options, clock, rng, self.inbox.put)
        self._startup = Startup(options, self._publishing.publisher, clock)
        self._accounts = Accounts(options, clock, rng, self._publishing, Workers(clock, self.inbox.put))
        self._publishing.routes.add(self._table())

    def _table(self) -> list[Route]:
        """Return the topics and their handlers; commands have their own table (`commands.COMMANDS`)."""
        base = self._options.first.topics.base
        levels = {source.level for account in self._options.accounts for source in account.pushed}
        return [
            *(
                Route(topic, partial(self._on_reporter, handle), is_early=True, takes_retained=True)
                for topic, handle in self._options.reporters.topics().items()
            ),
            Route(f"{base}/+/command/+", self._on_command),
            *(Route(f"{base}/+/{level}", partial(self._on_pushed, level)) for level in sorted(levels)),
            *(
                Route(account.topics.health, partial(self._on_health, account.topics.account), is_late=True)
                for account in self._options.accounts
            ),
        ]

    def stop(self, cause: BaseException | None = None) -> None:
        """Ask the loop to end, raising the cause if there is one; safe from any thread and from a signal handler."""
        self.inbox.put(Stop(cause))

    def run(self) -> None:
        """Run until stopped. The offline message takes less than 3 s, whatever the broker does."""
        publisher = self._publishing.publisher
        publisher.start()
        self._liveness.notify("READY=1")
        try:
            while True:
                self._liveness.beat(alive=publisher.is_alive())
                item = self.inbox.get(self._patience())
                if isinstance(item, Stop):
                    return item.obey()
                self._follow_clock()  # before anything is recorded at the new time
                if item is not None:
                    self._handle(item)
                self._tick()
        finally:
            self._accounts.stop()
            self._liveness.stop()
            self._publishing.stop()
            if self._options.usage_log is not None:
                self._options.usage_log.close()

    # What has happened

    def _handle(self, item: Item) -> None:
        match item:
            case Connected():
                self._publishing.connected(item, self._options.reporters.connected())
                self._connected()
            case Disconnected():
                self._publishing.publisher.handle(item)
                self._startup.disconnected()
                self._options.reporters.disconnected()
            case Acknowledged() | Subscribed() | Settled():
                self._publishing.publisher.handle(item)
            case Message():
                self._received(item)
            case PollResult():
                self._finished(item)
            case Outgoing(message=message):
                self._publishing.publisher.publish(message)
            case LoginChanged() | CachedReading():
                self._noticed(item)

    def _received(self, message: Message) -> None:
        is_begun = self._publishing.is_begun
        is_taken = self._publishing.publisher.takes(message)
        if not is_taken and (is_begun or not self._startup.take(message, time.monotonic())):
            self._publishing.routes.handle(message, is_early=not is_begun)

    def _send(self, topic: str, payload: bytes) -> None:
        """Send what a worker asks a reporter: only the loop talks to the broker."""
        self.inbox.put(Outgoing(Message(topic=topic, payload=payload)))

    def _noticed(self, item: LoginChanged | CachedReading) -> None:
        state, now = self._accounts.touch(item.account), self._clock.now()
        if isinstance(item, CachedReading):
            self._accounts.note(state, state.take(item.reading, now))
        elif item.fingerprint != state.health.login.fingerprint and not state.polling.is_under_way:
            state.on_login_changed(item, now)

    def _connected(self) -> None:
        if not self._publishing.is_begun:
            self._startup.connected(time.monotonic())
        else:
            for account in self._accounts:
                self._accounts.touch(account)

    def _finished(self, result: PollResult) -> None:
        now = self._clock.now()
        state = self._accounts.finish_poll(result, now)
        if result.reading is not None and self._options.usage_log is not None:
            self._options.usage_log.put(state_document(state.usage, now), now)

    # Handlers of topics

    def _on_command(self, message: Message, account: str, name: str) -> None:
        if account in self._accounts:
            obey(self._accounts.touch(account), name, message.payload, self._clock.now())

    def _on_reporter(self, handle: Handler, message: Message, machine: str) -> None:
        for account in handle(machine, message.payload, self._clock.now(), is_replayed=message.retain):
            self._accounts.touch(account)

    def _on_pushed(self, level: str, message: Message, account: str) -> None:
        if account not in self._accounts:
            return
        state, now = self._accounts.touch(account), self._clock.now()
        for source in state.options.pushed:
            if source.level == level:
                self._accounts.note(state, state.receive(source, message.payload, now))

    def _on_health(self, account: str, message: Message) -> None:
        """Notice another instance, but not by a retained message, which an earlier run of ours may have left."""
        if message.payload and not self._publishing.publisher.has_sent(message):
            self._accounts.touch(account).health.other_instance.seen(self._clock.now())

    # What time brings

    def _tick(self) -> None:
        now = self._clock.now()
        have_settled = self._publishing.tick()
        if not self._publishing.is_begun:
            found = self._startup.found(time.monotonic(), now)
            if found is None:
                return
            self._begin(found, now)
        if have_settled:
            self._accounts.deliver(now)
        self._accounts.report_hanging()
        self._advance(now)

    def _advance(self, now: datetime) -> None:
        if self._accounts.advance(now):
            self._publishing.resend_after_discovery()

    def _begin(self, found: Mapping[str, bytes], now: datetime) -> None:
        names = list(self._accounts)
        former = FormerDevices(self._options, found, now)
        self._accounts.restore(found, now, is_moved=len(names) == 1 and bool(former.gone))
        self._publishing.begin(former)
        self._advance(now)
        self._publishing.publisher.retain(self._options.first.topics.status, ONLINE)
        log.info("Publishing at %s, accounts: %s", self._options.broker.address, ", ".join(names[:10]))

    def _patience(self) -> float:
        """Return how many real seconds may pass before something has to be done."""
        moments = self._publishing.moments()
        if self._startup.ends_at is not None:
            moments.append(self._startup.ends_at)
        real = [self._liveness.patience(), *(moment - time.monotonic() for moment in moments)]
        if self._publishing.is_begun:
            real.append(self._clock.to_real((self._accounts.look_at - self._clock.now()).total_seconds()))
        return max(0.0, min(real))

    def _follow_clock(self) -> None:
        step = self._clock_steps.latest()
        if step is None:
            return
        log.info("The clock was set by %+.0f s.", step.total_seconds())
        self._options.reporters.clock_stepped(step)
        self._accounts.clock_stepped(step, self._clock.now())
