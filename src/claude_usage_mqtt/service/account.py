"""One account in the service: what is known of it, and how its polling is going. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import (
    ClaudeUsageError,
    CredentialsNotFound,
    CredentialsUnreadable,
    NoReporter,
    RateLimited,
    TokenExpired,
)
from claude_usage_mqtt.instants import format_instant, moved, parse_instant
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.service.discovery_message import DiscoveryMessage
from claude_usage_mqtt.service.event_delivery import EventDelivery
from claude_usage_mqtt.service.login_notice import LoginNotice
from claude_usage_mqtt.service.options import AccountOptions
from claude_usage_mqtt.service.other_instance import OtherInstance
from claude_usage_mqtt.service.reporters import Reporters
from claude_usage_mqtt.service.restore import own_document
from claude_usage_mqtt.service.sign_of_life import SignOfLife
from claude_usage_mqtt.service.stale_notice import StaleNotice
from claude_usage_mqtt.service.status_line_notice import NO_STATUS_LINE, silence
from claude_usage_mqtt.sources.credentials.watch import LoginChanged
from claude_usage_mqtt.sources.policy import BUDGET, Policy
from claude_usage_mqtt.sources.select import with_other_sources
from claude_usage_mqtt.sources.source import REPEATS_FOR, Login, PollResult
from claude_usage_mqtt.topics import LONGEST_INTERVAL, OK, SHORTEST_INTERVAL, STARTING
from claude_usage_mqtt.usage.account import AccountUsage, Rules
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.owner import Owner
from claude_usage_mqtt.usage.reading import REPORTER, Reading
from claude_usage_mqtt.usage.saved_state import is_readable, restore

log = logging.getLogger(__name__)

LEAST_INTERVALS = 2.2
"""Poll intervals after which a number may become unknown at the earliest: one failed poll is not an outage."""

CREDENTIALS_STATUSES = frozenset(
    kind.status for kind in (CredentialsNotFound, CredentialsUnreadable, TokenExpired, NoReporter)
)

MISSING = frozenset({CredentialsNotFound.status, NoReporter.status})
"""Statuses of sources that are not there."""

NO_LIMITS_DETAIL = "The API reports no limits for this account; a plan without limits has nothing to show."


@dataclass(slots=True)
class AccountState:
    """Everything of one account that changes; what is published follows from it and the time alone."""

    options: AccountOptions
    policy: Policy
    reporters: Reporters | None = None
    usage: AccountUsage = field(init=False)
    status: str = STARTING
    detail: str | None = None
    hint: str | None = None
    last_success: datetime | None = None
    login: Login = field(default_factory=Login)
    fingerprint: object = None
    polling: bool = True
    busy: bool = False
    discovery: DiscoveryMessage = field(init=False)
    stale_notice: StaleNotice = field(init=False)
    delivery: EventDelivery = field(default_factory=EventDelivery)
    login_notice: LoginNotice = field(default_factory=LoginNotice)
    alive: SignOfLife = field(default_factory=SignOfLife)
    other_instance: OtherInstance = field(init=False)
    outage: Outage = field(default_factory=lambda: Outage(log))
    _has_answered: bool = False
    _was_askable: bool = False
    _mentioned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.usage = AccountUsage(
            self.options.topics.account,
            Rules(thresholds=self.options.thresholds, extra_thresholds=self.options.extra_thresholds),
        )
        self.set_interval(self.options.interval)
        self.stale_notice = StaleNotice(self.name)
        self.other_instance = OtherInstance(self.options.topics)
        self.discovery = DiscoveryMessage(self.options.topics, self.options.label, self.shortest_interval)

    @property
    def name(self) -> str:
        """The account's id."""
        return self.options.topics.account

    @property
    def shortest_interval(self) -> int:
        """The shortest poll interval that is allowed, in seconds."""
        return SHORTEST_INTERVAL if self.options.limited else 1

    def set_interval(self, interval: timedelta) -> None:
        """Use another poll interval; numbers stay known for 2.2 of them at least."""
        self.policy.interval = interval
        stale_after = max(self.options.stale_after, LEAST_INTERVALS * interval)
        self.usage.rules = self.usage.rules._replace(stale_after=stale_after)

    def is_allowed(self, seconds: int) -> bool:
        """Whether this may be the poll interval."""
        return self.shortest_interval <= seconds <= LONGEST_INTERVAL

    def restore(self, retained: Mapping[str, bytes], now: datetime) -> None:
        """Continue from what an earlier run retained: untrusted, and ignored with one line if it is unusable."""
        topics = self.options.topics
        health, state, memory = (
            own_document(retained, topic, self.name) for topic in (topics.health, topics.state, topics.memory)
        )
        memory = memory or _dict(health.get("memory"))  # version 1 kept it there
        if health and not is_readable(memory.get("usage")):
            log.warning(
                "The saved state in %s has an unsupported format; only the last readings are restored.", topics.memory
            )
        restore(self.usage, memory.get("usage"), state or None, now)
        self.delivery.restore(memory.get("events"), now)
        self.login_notice.restore(memory.get("login_notice"))
        self.policy.restore(memory.get("policy", memory.get("schedule")), now, self.usage.windows.resets())
        self.last_success = parse_instant(health.get("last_success")) if self.usage.is_known else None
        # A restart does not change the account: what was well is well until the next poll says otherwise.
        if self.last_success is not None and health.get("status") == OK:
            self.status = OK
        elif str(health.get("status")) in CREDENTIALS_STATUSES:
            self.policy.poll_soon(now)
        elif health.get("status") == STARTING:
            self.policy.was_cut_short()
        self.login = Login(
            token_expires_at=parse_instant(health.get("token_expires_at")),
            login_expires_at=parse_instant(health.get("login_expires_at")),
        )
        self.polling = health.get("polling") is not False or not self.options.is_polled
        interval = health.get("poll_interval")
        setting = int(self.options.interval.total_seconds())
        # What was set by hand holds until the setting itself is changed.
        if memory.get("interval_setting") == setting and type(interval) is int and self.is_allowed(interval):
            self.set_interval(timedelta(seconds=interval))
        if not self.options.is_polled and self.status == STARTING:
            self.status = OK
        if self.reporters is not None:
            self.reporters.restore(self.name, memory.get("reporters"), now)
        self.discovery.restore(retained, memory)

    # Polling

    def due(self, now: datetime) -> datetime | None:
        """Return when to poll next; None while a poll is under way, or none is to be made."""
        if self.busy or not self.options.is_polled or (not self.polling and not self.policy.refresh_wanted):
            return None
        return self.policy.due(now, self.usage.windows.resets())

    def begin_poll(self, now: datetime) -> bool:
        """Note that a poll begins; return whether a second request would be within the budget."""
        self.policy.record_request(now)
        self.busy = True
        self.hint = None
        return self.policy.requests_last_hour(now) < BUDGET or not self.policy.limited

    def finish_poll(self, result: PollResult, now: datetime) -> list[Event]:
        """Take in what a poll brought; return what happened."""
        self.busy = False
        self.alive.renew(now)
        self.fingerprint = result.fingerprint
        self.policy.record_sent(now, result.requests)
        if result.login is not None:
            self._use_login(result.login)
        if result.error is not None:
            log.debug("Account %s: the poll failed: %s", self.name, result.error)
            self._fail(result.error, result.source, now)
            return []
        if self.reporters is not None and result.reading is not None and result.source != REPORTER:
            self.reporters.used_here(self.name, result.login, now)
        return [] if result.reading is None else self._succeed(result.reading, now)

    def _fail(self, error: ClaudeUsageError, source: str, now: datetime) -> None:
        self.policy.failed(now, error)
        self._was_askable = False
        if error.status in MISSING and self.options.is_auto and self.is_fresh(now):
            self.policy.failures = 0  # what is not there is not missed: another source delivers
            self.status, self.detail = OK, None
        elif isinstance(error, RateLimited) and self.last_success is None:
            self.report(with_other_sources(error, source))
        else:
            self.report(error)

    def _succeed(self, reading: Reading, now: datetime) -> list[Event]:
        self._mention(reading)
        events = self._update(reading, now)
        known = ", ".join(f"{window.label} {window.utilization:g} %" for window in reading) or "no windows"
        log.log(logging.DEBUG if self._has_answered else logging.INFO, "Account %s: %s", self.name, known)
        self._has_answered = True
        self._note_success(reading.read_at)
        has_limits = reading.windows or reading.extra_usage is not None
        self.status, self.detail = OK, None if has_limits else NO_LIMITS_DETAIL
        self.policy.succeeded(now, self.usage.history.last_change)
        self.outage.up(f"Account {self.name}: the usage is known again.")
        return events

    def _mention(self, reading: Reading) -> None:
        sections = (*reading.malformed, *reading.ignored)
        new = [section for section in sections if section not in self._mentioned]
        if new:
            self._mentioned = sections
            log.debug("Account %s: sections of the response that are not understood: %s", self.name, ", ".join(new))

    def take(self, reading: Reading, now: datetime) -> list[Event]:
        """Take in what a pushed source sent; return what happened."""
        before = self.usage.read_times()
        events = self._update(reading, now)
        if self.usage.read_times() == before:
            return events  # nothing newer: it neither saves a request nor makes anything fresh
        self.policy.status_line_seen(now, self.usage.rules.stale_after)
        self._note_success(reading.read_at)
        if not self.options.is_polled or (self.options.is_auto and self.status in MISSING):
            self.status, self.detail, self.hint = OK, None, None
        return events

    def _update(self, reading: Reading, now: datetime) -> list[Event]:
        before = {key: window.suspect for key, window in self.usage.windows.items()}
        events = self.usage.update(reading, now)
        suspects = {key: window.suspect for key, window in self.usage.windows.items() if window.suspect is not None}
        new = [suspect for key, suspect in suspects.items() if suspect != before.get(key)]
        for suspect in new:
            log.debug(
                "Account %s: %s %g %% is unlikely; it is not published until another reading confirms it.",
                self.name,
                suspect.window.label,
                suspect.window.utilization,
            )
        if new:
            self.policy.confirm(now, REPEATS_FOR.get(new[0].window.source, timedelta(0)))
        return events

    def _note_success(self, read_at: datetime) -> None:
        self.last_success = max(read_at, self.last_success or read_at)

    def report(self, error: ClaudeUsageError) -> None:
        """Show an error as this account's status."""
        self.status, self.detail = error.status, str(error)
        self.outage.down(error.status, f"Account {self.name}: {error}")

    def on_login_changed(self, changed: LoginChanged, now: datetime) -> None:
        """Take in a login that changed: what waited for another token waits no longer."""
        self.fingerprint = changed.fingerprint
        known, login = self.login, changed.login or Login(mark=self.login.mark)
        if self._use_login(login):
            self.policy.account_changed(now)
        elif self.status in CREDENTIALS_STATUSES:
            self.policy.poll_soon(now)
        # The file is written for other reasons too; a token that was refused is not sent again for them.
        if login.mark is not None and not _is_same_token(login, known):
            self.policy.credentials_changed(now)

    def _use_login(self, login: Login) -> bool:
        self.login = login
        switched = self.usage.identify(Owner(login.account, login.organization))
        if switched:
            log.info("Account %s: credentials now belong to another organization; readings were reset.", self.name)
            self.last_success = None
        return switched

    # Time

    def is_fresh(self, now: datetime) -> bool:
        """Whether the numbers may be acted on."""
        return self.usage.is_fresh(now)

    def wake_at(self, now: datetime) -> datetime | None:
        """Return when time alone changes something, other than a poll being due."""
        login_at = self.login_notice.next_at(self.login.login_expires_at, now)
        moments = [self.usage.changes_at(now), self.discovery.stubs_until, login_at]
        moments.append(self.alive.renewal(self.due(now), is_polling=self.busy))
        moments.append(self.other_instance.ends_at)
        if self.reporters is not None:
            moments.append(self.reporters.wake_at(now))
        return min((moment for moment in moments if moment is not None), default=None)

    def tick(self, now: datetime) -> None:
        """Renew the sign of life, forget what is over, and note what can be done again."""
        if not self.options.is_polled and not self.usage.has_numbers(now):
            is_status, self.detail = silence(self.last_success, now)
            self.status = NO_STATUS_LINE if is_status else self.status
        if self.reporters is not None:
            self._look_at_reporters(self.reporters, now)
        self.alive.tick(now, self.due(now), is_polling=self.busy)
        self.delivery.add(self.login_notice.due(self.name, self.login.login_expires_at, now))
        self.discovery.forget_stubs(now)
        self.stale_notice.look(is_fresh=self.is_fresh(now), last_success=self.last_success)
        self.other_instance.tick(now)

    def _look_at_reporters(self, reporters: Reporters, now: datetime) -> None:
        """Poll as soon as it is allowed if a machine can be asked again, and the numbers waited for that."""
        self.policy.record_unasked(now, reporters.take_unasked(self.name))
        is_askable = reporters.can_be_asked(self.name, now)
        if is_askable and not self._was_askable:
            is_late = self.last_success is None or now - self.last_success >= self.policy.interval
            if is_late or self.status in CREDENTIALS_STATUSES:
                self.policy.poll_soon(now)
        self._was_askable = is_askable
        if self.status == NoReporter.status:
            self.detail = reporters.why_none(self.name, now) or self.detail

    def clock_stepped(self, step: timedelta, now: datetime) -> None:
        """Follow a clock that was set by `step` to `now`."""
        self.usage.clock_stepped(step)
        self.policy.clock_stepped(step, now)
        if step < timedelta(0):
            self.last_success = moved(self.last_success, step, self.usage.history.restored)
            self.other_instance.clock_stepped_back(step)


def _is_same_token(login: Login, known: Login) -> bool:
    """Whether both are one token's; what an earlier run knew has no mark, but the token's expiry shows it."""
    if known.mark is not None:
        return login.mark == known.mark
    return format_instant(login.token_expires_at) == format_instant(known.token_expires_at)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
