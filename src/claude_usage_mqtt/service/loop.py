"""The one loop: when to poll, what to publish, when to stop.

paho's thread, signal handlers and workers only put things into its inbox; everything is decided here.
"""

from __future__ import annotations

import logging
import queue
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import CredentialsUnreadable
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.mqtt.connection import Message
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.publisher import Acknowledged, Connected, Disconnected, Notice, Publisher, Subscribed
from claude_usage_mqtt.service.account import AccountOptions, AccountState
from claude_usage_mqtt.service.heartbeat import BEAT_EVERY, Heartbeat
from claude_usage_mqtt.service.recollection import FENCE, Recollection
from claude_usage_mqtt.service.worker import Noticed, Outcome, look, poll
from claude_usage_mqtt.sources.credentials import CredentialSource
from claude_usage_mqtt.sources.oauth_api import UsageApi
from claude_usage_mqtt.sources.schedule import Schedule
from claude_usage_mqtt.usage.changes import Event

log = logging.getLogger(__name__)

ONLINE, OFFLINE = b"online", b"offline"

MAX_INBOX = 2000
"""Incoming messages beyond this many unread ones are dropped: nobody sends us that much in earnest."""

LOOK_EVERY = timedelta(seconds=30)
"""How often credentials are looked at between polls, without reading them unless they changed."""

WORKER_DEADLINE = 60.0
"""Real seconds after which a worker counts as hanging: a request is cut at 20, a file on a dead mount is not."""

CLOCK_SET = 2.0
"""Seconds between wall clock and steady clock that say that the wall clock was set."""

STOP_PATIENCE = 1.2
"""Real seconds for the goodbye to the broker; stopping takes at most about twice that."""


class Stop:
    """Ask the loop to end."""


Item = Notice | Outcome | Noticed | Stop


class Inbox:
    """What the loop is told, from any thread and from signal handlers."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def put(self, item: Item) -> None:
        """Add an item; incoming messages are dropped where too many wait."""
        if isinstance(item, Message) and self._queue.qsize() >= MAX_INBOX:
            return
        self._queue.put(item)

    def get(self, timeout: float) -> Item | None:
        """Return the next item, None after `timeout` seconds."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None


@dataclass(slots=True, kw_only=True)
class Watched:
    """An account in the loop: its state, where its credentials are, since when a worker is busy with it."""

    state: AccountState
    credentials: CredentialSource
    busy_since: float | None = None
    looking: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """What the loop needs to know beside its accounts."""

    broker: BrokerOptions
    status_topic: str
    base_topic: str
    tls: ssl.SSLContext | None = None
    accounts: tuple[tuple[AccountOptions, CredentialSource], ...] = field(default=())


class Service:
    """Publishes the usage of some accounts until it is told to stop."""

    def __init__(self, options: ServiceOptions, api: UsageApi, clock: Clock, rng: random.Random | None = None) -> None:
        self.inbox = Inbox()
        self._options = options
        self._api = api
        self._clock = clock
        self._rng = rng or random.Random()
        self._status = f"{options.base_topic}/status"
        will = Message(topic=self._status, payload=OFFLINE, retain=True)
        self._publisher = Publisher(options.broker, will=will, tell=self.inbox.put, tls=options.tls)
        self._accounts = {
            account.topics.account: Watched(
                state=AccountState(
                    account, Schedule(interval=account.interval, limited=account.limited, rng=self._rng)
                ),
                credentials=credentials,
            )
            for account, credentials in options.accounts
        }
        self._recollection: Recollection | None = None
        self._is_begun = False
        self._heartbeat = Heartbeat()
        self._broker_outage = Outage(log)
        self._resend_at: float | None = None
        self._look_at = self._clock.now()
        self._clock_offset = self._offset()

    def stop(self) -> None:
        """Ask the loop to end; safe from any thread and from a signal handler."""
        self.inbox.put(Stop())

    def run(self) -> None:
        """Run until stopped. The goodbye to the broker takes less than 3 s, whatever the broker does."""
        self._publisher.start()
        try:
            while True:
                self._heartbeat.beat()
                item = self.inbox.get(self._patience())
                if isinstance(item, Stop):
                    return
                if item is not None:
                    self._handle(item)
                self._tick()
        finally:
            self._heartbeat.stop()
            self._publisher.stop([Message(topic=self._status, payload=OFFLINE, retain=True)], STOP_PATIENCE)

    # What was told

    def _handle(self, item: Item) -> None:
        match item:
            case Connected():
                self._publisher.handle(item)
                self._broker_outage.rose(f"Connected to the broker at {self._options.broker.address} again.")
                log.debug("Connected with MQTT %s", item.version)
                self._connected()
            case Disconnected(error=error):
                self._publisher.handle(item)
                self._broker_outage.fell(type(error).__name__, str(error))
                self._recollection = None
            case Acknowledged():
                self._publisher.handle(item)
            case Subscribed(refused=refused):
                if refused:
                    log.warning(
                        "The broker refused %d of our subscriptions: commands, or what must survive a restart, may "
                        "not arrive; allow reading %s/#.",
                        refused,
                        self._options.base_topic,
                    )
            case Message():
                self._received(item)
            case Outcome():
                self._finished(item)
            case Noticed():
                watched = self._accounts[item.account]
                watched.looking = False
                if item.fingerprint != watched.state.fingerprint and not watched.state.busy:
                    watched.state.credentials_noticed(item, self._clock.now())

    def _connected(self) -> None:
        base = self._options.base_topic
        self._publisher.subscribe([f"{base}/+/command/+", f"{base}/+/statusline", self._options.status_topic])
        if self._is_begun:
            self._subscribe_to_rivals()
            self._send_all()
            return
        topics = [account.topics for account, _ in self._options.accounts]
        self._recollection = Recollection(topics, time.monotonic())
        self._publisher.subscribe(self._recollection.topics)
        self._publisher.send_once(self._recollection.fence)

    def _received(self, message: Message) -> None:
        if self._recollection is not None and self._recollection.take(message):
            return
        if message.topic == self._options.status_topic:
            if message.payload == b"online" and self._is_begun:
                self._resend_at = time.monotonic() + self._rng.uniform(1, 10)
            return
        parts = message.topic.removeprefix(self._options.base_topic + "/").split("/")
        watched = self._accounts.get(parts[0])
        if watched is None or message.retain or not self._is_begun:
            return  # a retained command is an old one, and would be obeyed again at each connection
        match parts[1:]:
            case ["command", name] if name != FENCE:
                watched.state.command(name, message.payload, self._clock.now())
            case ["health"]:
                if message.payload and not self._publisher.has_sent(message):
                    watched.state.heard_rival(self._clock.now())

    def _finished(self, outcome: Outcome) -> None:
        watched = self._accounts[outcome.account]
        watched.busy_since = None
        events = watched.state.finish_poll(outcome, self._clock.now())
        self._deliver(watched.state, events)

    def _deliver(self, state: AccountState, events: Iterable[Event]) -> None:
        for event in events:
            log.info("Account %s: %s of %s", state.name, event.event_type, event.window)
            self._publisher.send(state.options.topics.event(event.window), state.encode_event(event))

    # What time brings

    def _tick(self) -> None:
        now = self._clock.now()
        self._follow_clock()
        if self._recollection is not None and self._recollection.is_over(time.monotonic()):
            self._begin(self._recollection, now)
        if not self._is_begun:
            return
        if self._resend_at is not None and time.monotonic() >= self._resend_at:
            self._resend_at = None
            self._send_all()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._look()
        for watched in self._accounts.values():
            self._advance(watched, now)

    def _begin(self, recollection: Recollection, now: datetime) -> None:
        self._recollection = None
        self._is_begun = True
        for watched in self._accounts.values():
            watched.state.recall(recollection.found, now)
        self._publisher.unsubscribe(recollection.topics)
        self._subscribe_to_rivals()
        for watched in self._accounts.values():
            self._advance(watched, now)
        self._publisher.retain(self._status, ONLINE)
        self._heartbeat.notify("READY=1")
        log.info("Publishing %d account(s) at %s", len(self._accounts), self._options.broker.address)

    def _subscribe_to_rivals(self) -> None:
        topics = [watched.state.options.topics.health for watched in self._accounts.values()]
        self._publisher.subscribe(topics, no_local=True)

    def _send_all(self) -> None:
        self._publisher.send_all(last=self._status)

    def _advance(self, watched: Watched, now: datetime) -> None:
        state = watched.state
        due = state.due(now)
        begins = due is not None and due <= now
        may_retry = begins and state.begin_poll(now)
        state.tick(now)
        if state.changed:
            state.changed = False
            for topic, payload in state.documents(now):
                self._publisher.retain(topic, payload)
        if begins:
            watched.busy_since = time.monotonic()
            self._work(partial(poll, state.name, watched.credentials, self._api, self._clock, may_retry=may_retry))
        elif watched.busy_since is not None and time.monotonic() - watched.busy_since > WORKER_DEADLINE:
            watched.busy_since = None
            state.report(CredentialsUnreadable(f"{watched.credentials.place} cannot be read: reading it hangs."))

    def _look(self) -> None:
        for watched in self._accounts.values():
            state = watched.state
            if state.busy or watched.looking or not state.options.polls or not state.polled:
                continue
            watched.looking = True
            self._work(partial(look, state.name, watched.credentials, state.fingerprint))

    def _work(self, job: Callable[[], Outcome | Noticed]) -> None:
        threading.Thread(target=lambda: self.inbox.put(job()), name="worker", daemon=True).start()

    def _patience(self) -> float:
        """Return how many real seconds may pass until something is to be done."""
        real = [BEAT_EVERY]
        if self._recollection is not None:
            real.append(self._recollection.ends_at - time.monotonic())
        if self._resend_at is not None:
            real.append(self._resend_at - time.monotonic())
        if self._is_begun:
            now = self._clock.now()
            moments = [self._look_at]
            for watched in self._accounts.values():
                own = (watched.state.due(now), watched.state.wake_at(now))
                moments += [moment for moment in own if moment is not None]
            real.append(self._clock.to_real((min(moments) - now).total_seconds()))
        return max(0.0, min(real))

    def _offset(self) -> float:
        return self._clock.now().timestamp() - self._clock.steady()

    def _follow_clock(self) -> None:
        offset = self._offset()
        step = offset - self._clock_offset
        if abs(step) < CLOCK_SET:
            return
        self._clock_offset = offset
        log.info("The clock was set by %+.0f s.", step)
        self._look_at += timedelta(seconds=step)
        for watched in self._accounts.values():
            watched.state.shift(timedelta(seconds=step))
