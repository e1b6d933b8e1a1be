"""One account in the service: what happens to it, and the consequences for its parts. No I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import ClaudeUsageError, NoReporter, RateLimited
from claude_usage_mqtt.instants import moved
from claude_usage_mqtt.service.account_health import CREDENTIALS_STATUSES, MISSING, AccountHealth
from claude_usage_mqtt.service.account_log import AccountLog
from claude_usage_mqtt.service.discovery_message import DiscoveryMessage
from claude_usage_mqtt.service.event_delivery import EventDelivery
from claude_usage_mqtt.service.options import AccountOptions
from claude_usage_mqtt.service.polling import Polling
from claude_usage_mqtt.service.restore import own_document
from claude_usage_mqtt.sources.account_reporters import AccountReporters
from claude_usage_mqtt.sources.credentials.watch import LoginChanged
from claude_usage_mqtt.sources.in_order import UNUSABLE
from claude_usage_mqtt.sources.policy import Policy
from claude_usage_mqtt.sources.select import with_other_sources
from claude_usage_mqtt.sources.source import REPEATS_FOR, Login, PollResult, PushedSource, WrongClockError
from claude_usage_mqtt.topics import STARTING
from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import Reading
from claude_usage_mqtt.usage.saved_state import is_readable, restore

LEAST_INTERVALS = 2.2
"""Poll intervals before which no number becomes unknown: one failed poll is not an outage."""

NO_LIMITS_DETAIL = "The API reports no limits for this account; a plan without limits has nothing to show."


class AccountState:
    """The changing state of one account; what is published follows only from it and the time."""

    def __init__(self, options: AccountOptions, rng: random.Random, reporters: AccountReporters | None = None) -> None:
        self.options = options
        self.usage = AccountUsage(options.topics.account, options.rules)
        self.polling = Polling(Policy(options.interval, rng, limited=options.limited))
        self.look_at = datetime.max.replace(tzinfo=UTC)
        """When time alone requires something."""
        self.reporters = reporters
        self.health = AccountHealth(options.topics)
        self.log = AccountLog(options.topics.account)
        self.discovery = DiscoveryMessage(options)
        self.delivery = EventDelivery(options.topics.account)
        self.set_interval(options.interval)

    @property
    def name(self) -> str:
        """The account's id."""
        return self.options.topics.account

    def set_interval(self, interval: timedelta) -> None:
        """Use another poll interval; numbers stay known for at least 2.2 intervals."""
        self.polling.policy.interval = interval
        stale_after = max(self.options.rules.stale_after, LEAST_INTERVALS * interval)
        self.usage.rules = self.options.rules._replace(stale_after=stale_after)

    def restore(self, retained: Mapping[str, bytes], now: datetime) -> None:
        """Continue from what an earlier run retained: untrusted, and ignored with one log line if it is unusable."""
        topics = self.options.topics
        health, state, memory = (
            own_document(retained, topic, self.name) for topic in (topics.health, topics.state, topics.memory)
        )
        former = health.get("memory")  # version 1 kept it there
        memory = memory or (former if isinstance(former, dict) else {})
        if health and not is_readable(memory.get("usage")):
            self.log.unreadable(topics.memory, retained.get(topics.memory))
        restore(self.usage, memory.get("usage"), state or None, now)
        self.delivery.restore(memory.get("events"), now)
        self.health.login.restore(health if self.options.is_polled else {}, memory.get("login_notice"))
        self.health.restore(health, is_known=self.usage.is_known)
        if self.health.last_success is not None:
            self.usage.history.restored |= {self.health.last_success}
        self._restore_polling(health, memory, now)
        if self.reporters is not None:
            self.reporters.restore(memory.get("reporters"), now)
        self.discovery.restore(retained, memory)

    def _restore_polling(self, health: Mapping[str, Any], memory: Mapping[str, Any], now: datetime) -> None:
        policy = self.polling.policy
        policy.restore(memory.get("policy", memory.get("schedule")), now, self.usage.windows.resets())
        if str(health.get("status")) in CREDENTIALS_STATUSES:
            policy.poll_soon(now)
        elif health.get("status") == STARTING:
            policy.was_cut_short()
        if not self.options.is_polled:
            policy.excuse_failures()  # of a source that is no longer used
            if self.health.status == STARTING:
                self.health.show_ok()
        elif health.get("polling") is False:
            self.polling.is_on = False
        interval = health.get("poll_interval")
        setting = int(self.options.interval.total_seconds())
        # What was set by hand stays until the setting itself is changed.
        if memory.get("interval_setting") == setting and type(interval) is int and self.options.allows(interval):
            self.set_interval(timedelta(seconds=interval))

    # Polling

    def due(self, now: datetime) -> datetime | None:
        """Return when to poll next; None while a poll is under way, or if none will be made."""
        return self.polling.due(now, self.usage.windows.resets()) if self.options.is_polled else None

    def begin_poll(self, now: datetime) -> bool:
        """Note that a poll begins; return whether a second request would be within the budget."""
        self.health.hint = None
        return self.polling.begin(now)

    def finish_poll(self, result: PollResult, now: datetime) -> list[Event]:
        """Apply the result of a poll; return what happened."""
        self.polling.end(now, result.requests)
        self.health.renew(now)
        self.health.login.fingerprint = result.fingerprint
        if result.login is not None:
            self._use_login(result.login)
        if result.error is not None:
            self._fail(result.error, result.source, now)
            return []
        if self.reporters is not None and result.reading is not None:
            self.reporters.delivered(result, now)
        if result.reading is not None:
            return self._succeed(result.reading, now)
        self.health.show_nothing_new()
        return []

    def _fail(self, error: ClaudeUsageError, source: str, now: datetime) -> None:
        self.log.failed(error)
        self.polling.policy.failed(now, error)
        if self.reporters is not None and isinstance(error, UNUSABLE):
            self.reporters.login_failed()
        pushed = {source.name for source in self.options.pushed}
        is_pushed = any(window.source in pushed for window in self.usage.known_windows(now))
        if error.status in MISSING and self.options.is_auto and is_pushed:
            self.polling.policy.excuse_failures()  # another source delivers
            self.health.show_ok()
        elif isinstance(error, RateLimited) and self.health.last_success is not None:
            self.report(error)
        else:
            self.report(with_other_sources(error, source))

    def _succeed(self, reading: Reading, now: datetime) -> list[Event]:
        self.log.sections(reading)
        events = self._update(reading, now)
        self.log.numbers(reading)
        self.health.succeeded(reading.read_at)
        has_limits = reading.windows or reading.extra_usage is not None
        self.health.show_ok(None if has_limits else NO_LIMITS_DETAIL)
        self.polling.policy.succeeded(now, self.usage.rules.stale_after, self.usage.history.last_change)
        return events

    def receive(self, source: PushedSource, payload: bytes, now: datetime) -> list[Event]:
        """Apply what a pushed source sent; return what happened."""
        try:
            reading = source.receive(payload, now)
        except WrongClockError as wrong:
            self.health.wrong_clock = str(wrong), now
            self.log.wrong_clock(str(wrong))
            return []
        return [] if reading is None else self.take(reading, now)

    def take(self, reading: Reading, now: datetime) -> list[Event]:
        """Apply a reading that we did not ask for; return what happened."""
        before = self.usage.read_times()
        events = self._update(reading, now)
        if self.usage.read_times() == before:
            return events  # not newer: it neither saves a request nor makes anything fresh
        self.polling.policy.numbers_arrived(now, self.usage.rules.stale_after)
        self.health.succeeded(reading.read_at)
        if not self.options.is_polled or (self.options.is_auto and self.health.status in MISSING):
            self.health.show_ok()
            self.health.hint = None
        return events

    def _update(self, reading: Reading, now: datetime) -> list[Event]:
        before = self.usage.windows.suspects()
        events = self.usage.update(reading, now)
        new = [suspect for key, suspect in self.usage.windows.suspects().items() if suspect != before.get(key)]
        for suspect in new:
            self.log.unlikely(suspect)
        if new:
            self.polling.policy.confirm(now, REPEATS_FOR.get(new[0].window.source, timedelta(0)))
        return events

    def report(self, error: ClaudeUsageError) -> None:
        """Show an error as this account's status."""
        self.health.show_error(error)
        self.log.down(error)

    def on_login_changed(self, changed: LoginChanged, now: datetime) -> None:
        """Process a changed login: a wait for another token ends."""
        self.health.login.fingerprint = changed.fingerprint
        login = changed.login or Login(mark=self.health.login.known.mark)
        is_other_token = self.health.login.is_other_token(login)
        if self._use_login(login):
            self.polling.policy.account_changed(now)
        elif self.health.lacks_login:
            self.polling.policy.poll_soon(now)
        # The file is written for other reasons too; a refused token is not sent again for them.
        if is_other_token:
            self.polling.policy.credentials_changed(now)

    def _use_login(self, login: Login) -> bool:
        self.health.login.known = login
        switched = self.usage.identify(login.owner)
        if switched:
            self.log.switched()
            self.health.last_success = None
        return switched

    # Time

    def wake_at(self, now: datetime) -> datetime | None:
        """Return when time alone changes something, other than a poll being due."""
        moments = [self.usage.changes_at(now), self.discovery.removed_until]
        moments += self.health.changes_at(now, self.due(now), is_polling=self.polling.is_under_way)
        if self.reporters is not None:
            moments.append(self.reporters.wake_at(now))
        return min((moment for moment in moments if moment is not None), default=None)

    def tick(self, now: datetime) -> None:
        """Renew the sign of life, forget what is over, and note what is possible again."""
        if not self.options.is_polled and not self.usage.has_numbers(now):
            self.health.show_silence(self.options.pushed, self.name, now)
        if self.reporters is not None:
            self._look_at_reporters(self.reporters, now)
        self.health.tick(now, self.due(now), is_polling=self.polling.is_under_way)
        self.delivery.add(self.health.login.events(now))
        self.discovery.forget_removed(now)
        self.log.another_login(is_seen=self.usage.history.saw_foreign(now))
        self.log.freshness(is_fresh=self.usage.is_fresh(now), last_success=self.health.last_success)

    def _look_at_reporters(self, reporters: AccountReporters, now: datetime) -> None:
        """Poll as soon as possible if a machine can be asked again and the numbers waited for that."""
        policy, last_success = self.polling.policy, self.health.last_success
        policy.requests.record_unasked(now, reporters.take_unasked())
        if reporters.has_become_askable(now):
            is_late = last_success is None or now - last_success >= policy.interval
            if is_late or self.health.lacks_login:
                policy.poll_soon(now)
        if self.health.status == NoReporter.status and not reporters.can_be_asked(now):
            self.health.detail = reporters.why_none(now) or self.health.detail

    def clock_stepped(self, step: timedelta, now: datetime) -> None:
        """Follow a clock that was set by `step` to `now`."""
        self.usage.clock_stepped(step)
        self.polling.policy.clock_stepped(step, now)
        self.discovery.removed_until = moved(self.discovery.removed_until, step)
        if step < timedelta(0):
            self.health.last_success = moved(self.health.last_success, step, self.usage.history.restored)
            self.health.other_instance.seen_at = moved(self.health.other_instance.seen_at, step)
