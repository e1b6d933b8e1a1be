"""How an account is doing, as its health document shows it. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import (
    ClaudeUsageError,
    CredentialsNotFound,
    CredentialsUnreadable,
    NoReporter,
    TokenExpired,
)
from claude_usage_mqtt.instants import format_instant, local_time, parse_instant
from claude_usage_mqtt.sources.source import Login, PushedSource
from claude_usage_mqtt.topics import OK, STARTING, Topics
from claude_usage_mqtt.usage.events import LOGIN_EXPIRING, Event
from claude_usage_mqtt.usage.money import ACCOUNT_EVENT_LASTS

log = logging.getLogger(__name__)

CREDENTIALS_STATUSES = frozenset(
    kind.status for kind in (CredentialsNotFound, CredentialsUnreadable, TokenExpired, NoReporter)
)

MISSING = frozenset({CredentialsNotFound.status, NoReporter.status})
"""Statuses of sources that are missing."""

SILENT_AFTER = timedelta(days=1)
"""Silence for this long is a status, and a problem: nights and meetings are shorter."""

ALIVE_FOR = timedelta(minutes=8)
RENEWED_EVERY = timedelta(minutes=5)
"""How often the sign of life is renewed: with each poll, and in between if polls are rare."""

POLL_WITHIN = timedelta(minutes=1)
"""How long a renewal waits for a poll, which also renews it; Home Assistant waits seven minutes in all."""

MENTIONED_FOR = timedelta(hours=1)
"""How long another instance is mentioned after its last message."""

NOTICE = timedelta(days=3)
"""How long before its end a login is mentioned: a weekend, and a day to act."""

SAME_END = timedelta(days=1)
"""Two ends this close belong to one login: saved ones have no milliseconds, and there is at most one event a day."""


class AccountLogin:
    """The login, as far as it is known."""

    def __init__(self) -> None:
        self.known = Login()
        self.fingerprint: object = None
        """Changes when the login does."""
        self._notified: datetime | None = None
        """The end that already was an event."""

    def is_other_token(self, login: Login) -> bool:
        """Whether a login surely has another token; an earlier run saved no mark, but the token's expiry."""
        if login.mark is None or self.known.mark is not None:
            return login.mark not in (None, self.known.mark)
        return format_instant(login.token_expires_at) != format_instant(self.known.token_expires_at)

    def _ending(self, now: datetime) -> datetime | None:
        """Return when it ends, if that is near."""
        ends_at = self.known.login_expires_at
        return ends_at if ends_at is not None and ends_at - NOTICE <= now < ends_at else None

    def events(self, now: datetime) -> list[Event]:
        """Return the event if it is due, early enough to log in again; its `resets_at` is when the login ends."""
        ends_at = self._ending(now)
        if ends_at is None or (self._notified is not None and abs(ends_at - self._notified) < SAME_END):
            return []
        self._notified = ends_at
        return [Event(LOGIN_EXPIRING, at=now, resets_at=ends_at, expires_at=now + ACCOUNT_EVENT_LASTS)]

    def changes_at(self, now: datetime) -> datetime | None:
        """Return when the event will be due, or after that when the login ends."""
        ends_at = self.known.login_expires_at
        moments = [] if ends_at is None else [ends_at - NOTICE, ends_at]
        return next((at for at in moments if at > now), None)

    def sentence(self, now: datetime) -> str | None:
        """Return what to do in the last days of a login, None before and after them."""
        ends_at = self._ending(now)
        if ends_at is None:
            return None
        return (
            f"The login ends at {local_time(ends_at)}, and nothing renews it: log in with "
            "Claude Code again (/login) before that."
        )

    def save(self) -> str | None:
        """Return what must survive a restart besides the health, for JSON."""
        return format_instant(self._notified)

    def restore(self, health: Mapping[str, Any], saved: object) -> None:
        """Continue from the health that was retained, and what else was saved; both are untrusted."""
        self.known = Login(
            token_expires_at=parse_instant(health.get("token_expires_at")),
            login_expires_at=parse_instant(health.get("login_expires_at")),
        )
        self._notified = parse_instant(saved)


class OtherInstance:
    """Another instance that publishes the same account, as far as it is known."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self.seen_at: datetime | None = None

    @property
    def sentence(self) -> str | None:
        """What to do; None if there is no other instance."""
        if self.seen_at is None:
            return None
        return (
            f"Another instance publishes under {self._topics.base}/{self._topics.account} too; "
            "stop one of them: one service can publish several accounts (CLAUDE_ACCOUNTS)."
        )

    @property
    def ends_at(self) -> datetime | None:
        """When it counts as gone."""
        return None if self.seen_at is None else self.seen_at + MENTIONED_FOR

    def seen(self, now: datetime) -> None:
        """Note a message from it."""
        is_new, self.seen_at = self.seen_at is None, now
        if is_new:
            log.warning("Account %s: %s", self._topics.account, self.sentence)

    def tick(self, now: datetime) -> None:
        """Forget it once it has been silent for long enough."""
        if self.ends_at is not None and now >= self.ends_at:
            self.seen_at = None
            log.info("Account %s: the other instance is gone.", self._topics.account)


class AccountHealth:
    """The `hint` is about a person's command, the `detail` about the status."""

    def __init__(self, topics: Topics) -> None:
        self.status = STARTING
        self.detail: str | None = None
        self.hint: str | None = None
        self.last_success: datetime | None = None
        self.wrong_clock: tuple[str, datetime] | None = None  # a sentence, and when it became true
        self.login = AccountLogin()
        self.alive_until: datetime | None = None
        """Until when retained messages may be trusted; None before the first sign of life."""
        self.is_renewed = False
        """Whether there is an unpublished sign of life."""
        self.other_instance = OtherInstance(topics)

    @property
    def lacks_login(self) -> bool:
        """Whether nothing could be asked because there is no login."""
        return self.status in CREDENTIALS_STATUSES

    def succeeded(self, read_at: datetime) -> None:
        """Note when numbers were read."""
        self.last_success = max(read_at, self.last_success or read_at)
        self.wrong_clock = None

    def show_ok(self, detail: str | None = None) -> None:
        """Show that all is well."""
        self.status, self.detail = OK, detail

    def show_nothing_new(self) -> None:
        """Show that a machine can be asked again: it answered that it has no new numbers."""
        if self.status == NoReporter.status:
            self.status, self.detail = STARTING if self.last_success is None else OK, None

    def show_error(self, error: ClaudeUsageError) -> None:
        """Show what is wrong."""
        self.status, self.detail = error.status, str(error)

    def show_silence(self, pushed: Iterable[PushedSource], account: str, now: datetime) -> None:
        """Show that no pushed source sends anything."""
        last = self.last_success
        for source in pushed:
            self.detail = source.why_silent(account, last)
            if last is None or now - last >= SILENT_AFTER:
                self.status = source.silent
        if self.wrong_clock is not None and now - self.wrong_clock[1] < SILENT_AFTER:
            self.detail = self.wrong_clock[0]

    def changes_at(self, now: datetime, poll_at: datetime | None, *, is_polling: bool) -> list[datetime | None]:
        """Return when time alone changes something; `poll_at` is when the next poll is due."""
        renewal = self._renewal(poll_at, is_polling=is_polling)
        return [self.login.changes_at(now), renewal, self.other_instance.ends_at]

    def renew(self, now: datetime) -> None:
        """Give a sign of life."""
        self.alive_until, self.is_renewed = now + ALIVE_FOR, True

    def _renewal(self, poll_at: datetime | None, *, is_polling: bool) -> datetime | None:
        if self.alive_until is None:
            return None
        regular = self.alive_until - ALIVE_FOR + RENEWED_EVERY
        waits = is_polling or (poll_at is not None and poll_at <= regular + POLL_WITHIN)
        return regular + POLL_WITHIN if waits else regular

    def tick(self, now: datetime, poll_at: datetime | None, *, is_polling: bool) -> None:
        """Give a sign of life if it is time, or if the clock was set back; note that another instance is gone."""
        at = self._renewal(poll_at, is_polling=is_polling)
        if at is None or self.alive_until is None or now >= at or self.alive_until > now + ALIVE_FOR:
            self.renew(now)
        self.other_instance.tick(now)

    def restore(self, document: Mapping[str, Any], *, is_known: bool) -> None:
        """Continue from the retained health, untrusted, and useless if no numbers are known.

        A restart does not change the account: an `ok` stays `ok` until the next poll says otherwise.
        """
        self.last_success = parse_instant(document.get("last_success")) if is_known else None
        if self.last_success is not None and document.get("status") == OK:
            self.status = OK
