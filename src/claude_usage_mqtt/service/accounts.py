"""All accounts of a service: what is published of them, and what time brings to them."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.documents import documents, memory_document
from claude_usage_mqtt.service.listeners import Listeners
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.reporter_exchange import ReporterExchange
from claude_usage_mqtt.service.summary import digest, summary_documents
from claude_usage_mqtt.service.watched import Watched, watch
from claude_usage_mqtt.service.workers import Workers
from claude_usage_mqtt.topics import Topics, encode
from claude_usage_mqtt.usage.events import Event

log = logging.getLogger(__name__)

FAR_AWAY = datetime.max.replace(tzinfo=UTC)

RESEND_AFTER_DISCOVERY = 1.0
"""Real seconds: an entity whose announcement has changed is unavailable in Home Assistant until its next message."""


class Accounts(Mapping[str, Watched]):
    """The accounts by id. Workers poll them, the publisher retains what follows."""

    def __init__(
        self,
        options: ServiceOptions,
        publisher: Publisher,
        workers: Workers,
        listeners: Listeners,
        reporters: ReporterExchange,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._publisher = publisher
        self._workers = workers
        self._listeners = listeners
        self._clock = clock
        self._watched = {
            account.topics.account: watch(account, sources, reporters, rng, clock.now())
            for account, sources in options.accounts
        }
        first = options.accounts[0][0]
        self._summary = Topics(base=options.base_topic, account=SUMMARY, prefix=options.discovery_prefix)
        self._summary_alive = first.topics.health
        self._announces_summary = first.discovery
        self._is_summed = False
        self.resend_at: float | None = None
        """When all that is retained is to be sent again, by `time.monotonic`."""

    def __getitem__(self, account: str) -> Watched:
        return self._watched[account]

    def __iter__(self) -> Iterator[str]:
        return iter(self._watched)

    def __len__(self) -> int:
        return len(self._watched)

    def touched(self, account: str) -> Watched:
        """Return an account that something happened to, so that what follows from it is done at once."""
        watched = self._watched[account]
        watched.look_at = self._clock.now()
        return watched

    def note(self, state: AccountState, events: Iterable[Event]) -> None:
        """Log what happened, and have it delivered."""
        for event in events:
            log.info("Account %s: %s", state.name, event)
        state.delivery.add(events)

    def deliver(self, now: datetime) -> None:
        """Send the events that wait, as those who listen are there now."""
        for watched in self._watched.values():
            self._deliver(watched.state, now)

    def look_at(self) -> datetime:
        """Return when there is something to do next by time alone."""
        return min(watched.look_at for watched in self._watched.values())

    def advance(self, now: datetime) -> None:
        """Do what is due, and publish what has changed."""
        due = [watched for watched in self._watched.values() if watched.look_at <= now]
        before = [watched.digest for watched in due]
        renewed = [self._advance(watched, now) for watched in due]
        if [watched.digest for watched in due] != before or any(renewed) or not self._is_summed:
            announce = not self._is_summed and self._announces_summary
            self._is_summed = True
            digests = [watched.digest for watched in self._watched.values()]
            for topic, payload in summary_documents(
                self._summary, digests, announce=announce, alive=self._summary_alive
            ):
                self._publisher.retain(topic, payload, again=any(renewed))

    def clock_stepped(self, step: timedelta) -> None:
        """Follow a clock that was set by `step`."""
        now = self._clock.now()
        for watched in self._watched.values():
            watched.state.clock_stepped(step, now)
            watched.look_at = now

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
                self.resend_at = time.monotonic() + RESEND_AFTER_DISCOVERY
            watched.digest, watched.alive_until = digest(state, now), state.alive.until
            self._deliver(state, now)
        watched.has_polled = watched.has_polled or begins
        if begins:
            self._workers.poll(watched, may_retry=may_retry)
        moments = [state.due(now), state.wake_at(now)]
        watched.look_at = min((moment for moment in moments if moment is not None), default=FAR_AWAY)
        return is_renewed

    def _deliver(self, state: AccountState, now: datetime) -> None:
        # The memory that holds them was published before.
        if not self._publisher.is_connected or self._listeners.settled_at is not None:
            return
        is_there = self._listeners.is_home_assistant_there
        if state.delivery.has_due(is_home_assistant_there=is_there):
            for level, payload in state.delivery.take(now, is_home_assistant_there=is_there):
                self._publisher.send(state.options.topics.event(level), payload)
            self._publisher.retain(state.options.topics.memory, encode(memory_document(state)))
