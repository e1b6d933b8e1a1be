"""One account in the service: what is known, how its polling does, what should stand on the broker. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt import __version__
from claude_usage_mqtt.errors import (
    ApiError,
    ClaudeUsageError,
    CredentialsError,
    CredentialsNotFound,
    CredentialsUnreadable,
    TokenExpired,
)
from claude_usage_mqtt.instants import format_instant, parse_instant
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.service.discovery_message import DiscoveryMessage
from claude_usage_mqtt.service.health import Health
from claude_usage_mqtt.service.options import AccountOptions
from claude_usage_mqtt.service.restore import own_document
from claude_usage_mqtt.sources.credentials.watch import CredentialsChanged
from claude_usage_mqtt.sources.fetch import PollResult
from claude_usage_mqtt.sources.policy import BUDGET, Policy
from claude_usage_mqtt.topics import OK, PAUSED, STARTING, encode
from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import Reading
from claude_usage_mqtt.usage.saved_state import is_readable, recall, remember

log = logging.getLogger(__name__)

LONGEST_INTERVAL = 3600
SHORTEST_INTERVAL = 180
"""Seconds; the bounds of the poll interval, by setting and by command."""

CREDENTIALS_STATUSES = frozenset(kind.status for kind in (CredentialsNotFound, CredentialsUnreadable, TokenExpired))

COMMANDS = ("refresh", "interval", "polling")

NO_STATUS_LINE = (
    "No status line was seen yet; set 'claude-usage-mqtt statusline' as Claude Code's status-line command "
    "and use Claude Code once."
)

RIVAL_FOR = timedelta(hours=1)
"""How long another instance is told of after it was last heard."""


@dataclass(slots=True)
class AccountState:
    """Everything of one account that changes."""

    options: AccountOptions
    schedule: Policy
    usage: AccountUsage = field(init=False)
    status: str = STARTING
    detail: str | None = None
    notice: str | None = None
    last_success: datetime | None = None
    token_expires_at: datetime | None = None
    fingerprint: object = None
    token_mark: int | None = None
    polling: bool = True
    busy: bool = False
    polled: bool = False
    changed: bool = True
    announcement: DiscoveryMessage = field(init=False)
    rival_heard: datetime | None = None
    outage: Outage = field(default_factory=lambda: Outage(log))
    _has_answered: bool = False
    _mentioned: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    _shown: tuple[bool, datetime | None] = (False, None)

    def __post_init__(self) -> None:
        self.usage = AccountUsage(self.options.topics.account)
        self.announcement = DiscoveryMessage(self.options.topics, self.options.label, self._shortest_interval)

    @property
    def name(self) -> str:
        """The account's id."""
        return self.options.topics.account

    # What stood on the broker

    def recall(self, retained: Mapping[str, bytes], now: datetime) -> None:
        """Go on from what an earlier run left: untrusted, and ignored with one line where it is no such thing."""
        topics = self.options.topics
        health, state = (own_document(retained, topic, self.name) for topic in (topics.health, topics.state))
        memory = health.get("memory")
        memory = memory if isinstance(memory, dict) else {}
        if health and not is_readable(memory.get("usage")):
            log.warning(
                "The memory under %s is of another version; only the last numbers are taken over.", topics.health
            )
        recall(self.usage, memory.get("usage"), state or None, now)
        self.schedule.recall(memory.get("schedule"), now, self.usage.resets())
        last_success = parse_instant(health.get("last_success"))
        self.last_success = min(last_success, now) if last_success and self.usage.is_known else None
        # A restart is no news of the account: what was well is well until the next poll says otherwise.
        if self.last_success is not None and health.get("status") == OK:
            self.status = OK
        self.token_expires_at = parse_instant(health.get("token_expires_at"))
        self.polling = health.get("polling") is not False
        interval = health.get("poll_interval")
        setting = int(self.options.interval.total_seconds())
        # What was set by hand holds until the setting itself is changed.
        if memory.get("interval_setting") == setting and type(interval) is int and self._is_allowed(interval):
            self.schedule.interval = timedelta(seconds=interval)
        if not self.options.polls and self.status == STARTING:
            self.detail = NO_STATUS_LINE
        self.announcement.recall(retained.get(topics.config, b""), self.usage, now)

    # Polling

    def due(self, now: datetime) -> datetime | None:
        """Return when to poll next; None while a poll is under way, or none is to be made."""
        if self.busy or not self.options.polls or (not self.polling and not self.schedule.refresh_wanted):
            return None
        return self.schedule.due(now, self.usage.resets())

    def begin_poll(self, now: datetime) -> bool:
        """Note that a poll begins; return whether a second request would be within the budget."""
        self.schedule.requested(now)
        self.busy = True
        self.notice = None
        # Before the first request its trace is published, so that a crash at it is remembered too.
        self.changed = self.changed or not self.polled
        self.polled = True
        return self.schedule.requests_last_hour(now) < BUDGET or not self.schedule.limited

    def finish_poll(self, outcome: PollResult, now: datetime) -> list[Event]:
        """Take in what a poll brought; return what happened."""
        self.busy = False
        self.changed = True
        self.fingerprint = outcome.fingerprint
        self.token_mark = outcome.token_mark or self.token_mark
        self.token_expires_at = outcome.token_expires_at
        if outcome.requests == 0:
            self.schedule.not_sent()
        elif outcome.requests == 2:
            self.schedule.requests.append(now)
        self._identify(outcome.organization)
        if outcome.error is not None:
            self._fail(outcome.error, now)
        if outcome.usage is None:
            return []
        return self._succeed(outcome.usage, now)

    def _succeed(self, usage: Reading, now: datetime) -> list[Event]:
        if (usage.malformed, usage.ignored) != self._mentioned:
            self._mentioned = (usage.malformed, usage.ignored)
            sections = ", ".join(usage.malformed) or "none", ", ".join(usage.ignored) or "none"
            log.debug("The answer for %s has unreadable sections: %s; unknown ones: %s", self.name, *sections)
        events = self.usage.answered(usage, self.options.thresholds)
        if not self._has_answered:
            self._has_answered = True
            known = ", ".join(f"{window.label} {window.utilization:g} %" for window in usage) or "no windows"
            log.info("Account %s: %s", self.name, known)
        self.last_success = now
        self.status, self.detail = OK, None
        self.schedule.answered(now, self.usage.last_change)
        self.outage.rose(f"Account {self.name}: the usage is known again.")
        return events

    def _fail(self, error: ApiError | CredentialsError, now: datetime) -> None:
        self.schedule.failed(now, error)
        self.report(error)

    def report(self, error: ClaudeUsageError) -> None:
        """Show an error as this account's status."""
        self.status, self.detail = error.status, str(error)
        self.changed = True
        self.outage.fell(error.status, f"Account {self.name}: {error}")

    def glimpsed(self, usage: Reading, now: datetime) -> list[Event]:
        """Take in what the status line told; return what happened."""
        before = self.usage.last_answer
        events = self.usage.glimpsed(usage, self.options.thresholds)
        if self.usage.last_answer == before:
            return []  # nothing newer: it neither saves a request nor makes anything fresh
        self.schedule.glimpsed(now)
        self.last_success = max(usage.read_at, self.last_success or usage.read_at)
        if not self.options.polls:
            self.status, self.detail = OK, None
        self.changed = True
        return events

    def credentials_noticed(self, noticed: CredentialsChanged, now: datetime) -> None:
        """Take in credentials that changed: what waited for another token waits no longer."""
        self.fingerprint = noticed.fingerprint
        self.token_expires_at = noticed.token_expires_at
        self.changed = True
        if self._identify(noticed.organization) or self.status in CREDENTIALS_STATUSES:
            self.schedule.ask_now(now)
        # The file is written for other reasons too; a token that was refused is not asked with again.
        if noticed.token_mark not in (None, self.token_mark):
            self.schedule.credentials_changed(now)

    def _identify(self, organization: str | None) -> bool:
        switched = self.usage.identify(organization)
        if switched:
            log.info("Account %s: the credentials are another organization's; its numbers start afresh.", self.name)
            self.last_success = None
        return switched

    # Commands

    def command(self, name: str, payload: bytes, now: datetime) -> None:
        """Obey a command; a malformed one does no harm."""
        text = payload[:20].decode("ascii", "replace").strip()
        if name == "refresh":
            self._refresh(now)
        elif name == "interval" and text.isascii() and text.isdigit() and self._is_allowed(int(text)):
            self.schedule.set_interval(now, timedelta(seconds=int(text)))
        elif name == "polling" and text.upper() in ("ON", "OFF"):
            self.polling = text.upper() == "ON"
            if self.polling:
                self.schedule.ask_now(now)
        else:
            log.info("Account %s: the command %s with an unusable value is ignored.", self.name, name[:20])
        self.changed = True

    def _refresh(self, now: datetime) -> None:
        if not self.options.polls:
            self.notice = "A refresh does nothing here: the numbers come from the status line alone."
            return
        self.schedule.refresh(now)
        when = self.due(now)
        if when is None:
            self.notice = None if self.busy else "A refresh has to wait until there are usable credentials."
        elif when > now + timedelta(seconds=1):
            self.notice = f"A refresh was asked for; it will be made at {format_instant(when)}, not to annoy the API."

    def _is_allowed(self, seconds: int) -> bool:
        return self._shortest_interval <= seconds <= LONGEST_INTERVAL

    @property
    def _shortest_interval(self) -> int:
        return SHORTEST_INTERVAL if self.options.limited else 1

    def heard_rival(self, now: datetime) -> None:
        """Note that another instance publishes this account."""
        if self.rival_heard is None:
            log.warning("Account %s: %s", self.name, self._rival_sentence)
            self.changed = True
        self.rival_heard = now

    @property
    def _rival_sentence(self) -> str:
        return (
            f"another instance publishes under {self.options.topics.base}/{self.name} too; "
            "stop one of them: one service can publish several accounts (CLAUDE_ACCOUNTS)."
        )

    # Time

    def is_fresh(self, now: datetime) -> bool:
        """Whether the numbers may be acted on."""
        return self.last_success is not None and now - self.last_success < self.options.stale_after

    def wake_at(self, now: datetime) -> datetime | None:
        """Return when time alone changes something, other than a poll being due."""
        moments = [self.usage.next_unknown(now), self.announcement.leftovers_until]
        if self.last_success is not None and self.is_fresh(now):
            moments.append(self.last_success + self.options.stale_after)
        if self.rival_heard is not None:
            moments.append(self.rival_heard + RIVAL_FOR)
        return min((moment for moment in moments if moment is not None), default=None)

    def tick(self, now: datetime) -> None:
        """Notice what time alone has changed."""
        shown = (self.is_fresh(now), self.usage.next_unknown(now))
        if shown != self._shown:
            self._shown = shown
            self.changed = True
        leftovers_until = self.announcement.leftovers_until
        if leftovers_until is not None and now >= leftovers_until:
            self.announcement.forget_leftovers()
            self.changed = True
        if self.rival_heard is not None and now >= self.rival_heard + RIVAL_FOR:
            self.rival_heard, self.changed = None, True
            log.info("Account %s: no other instance is heard any more.", self.name)

    def shift(self, step: timedelta) -> None:
        """Follow a clock that was set by `step`."""
        self.usage.shift(step)
        self.schedule.shift(step)
        for name in ("last_success", "rival_heard"):
            instant = getattr(self, name)
            if instant is not None:
                setattr(self, name, instant + step)
        self.changed = True

    # What should stand on the broker

    def documents(self, now: datetime) -> Iterator[tuple[str, bytes]]:
        """Yield topics and payloads in the order to publish them.

        The state comes before the discovery, so that no entity is announced whose value is not there yet, and
        the health last, so that nothing is called fresh before it is.
        """
        topics = self.options.topics
        if self.usage.is_known:
            yield topics.state, encode(self.usage.document(now))
        if self.options.discovery:
            yield topics.config, self.announcement.payload(self.usage)
        elif self.announcement.was_there:
            yield topics.config, b""  # it was announced before discovery was switched off
        yield topics.health, encode(self._health(now).document(self._memory()))

    def _health(self, now: datetime) -> Health:
        due = self.due(now) if not self.busy else self.schedule.next_regular
        blocked = self.schedule.blocked_until
        parts = [self.detail, self.notice]
        if self.rival_heard is not None:
            sentence = self._rival_sentence
            parts.append(sentence[0].upper() + sentence[1:])
        return Health(
            status=self.status if self.polling else PAUSED,
            detail=" ".join(part for part in parts if part) or None,
            fresh=self.is_fresh(now),
            last_success=self.last_success,
            next_poll=due,
            blocked_until=blocked if blocked is not None and blocked > now else None,
            token_expires_at=self.token_expires_at,
            poll_interval=int(self.schedule.interval.total_seconds()),
            polling=self.polling,
            requests_last_hour=self.schedule.requests_last_hour(now),
            consecutive_failures=self.schedule.failures,
            version=__version__,
        )

    def _memory(self) -> dict[str, Any]:
        return {
            "interval_setting": int(self.options.interval.total_seconds()),
            "schedule": self.schedule.remember(),
            "usage": remember(self.usage),
        }
