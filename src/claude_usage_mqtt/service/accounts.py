"""The accounts of the loop: each is looked at when something is due for it, and what follows from that is published."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.publisher import Publisher
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.documents import documents, memory_document
from claude_usage_mqtt.service.event_delivery import SPACING, Listeners
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.restore import inherited
from claude_usage_mqtt.service.summary import Digest, digest, summary_documents
from claude_usage_mqtt.service.workers import Workers
from claude_usage_mqtt.sources.hanging import hangs
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.source import PolledSource
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, encode
from claude_usage_mqtt.usage.events import Event

log = logging.getLogger(__name__)

FAR_AWAY = datetime.max.replace(tzinfo=UTC)

MOVE_PAUSE = timedelta(seconds=3)
"""From the removal of a predecessor's device to the announcement of its successor: Home Assistant frees the entity ids
meanwhile."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """An account in the loop; `look_at` is when there is something to do for it by time alone."""

    state: AccountState
    source: PolledSource | None
    digest: Digest
    look_at: datetime
    has_polled: bool = False
    alive_until: datetime | None = None
    """The sign of life that was published last."""


class Accounts:
    """All accounts of the service, by their names."""

    def __init__(
        self,
        options: ServiceOptions,
        clock: Clock,
        rng: random.Random,
        publisher: Publisher,
        workers: Workers,
        listeners: Listeners,
    ) -> None:
        self._options = options
        self._clock = clock
        self._publisher = publisher
        self._workers = workers
        self._listeners = listeners
        self._is_summed = False
        self._entries: dict[str, Entry] = {}
        for account in options.accounts:
            name = account.topics.account
            state = AccountState(account, rng, options.reporters.reporters(name))
            self._entries[name] = Entry(
                state=state,
                source=in_order(account.polled),
                digest=digest(state, clock.now()),
                look_at=clock.now(),
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def look_at(self) -> datetime:
        """When something is due for any of them."""
        return min(entry.look_at for entry in self._entries.values())

    def touch(self, name: str) -> AccountState:
        """Return an account that something happened to, so that what follows from it is done at once."""
        entry = self._entries[name]
        entry.look_at = self._clock.now()
        return entry.state

    def note(self, state: AccountState, events: Iterable[Event]) -> None:
        """Queue what has happened to an account for delivery."""
        for event in events:
            log.info("Account %s: %s", state.name, event)
        state.delivery.add(events)

    def report_hanging(self) -> None:
        """Report each poll that hangs."""
        for name in self._workers.hanging():
            source = self._entries[name].source
            self.touch(name).report(hangs("The login" if source is None else source.place))

    def stop(self) -> None:
        """Let the workers end."""
        self._workers.stop()

    def restore(self, found: Mapping[str, bytes], now: datetime, *, is_moved: bool) -> None:
        """Continue from what was retained; if the device has moved (`is_moved`), from what was its predecessor's."""
        for entry in self._entries.values():
            topics = entry.state.options.topics
            former = inherited(found, topics) if is_moved else {}
            entry.state.restore({**found, **former}, now)
            if former:
                entry.state.discovery.entity_ids_of = DEFAULT_ACCOUNT
            self._publisher.remember_own(topics.health, found.get(topics.health, b""))
            entry.look_at = now + (MOVE_PAUSE if former else timedelta(0))
        self._workers.watch_logins((entry.state, entry.source) for entry in self._entries.values())

    def clock_stepped(self, step: timedelta, now: datetime) -> None:
        """Follow a clock that was set by `step` to `now`."""
        for entry in self._entries.values():
            entry.state.clock_stepped(step, now)
            entry.look_at = now

    def deliver(self, now: datetime) -> None:
        """Send the events that wait."""
        for entry in self._entries.values():
            entry.look_at = min(entry.look_at, self._deliver(entry.state, now))

    def _deliver(self, state: AccountState, now: datetime) -> datetime:
        """Send an account's events, after the memory that holds them was published; return when to send more."""
        if not self._publisher.is_connected or self._listeners.settled_at is not None:
            return FAR_AWAY
        is_there = self._listeners.is_home_assistant_online
        sent = list(state.delivery.take(now, is_home_assistant_online=is_there))
        for level, payload in sent:
            self._publisher.send_event(state.options.topics.event(level), payload)
        if sent:
            self._publisher.retain(state.options.topics.memory, encode(memory_document(state)))
        return now + SPACING if state.delivery.has_due(is_home_assistant_online=is_there) else FAR_AWAY

    def advance(self, now: datetime) -> bool:
        """Do what is due, and return whether a discovery message has changed."""
        due = [entry for entry in self._entries.values() if entry.look_at <= now]
        digests = [entry.digest for entry in due]
        announced = [entry.state.discovery.payload for entry in due]
        renewed = [self._advance(entry, now) for entry in due]
        if any(renewed) or [entry.digest for entry in due] != digests or not self._is_summed:
            self._sum(again=any(renewed))
        return any(
            known and known != entry.state.discovery.payload for known, entry in zip(announced, due, strict=True)
        )

    def _advance(self, entry: Entry, now: datetime) -> bool:
        """Do what is due for an account, note when to look at it again, and return whether a sign of life was due."""
        state = entry.state
        due = state.due(now)
        begins = entry.source is not None and due is not None and due <= now
        may_retry = begins and state.begin_poll(now)
        state.tick(now)
        delivers_at = FAR_AWAY
        is_renewed = state.health.alive.until != entry.alive_until
        if is_renewed or not (begins and entry.has_polled):
            # Before the first request its trace is published, so that a crash during it is remembered too.
            for topic, payload in documents(state, now):
                self._publisher.retain(topic, payload, again=is_renewed and topic == state.options.topics.state)
            entry.digest, entry.alive_until = digest(state, now), state.health.alive.until
            delivers_at = self._deliver(state, now)
        entry.has_polled = entry.has_polled or begins
        if begins and entry.source is not None:
            self._workers.poll(state.name, entry.source, may_retry=may_retry)
        moments = [state.due(now), state.wake_at(now), delivers_at]
        entry.look_at = min(moment for moment in moments if moment is not None)
        return is_renewed

    def _sum(self, *, again: bool) -> None:
        """Publish the device of all accounts."""
        first = self._options.accounts[0]
        announce, self._is_summed = not self._is_summed and first.discovery, True
        digests = [entry.digest for entry in self._entries.values()]
        topics = self._options.topics(SUMMARY)
        for topic, payload in summary_documents(topics, digests, announce=announce, alive=first.topics.health):
            self._publisher.retain(topic, payload, again=again)
