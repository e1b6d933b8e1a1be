"""The accounts of the loop: each is checked when something is due for it, and the results are published."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.homeassistant.summary import SUMMARY, summary_discovery
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.documents import documents, memory_document
from claude_usage_mqtt.service.event_delivery import SPACING
from claude_usage_mqtt.service.options import ServiceOptions
from claude_usage_mqtt.service.publishing import Publishing
from claude_usage_mqtt.service.restore import inherited
from claude_usage_mqtt.service.summary import Digest, digest, summarize
from claude_usage_mqtt.service.workers import Workers
from claude_usage_mqtt.sources.credentials.watch import hangs
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, encode
from claude_usage_mqtt.usage.events import Event

log = logging.getLogger(__name__)

FAR_AWAY = datetime.max.replace(tzinfo=UTC)

MOVE_PAUSE = timedelta(seconds=3)
"""From the removal of a predecessor's device to the announcement of its successor: Home Assistant frees the entity ids
in between."""


class Accounts(dict[str, AccountState]):
    """All accounts of the service, by their names."""

    def __init__(
        self, options: ServiceOptions, clock: Clock, rng: random.Random, publishing: Publishing, workers: Workers
    ) -> None:
        for account in options.accounts:
            name = account.topics.account
            self[name] = AccountState(account, rng, options.reporters.reporters(name))
        self._options = options
        self._clock = clock
        self._publishing = publishing
        self._publisher = publishing.publisher
        self._workers = workers
        self._digests: dict[str, Digest] = {}
        self._is_summed = False

    @property
    def look_at(self) -> datetime:
        """When something is due for any of them."""
        return min(state.look_at for state in self.values())

    def touch(self, name: str) -> AccountState:
        """Return an account that something happened to, so that the consequences follow at once."""
        self[name].look_at = self._clock.now()
        return self[name]

    def note(self, state: AccountState, events: Iterable[Event]) -> None:
        """Queue what has happened to an account for delivery."""
        for event in events:
            log.info("Account %s: %s", state.name, event)
        state.delivery.add(events)

    def finish_poll(self, result: PollResult, now: datetime) -> AccountState:
        """Apply the result of a poll; return whose it is."""
        self._workers.finished(result.account)
        state = self.touch(result.account)
        self.note(state, state.finish_poll(result, now))
        return state

    def report_hanging(self) -> None:
        """Report each poll that hangs."""
        for name in self._workers.hanging():
            source = self[name].options.source
            self.touch(name).report(hangs("The login" if source is None else source.place))

    def stop(self) -> None:
        """Stop the workers."""
        self._workers.stop()

    def restore(self, found: Mapping[str, bytes], now: datetime, *, is_moved: bool) -> None:
        """Continue from what was retained; if the device has moved (`is_moved`), from its predecessor's."""
        for state in self.values():
            topics = state.options.topics
            former = inherited(found, topics) if is_moved else {}
            state.restore({**found, **former}, now)
            if former:
                state.discovery.entity_ids_of = DEFAULT_ACCOUNT
            state.look_at = now + (MOVE_PAUSE if former else timedelta(0))
        self._digests = {name: digest(state, now) for name, state in self.items()}
        self._workers.watch_logins(self.values())

    def clock_stepped(self, step: timedelta, now: datetime) -> None:
        """Follow a clock that was set by `step` to `now`."""
        for state in self.values():
            state.clock_stepped(step, now)
            state.look_at = now

    def deliver(self, now: datetime) -> None:
        """Send the waiting events."""
        for state in self.values():
            state.look_at = min(state.look_at, self._deliver(state, now))

    def _deliver(self, state: AccountState, now: datetime) -> datetime:
        """Send an account's events once the memory that holds them is published; return when to send more."""
        if not self._publishing.may_deliver:
            return FAR_AWAY
        is_there = self._publishing.is_home_assistant_online
        sent = list(state.delivery.take(now, is_home_assistant_online=is_there))
        for level, payload in sent:
            self._publisher.send_event(state.options.topics.event(level), payload)
        if sent:
            self._publisher.retain(state.options.topics.memory, encode(memory_document(state)))
        return now + SPACING if state.delivery.has_due(is_home_assistant_online=is_there) else FAR_AWAY

    def advance(self, now: datetime) -> bool:
        """Do what is due, and return whether a discovery message has changed."""
        due = [state for state in self.values() if state.look_at <= now]
        digests = self._digests.copy()
        announced = [state.discovery.payload for state in due]
        renewed = [self._advance(state, now) for state in due]
        if any(renewed) or self._digests != digests or not self._is_summed:
            self._sum(again=any(renewed))
        return any(known and known != state.discovery.payload for known, state in zip(announced, due, strict=True))

    def _advance(self, state: AccountState, now: datetime) -> bool:
        """Do what is due for an account, note when to look at it again, and return whether a sign of life was due."""
        due, source = state.due(now), state.options.source
        begins = source is not None and due is not None and due <= now
        may_retry = begins and state.begin_poll(now)
        state.tick(now)
        delivers_at = FAR_AWAY
        is_renewed = state.health.is_renewed
        if is_renewed or not (begins and state.polling.has_ended_once):
            # The first request is published before it is made, so that a crash during it is remembered too.
            for topic, payload in documents(state, now):
                self._publisher.retain(topic, payload, again=is_renewed and topic == state.options.topics.state)
            self._digests[state.name], state.health.is_renewed = digest(state, now), False
            delivers_at = self._deliver(state, now)
        if begins and source is not None:
            self._workers.poll(state.name, source, may_retry=may_retry)
        moments = [state.due(now), state.wake_at(now), delivers_at]
        state.look_at = min(moment for moment in moments if moment is not None)
        return is_renewed

    def _sum(self, *, again: bool) -> None:
        """Publish the device of all accounts, if there are several."""
        if len(self) > 1:
            first = self._options.first
            topics = first.topics._replace(account=SUMMARY)
            self._publisher.retain(topics.state, encode(summarize(self._digests.values())), again=again)
            if first.discovery and not self._is_summed:
                self._publisher.retain(topics.config, encode(summary_discovery(topics, first.topics.health)))
        self._is_summed = True
