"""The one loop: when to poll, what to publish, when to stop.

paho's thread, signal handlers and workers only put things into its inbox; everything is decided here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from claude_usage_mqtt.clock import Clock, StepDetector
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Acknowledged, Connected, Disconnected, Settled, Subscribed
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.commands import COMMANDS, obey
from claude_usage_mqtt.service.connection_log import ConnectionLog
from claude_usage_mqtt.service.documents import documents, memory_document
from claude_usage_mqtt.service.former_devices import FormerDevices
from claude_usage_mqtt.service.inbox import Inbox, Item, Outgoing, Stop
from claude_usage_mqtt.service.listeners import Listeners
from claude_usage_mqtt.service.liveness import Liveness
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.reporter_exchange import ReporterExchange
from claude_usage_mqtt.service.startup import Startup
from claude_usage_mqtt.service.succession import inherited
from claude_usage_mqtt.service.summary import digest, summary_documents
from claude_usage_mqtt.service.watched import Watched, watch
from claude_usage_mqtt.service.workers import Workers
from claude_usage_mqtt.sources.credentials.watch import CachedReading, LoginChanged
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.sources.status_line import parse_statusline
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, OFFLINE, ONLINE, Topics, encode
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import STATUSLINE

log = logging.getLogger(__name__)

FAR_AWAY = datetime.max.replace(tzinfo=UTC)

RESEND_AFTER_DISCOVERY = 1.0
"""Real seconds: an entity whose announcement has changed is unavailable in Home Assistant until its next message."""

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
        self._accounts = {
            account.topics.account: watch(account, sources, self._reporters, self._rng, clock.now())
            for account, sources in options.accounts
        }
        self._startup = Startup(options, self._publisher, clock)
        self._former_devices: FormerDevices | None = None
        self._is_begun = False
        self._is_summed = False
        self._heartbeat = Liveness(options.base_topic, options.broker.address)
        self._link = ConnectionLog(options.broker.address)
        self._resend_at: float | None = None
        self._listeners = Listeners(clock.to_real(options.settled_after))
        self._steps = StepDetector(clock)

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
        state, now = self._touched(item.account).state, self._clock.now()
        if isinstance(item, CachedReading):
            self._note(state, state.take(item.reading, now))
        elif item.fingerprint != state.fingerprint and not state.busy:
            state.on_login_changed(item, now)

    def _connected(self) -> None:
        base = self._options.base_topic
        commands = [f"{base}/+/command/+", f"{base}/+/statusline"]
        self._publisher.subscribe([*commands, self._options.status_topic, self._status, *self._reporters.connected()])
        if self._is_begun:
            self._watch_for_other_instances()
            self._send_all()
            for account in self._accounts:
                self._touched(account)
            return
        self._startup.connected(time.monotonic())

    def _received(self, message: Message) -> None:
        if not self._is_begun and self._startup.take(message, time.monotonic()):
            return
        if message.topic == self._options.status_topic:
            self._listeners.home_assistant(time.monotonic(), is_online=message.payload == ONLINE)
            if message.payload == ONLINE and self._is_begun:
                self._resend_at = time.monotonic() + self._rng.uniform(1, 10)
        elif (concerned := self._reporters.take(message, self._clock.now())) is not None:
            for account in concerned:
                self._touched(account)
        elif not self._is_begun:
            return
        elif message.topic == self._status:
            # Somebody else's offline message, or a late will of our own: as long as we are there, we are online.
            if not message.retain and message.payload != ONLINE:
                self._publisher.republish(self._status)
        elif self._former_devices is not None and (topics := self._former_devices.claim(message)) is not None:
            self._remove(topics)
        else:
            self._received_for_account(message)

    def _received_for_account(self, message: Message) -> None:
        account, *rest = message.topic.removeprefix(self._options.base_topic + "/").split("/")
        if account not in self._accounts or (message.retain and rest != ["health"]):
            return  # a retained command is an old one, and would be obeyed again at each connection
        if rest == ["health"] and (not message.payload or self._publisher.has_sent(message)):
            return  # some brokers send back what is our own
        watched = self._touched(account)
        match rest:
            case ["command", name] if name in COMMANDS:
                obey(watched.state, name, message.payload, self._clock.now())
            case ["statusline"] if STATUSLINE in watched.state.options.sources:
                self._take_status_line(watched.state, message.payload)
            case ["health"]:
                watched.state.saw_other_instance(self._clock.now())

    def _take_status_line(self, state: AccountState, payload: bytes) -> None:
        now = self._clock.now()
        usage = parse_statusline(payload, now)
        if usage is not None:
            self._note(state, state.take(usage, now))

    def _finished(self, outcome: PollResult) -> None:
        watched = self._touched(outcome.account)
        now = self._clock.now()
        events = watched.state.finish_poll(outcome, now)
        self._note(watched.state, events)
        if outcome.reading is not None and self._options.usage_log is not None:
            self._options.usage_log.write(state_document(watched.state.usage, now), now)

    def _touched(self, account: str) -> Watched:
        """Return an account that something happened to, so that what follows from it is done at once."""
        watched = self._accounts[account]
        watched.look_at = self._clock.now()
        return watched

    def _note(self, state: AccountState, events: Iterable[Event]) -> None:
        for event in events:
            log.info("Account %s: %s", state.name, event)
        state.delivery.add(events)

    def _deliver(self, state: AccountState, now: datetime) -> None:
        """Send the events that wait, after the memory that holds them was published."""
        if not self._publisher.is_connected or self._listeners.settled_at is not None:
            return
        is_there = self._listeners.is_home_assistant_there
        if state.delivery.has_due(is_home_assistant_there=is_there):
            for level, payload in state.delivery.take(now, is_home_assistant_there=is_there):
                self._publisher.send(state.options.topics.event(level), payload)
            self._publisher.retain(state.options.topics.memory, encode(memory_document(state)))

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
        if self._resend_at is not None and time.monotonic() >= self._resend_at:
            self._resend_at = None
            self._send_all()
        if have_settled:
            for watched in self._accounts.values():
                self._deliver(watched.state, now)
        for account in self._workers.hanging():
            self._touched(account).report_hanging()
        self._advance_all(now)

    def _advance_all(self, now: datetime) -> None:
        due = [watched for watched in self._accounts.values() if watched.look_at <= now]
        before = [watched.digest for watched in due]
        renewed = [self._advance(watched, now) for watched in due]
        if [watched.digest for watched in due] != before or any(renewed) or not self._is_summed:
            announce = not self._is_summed and self._options.accounts[0][0].discovery
            self._is_summed = True
            digests = [watched.digest for watched in self._accounts.values()]
            alive = self._options.accounts[0][0].topics.health
            for topic, payload in summary_documents(self._topics(SUMMARY), digests, announce=announce, alive=alive):
                self._publisher.retain(topic, payload, again=any(renewed))

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
        self._advance_all(now)
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

    def _advance(self, watched: Watched, now: datetime) -> bool:
        """Do what is due for an account, note when to look at it again, and return whether a sign of life was due."""
        state = watched.state
        due = state.due(now)
        begins = watched.source is not None and due is not None and due <= now
        may_retry = begins and state.begin_poll(now)
        announced = state.discovery.payload
        state.tick(now)
        is_renewed = state.alive.until != watched.alive_until
        if is_renewed or not (begins and watched.has_polled):
            # Before the first request its trace is published, so that a crash during it is remembered too.
            for topic, payload in documents(state, now):
                self._publisher.retain(topic, payload, again=is_renewed and topic == state.options.topics.state)
            if announced and announced != state.discovery.payload:
                self._resend_at = time.monotonic() + RESEND_AFTER_DISCOVERY
            watched.digest, watched.alive_until = digest(state, now), state.alive.until
            self._deliver(state, now)
        watched.has_polled = watched.has_polled or begins
        if begins:
            self._workers.poll(watched, may_retry=may_retry)
        moments = [state.due(now), state.wake_at(now)]
        watched.look_at = min((moment for moment in moments if moment is not None), default=FAR_AWAY)
        return is_renewed

    def _patience(self) -> float:
        """Return how many real seconds may pass until something is to be done."""
        real = [self._heartbeat.patience()]
        waits = (self._link.steady_at, self._resend_at, self._listeners.settled_at)
        real += [at - time.monotonic() for at in waits if at is not None]
        if self._startup.ends_at is not None:
            real.append(self._startup.ends_at - time.monotonic())
        if self._is_begun:
            now = self._clock.now()
            moment = min(watched.look_at for watched in self._accounts.values())
            real.append(self._clock.to_real((moment - now).total_seconds()))
        return max(0.0, min(real))

    def _follow_clock(self) -> None:
        step = self._steps.latest()
        if step is None:
            return
        log.info("The clock was set by %+.0f s.", step.total_seconds())
        self._reporters.reporters.shift(step)
        for watched in self._accounts.values():
            watched.state.clock_stepped(step, self._clock.now())
            watched.look_at = self._clock.now()
