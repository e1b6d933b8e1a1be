"""The one loop: when to poll, what to publish, when to stop.

paho's thread, signal handlers and workers only put things into its inbox; everything is decided here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial

from claude_usage_mqtt.clock import Clock, StepDetector
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Acknowledged, Connected, Disconnected, Settled, Subscribed
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.service.accounts import Accounts
from claude_usage_mqtt.service.commands import obey
from claude_usage_mqtt.service.connection_log import ConnectionLog
from claude_usage_mqtt.service.former_devices import FormerDevices
from claude_usage_mqtt.service.inbox import Inbox, Item, Outgoing, Stop
from claude_usage_mqtt.service.listeners import Listeners
from claude_usage_mqtt.service.liveness import Liveness
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.reporter_exchange import ReporterExchange
from claude_usage_mqtt.service.routes import Route, Routes
from claude_usage_mqtt.service.startup import Startup
from claude_usage_mqtt.service.workers import Workers
from claude_usage_mqtt.sources.credentials.watch import CachedReading, LoginChanged
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.sources.status_line import parse_statusline
from claude_usage_mqtt.topics import OFFLINE, ONLINE
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.reading import STATUSLINE

log = logging.getLogger(__name__)

RESEND_AFTER_DISCOVERY = 1.0
"""Real seconds: an entity whose announcement has changed is unavailable in Home Assistant until its next message."""

STOP_PATIENCE = 1.2
"""Real seconds for the offline message; stopping takes at most about twice that."""


class Service:
    """Publishes the usage of some accounts until it is asked to stop."""

    def __init__(self, options: ServiceOptions, clock: Clock, rng: random.Random | None = None) -> None:
        self.inbox: Inbox[Item] = Inbox()
        self._options = options
        self._clock = clock
        self._rng = rng or random.Random()
        self._status = f"{options.base_topic}/status"
        will = Message(topic=self._status, payload=OFFLINE, retain=True)
        devices = f"{options.discovery_prefix}/device/"
        self._publisher = Publisher(options.broker, will=will, notify=self.inbox.put, announcements=devices)
        self._workers = Workers(clock, self.inbox.put)
        self._reporters = ReporterExchange(options, self.inbox.put)
        self._listeners = Listeners(clock.to_real(options.settled_after))
        self._accounts = Accounts(
            options, clock, self._rng, self._publisher, self._workers, self._reporters, self._listeners
        )
        self._startup = Startup(options, self._publisher, clock)
        self._routes = Routes(self._table())
        self._is_begun = False
        self._liveness = Liveness(options.base_topic, options.broker.address)
        self._connection_log = ConnectionLog(options.broker.address)
        self._resend_at: float | None = None
        self._clock_steps = StepDetector(clock)

    def _table(self) -> list[Route]:
        """Return the topics and their handlers; commands have their own table (`commands.COMMANDS`)."""
        options, base = self._options, self._options.base_topic
        return [
            *self._reporters.routes(self._accounts.touch, self._clock),
            Route(f"{base}/+/command/+", self._on_command),
            Route(f"{base}/+/statusline", self._on_status_line),
            Route(self._status, self._on_status),
            Route(options.status_topic, self._on_home_assistant, is_early=True, takes_retained=True),
            *(
                Route(
                    options.topics(account).health, partial(self._on_health, account), is_late=True, takes_retained=True
                )
                for account in self._accounts
            ),
        ]

    def stop(self, cause: BaseException | None = None) -> None:
        """Ask the loop to end, by raising the cause if there is one; safe from any thread and from a signal handler."""
        self.inbox.put(Stop(cause))

    def run(self) -> None:
        """Run until stopped. The offline message takes less than 3 s, whatever the broker does."""
        self._publisher.start()
        self._liveness.notify("READY=1")
        try:
            while True:
                self._liveness.beat(alive=self._publisher.is_alive)
                item = self.inbox.get(self._patience())
                if isinstance(item, Stop):
                    return item.obey()
                self._follow_clock()  # before anything is noted at the new time
                if item is not None:
                    self._handle(item)
                self._tick()
        finally:
            self._workers.stop()
            self._liveness.stop()
            last = [Message(topic=self._status, payload=OFFLINE, retain=True)] if self._is_begun else []
            self._publisher.stop(last, STOP_PATIENCE)
            if self._options.usage_log is not None:
                self._options.usage_log.close()

    # What has happened

    def _handle(self, item: Item) -> None:
        match item:
            case Connected():
                self._publisher.handle(item)
                self._connection_log.connected(item, time.monotonic())
                self._listeners.connected(time.monotonic())
                self._connected()
            case Disconnected():
                self._publisher.handle(item)
                self._connection_log.disconnected(item, time.monotonic())
                self._startup.disconnected()
                self._reporters.disconnected()
            case Acknowledged() | Subscribed() | Settled():
                self._publisher.handle(item)
            case Message():
                is_taken = self._publisher.takes(item) or (
                    not self._is_begun and self._startup.take(item, time.monotonic())
                )
                if not is_taken:
                    self._routes.handle(item, is_early=not self._is_begun)
            case PollResult():
                self._finished(item)
            case Outgoing(message=message):
                self._publisher.send_once(message)
            case LoginChanged() | CachedReading():
                self._noticed(item)

    def _noticed(self, item: LoginChanged | CachedReading) -> None:
        state, now = self._accounts.touch(item.account), self._clock.now()
        if isinstance(item, CachedReading):
            self._accounts.note(state, state.take(item.reading, now))
        elif item.fingerprint != state.login.fingerprint and not state.polling.is_busy:
            state.on_login_changed(item, now)

    def _connected(self) -> None:
        self._publisher.subscribe([*self._routes.topics(), *self._reporters.connected()])
        if self._is_begun:
            self._publisher.subscribe(self._routes.topics(late=True), no_local=True)
            self._send_all()
            for account in self._accounts:
                self._accounts.touch(account)
            return
        self._startup.connected(time.monotonic())

    def _finished(self, result: PollResult) -> None:
        state, now = self._accounts.touch(result.account), self._clock.now()
        self._accounts.note(state, state.finish_poll(result, now))
        if result.reading is not None and self._options.usage_log is not None:
            self._options.usage_log.put(state_document(state.usage, now), now)

    # Handlers of topics

    def _on_command(self, message: Message, account: str, name: str) -> None:
        if account in self._accounts:
            obey(self._accounts.touch(account), name, message.payload, self._clock.now())

    def _on_status_line(self, message: Message, account: str) -> None:
        if account not in self._accounts:
            return
        state, now = self._accounts.touch(account), self._clock.now()
        reading = parse_statusline(message.payload, now) if STATUSLINE in state.options.sources else None
        if reading is not None:
            self._accounts.note(state, state.take(reading, now))

    def _on_status(self, message: Message) -> None:
        """Correct somebody else's offline message, or a late will of our own: while we are there, we are online."""
        if message.payload != ONLINE:
            self._publisher.republish(self._status)

    def _on_home_assistant(self, message: Message) -> None:
        is_online = message.payload == ONLINE
        self._listeners.home_assistant(time.monotonic(), is_online=is_online)
        if is_online and self._is_begun:
            self._resend_at = time.monotonic() + self._rng.uniform(1, 10)

    def _on_health(self, account: str, message: Message) -> None:
        if message.payload and not self._publisher.has_sent(message):
            self._accounts.touch(account).other_instance.seen(self._clock.now())

    def _on_former_device(self, former: FormerDevices, message: Message) -> None:
        self._remove(former.found(message))

    # What time brings

    def _tick(self) -> None:
        now = self._clock.now()
        self._connection_log.tick(time.monotonic())
        have_settled = self._listeners.have_settled(time.monotonic())
        if not self._is_begun:
            found = self._startup.found(time.monotonic(), now)
            if found is None:
                return
            self._begin(found, now)
        if self._resend_at is not None and time.monotonic() >= self._resend_at:
            self._resend_at = None
            self._send_all()
        if have_settled:
            self._accounts.deliver(now)
        for account in self._workers.hanging():
            self._accounts.hangs(account)
        self._advance(now)

    def _advance(self, now: datetime) -> None:
        if self._accounts.advance(now):
            self._resend_at = time.monotonic() + RESEND_AFTER_DISCOVERY

    def _begin(self, found: Mapping[str, bytes], now: datetime) -> None:
        self._is_begun = True
        names = list(self._accounts)
        first, _ = self._options.accounts[0]
        former = FormerDevices(
            self._options.topics(SUMMARY),
            names,
            found,
            instance=self._options.instance,
            now=now,
            is_announced=first.discovery,
        )
        self._remove(former.gone)
        self._accounts.restore(found, now, is_moved=len(names) == 1 and bool(former.gone))
        on_former_device = partial(self._on_former_device, former)
        self._routes.add(Route(topic, on_former_device, takes_retained=True) for topic in former.suspects)
        self._publisher.subscribe(former.suspects)
        self._publisher.subscribe(self._routes.topics(late=True), no_local=True)
        self._advance(now)
        self._publisher.retain(self._status, ONLINE)
        log.info("Publishing at %s, accounts: %s", self._options.broker.address, ", ".join(names[:10]))

    def _remove(self, topics: Iterable[str]) -> None:
        for topic in topics:
            log.info("Removing %s: the settings have no account or device for it any longer.", topic)
            self._publisher.retain(topic, b"")

    def _send_all(self) -> None:
        self._publisher.send_all(last=self._status)

    def _patience(self) -> float:
        """Return how many real seconds may pass until something is to be done."""
        real = [self._liveness.patience()]
        waits = (self._connection_log.steady_at, self._resend_at, self._listeners.settled_at)
        real += [at - time.monotonic() for at in waits if at is not None]
        if self._startup.ends_at is not None:
            real.append(self._startup.ends_at - time.monotonic())
        if self._is_begun:
            now = self._clock.now()
            real.append(self._clock.to_real((self._accounts.look_at - now).total_seconds()))
        return max(0.0, min(real))

    def _follow_clock(self) -> None:
        step = self._clock_steps.latest()
        if step is None:
            return
        log.info("The clock was set by %+.0f s.", step.total_seconds())
        self._reporters.clock_stepped(step)
        self._accounts.clock_stepped(step, self._clock.now())
