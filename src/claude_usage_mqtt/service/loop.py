"""The one loop: when to poll, what to publish, when to stop.

paho's thread, signal handlers and workers only put things into its inbox; everything is decided here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from claude_usage_mqtt.clock import Clock, StepDetector
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Acknowledged, Connected, Disconnected, Settled, Subscribed
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.service.accounts import Accounts
from claude_usage_mqtt.service.commands import COMMANDS, obey
from claude_usage_mqtt.service.connection_log import ConnectionLog
from claude_usage_mqtt.service.former_devices import FormerDevices
from claude_usage_mqtt.service.inbox import Inbox, Item, Outgoing, Stop
from claude_usage_mqtt.service.listeners import Listeners
from claude_usage_mqtt.service.liveness import Liveness
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.reporter_exchange import ReporterExchange
from claude_usage_mqtt.service.routes import Route
from claude_usage_mqtt.service.startup import Startup
from claude_usage_mqtt.service.succession import inherited
from claude_usage_mqtt.service.workers import Workers
from claude_usage_mqtt.sources.credentials.watch import CachedReading, LoginChanged
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.sources.status_line import parse_statusline
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, OFFLINE, ONLINE, Topics
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.reading import STATUSLINE

log = logging.getLogger(__name__)

MOVE_PAUSE = timedelta(seconds=3)
"""From the removal of a predecessor's device to the announcement of its successor: Home Assistant frees the entity ids
meanwhile."""

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
            options, self._publisher, self._workers, self._listeners, self._reporters, clock, self._rng
        )
        self._startup = Startup(options, self._publisher, clock)
        self._former_devices: FormerDevices | None = None
        self._is_begun = False
        self._heartbeat = Liveness(options.base_topic, options.broker.address)
        self._link = ConnectionLog(options.broker.address)
        self._steps = StepDetector(clock)
        base = options.base_topic
        self._routes = (
            Route(options.status_topic, self._on_home_assistant),
            Route(self._status, self._on_status),
            Route(f"{base}/+/command/+", self._on_command),
            Route(f"{base}/+/statusline", self._on_status_line),
        )
        # Subscribed to later, by name and without our own messages.
        self._other_instances = Route(f"{base}/+/health", self._on_health)

    def stop(self, cause: BaseException | None = None) -> None:
        """Ask the loop to end, by raising the cause if there is one; safe from any thread and from a signal handler."""
        self.inbox.put(Stop(cause))

    def run(self) -> None:
        """Run until stopped. The offline message takes less than 3 s, whatever the broker does."""
        self._publisher.start()
        self._heartbeat.notify("READY=1")
        try:
            while True:
                self._heartbeat.beat(alive=self._publisher.is_alive)
                item = self.inbox.get(self._patience())
                if isinstance(item, Stop):
                    return item.obey()
                self._follow_clock()  # before anything is noted at the new time
                if item is not None:
                    self._handle(item)
                self._tick()
        finally:
            self._workers.stop()
            self._heartbeat.stop()
            last = [Message(topic=self._status, payload=OFFLINE, retain=True)] if self._is_begun else []
            self._publisher.stop(last, STOP_PATIENCE)

    # What has happened

    def _handle(self, item: Item) -> None:
        match item:
            case Connected():
                self._publisher.handle(item)
                self._link.connected(item, time.monotonic())
                self._listeners.connected(time.monotonic())
                self._connected()
            case Disconnected():
                self._publisher.handle(item)
                self._link.disconnected(item, time.monotonic())
                self._startup.disconnected()
                self._reporters.disconnected()
            case Acknowledged() | Subscribed() | Settled():
                self._publisher.handle(item)
            case Message():
                if not self._publisher.takes(item):
                    self._received(item)
            case PollResult():
                self._finished(item)
            case Outgoing(message=message):
                self._publisher.send_once(message)
            case LoginChanged() | CachedReading():
                self._noticed(item)

    def _noticed(self, item: LoginChanged | CachedReading) -> None:
        state, now = self._accounts.touched(item.account).state, self._clock.now()
        if isinstance(item, CachedReading):
            self._accounts.note(state, state.take(item.reading, now))
        elif item.fingerprint != state.fingerprint and not state.busy:
            state.on_login_changed(item, now)

    def _connected(self) -> None:
        self._publisher.subscribe([*(route.topic_filter for route in self._routes), *self._reporters.connected()])
        if not self._is_begun:
            self._startup.connected(time.monotonic())
            return
        self._watch_for_other_instances()
        self._send_all()
        for account in self._accounts:
            self._accounts.touched(account)

    def _received(self, message: Message) -> None:
        if not self._is_begun and self._startup.take(message, time.monotonic()):
            return
        if (concerned := self._reporters.take(message, self._clock.now())) is not None:
            for account in concerned:
                self._accounts.touched(account)
            return
        if self._former_devices is not None and (topics := self._former_devices.claim(message)) is not None:
            self._remove(topics)
            return
        for route in (*self._routes, self._other_instances):
            levels = route.levels(message.topic)
            if levels is not None:
                route.handle(message, *levels)

    def _on_home_assistant(self, message: Message) -> None:
        is_online = message.payload == ONLINE
        self._listeners.home_assistant(time.monotonic(), is_online=is_online)
        if is_online and self._is_begun:
            self._accounts.resend_at = time.monotonic() + self._rng.uniform(1, 10)

    def _on_status(self, message: Message) -> None:
        # Somebody else's offline message, or a late will of our own: as long as we are there, we are online.
        if self._is_begun and not message.retain and message.payload != ONLINE:
            self._publisher.republish(self._status)

    def _on_command(self, message: Message, account: str, name: str) -> None:
        # A retained command is an old one, and would be obeyed again at each connection.
        if self._is_published(account) and not message.retain and name in COMMANDS:
            obey(self._accounts.touched(account).state, name, message.payload, self._clock.now())

    def _on_status_line(self, message: Message, account: str) -> None:
        if not self._is_published(account) or message.retain:
            return
        state, now = self._accounts.touched(account).state, self._clock.now()
        reading = parse_statusline(message.payload, now) if STATUSLINE in state.options.sources else None
        if reading is not None:
            self._accounts.note(state, state.take(reading, now))

    def _on_health(self, message: Message, account: str) -> None:
        if self._is_published(account) and message.payload and not self._publisher.has_sent(message):
            self._accounts.touched(account).state.saw_other_instance(self._clock.now())

    def _is_published(self, account: str) -> bool:
        return self._is_begun and account in self._accounts

    def _finished(self, outcome: PollResult) -> None:
        watched = self._accounts.touched(outcome.account)
        now = self._clock.now()
        events = watched.state.finish_poll(outcome, now)
        self._accounts.note(watched.state, events)
        if outcome.reading is not None and self._options.usage_log is not None:
            self._options.usage_log.write(state_document(watched.state.usage, now), now)

    # What time brings

    def _tick(self) -> None:
        now = self._clock.now()
        self._link.tick(time.monotonic())
        have_settled = self._listeners.have_settled(time.monotonic())
        if not self._is_begun:
            found = self._startup.found(time.monotonic(), now)
            if found is None:
                return
            self._begin(found, now)
        if self._accounts.resend_at is not None and time.monotonic() >= self._accounts.resend_at:
            self._accounts.resend_at = None
            self._send_all()
        if have_settled:
            self._accounts.deliver(now)
        for account in self._workers.hanging():
            self._accounts.touched(account).report_hanging()
        self._accounts.advance(now)

    def _begin(self, found: Mapping[str, bytes], now: datetime) -> None:
        self._is_begun = True
        instance = self._options.instance
        self._former_devices = FormerDevices(self._topics(SUMMARY), self._accounts, found, instance=instance, now=now)
        self._remove(self._former_devices.gone)
        for watched in self._accounts.values():
            topics = watched.state.options.topics
            former = inherited(found, topics) if len(self._accounts) == 1 and self._former_devices.gone else {}
            watched.state.restore({**found, **former}, now)
            if former:
                watched.state.discovery.entity_ids_of = DEFAULT_ACCOUNT
            self._publisher.remember_own(topics.health, found.get(topics.health, b""))
            watched.look_at = now + (MOVE_PAUSE if former else timedelta(0))
        self._workers.watch_logins(self._accounts.values())
        self._publisher.subscribe(self._former_devices.suspects)
        self._watch_for_other_instances()
        self._accounts.advance(now)
        self._publisher.retain(self._status, ONLINE)
        names = ", ".join(list(self._accounts)[:10])
        log.info("Publishing at %s, accounts: %s", self._options.broker.address, names)

    def _remove(self, topics: Iterable[str]) -> None:
        for topic in topics:
            log.info("Removing %s: its account is no longer configured.", topic)
            self._publisher.retain(topic, b"")

    def _topics(self, name: str) -> Topics:
        return Topics(base=self._options.base_topic, account=name, prefix=self._options.discovery_prefix)

    def _watch_for_other_instances(self) -> None:
        topics = [watched.state.options.topics.health for watched in self._accounts.values()]
        self._publisher.subscribe(topics, no_local=True)

    def _send_all(self) -> None:
        self._publisher.send_all(last=self._status)

    def _patience(self) -> float:
        """Return how many real seconds may pass until something is to be done."""
        real = [self._heartbeat.patience()]
        waits = (self._link.steady_at, self._accounts.resend_at, self._listeners.settled_at)
        real += [at - time.monotonic() for at in waits if at is not None]
        if self._startup.ends_at is not None:
            real.append(self._startup.ends_at - time.monotonic())
        if self._is_begun:
            now = self._clock.now()
            real.append(self._clock.to_real((self._accounts.look_at() - now).total_seconds()))
        return max(0.0, min(real))

    def _follow_clock(self) -> None:
        step = self._steps.latest()
        if step is None:
            return
        log.info("The clock was set by %+.0f s.", step.total_seconds())
        self._reporters.reporters.shift(step)
        self._accounts.clock_stepped(step)
