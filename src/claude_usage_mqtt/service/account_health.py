"""How an account is doing, as its health document shows it. No I/O."""

from __future__ import annotations

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
from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.service.account_login import AccountLogin
from claude_usage_mqtt.service.other_instance import OtherInstance
from claude_usage_mqtt.service.sign_of_life import SignOfLife
from claude_usage_mqtt.sources.source import PushedSource
from claude_usage_mqtt.topics import OK, STARTING, Topics

CREDENTIALS_STATUSES = frozenset(
    kind.status for kind in (CredentialsNotFound, CredentialsUnreadable, TokenExpired, NoReporter)
)

MISSING = frozenset({CredentialsNotFound.status, NoReporter.status})
"""Statuses of sources that are missing."""

SILENT_AFTER = timedelta(days=1)
"""If nothing was sent for this long it is a status, and a problem: nights and meetings are shorter."""


class AccountHealth:
    """The `hint` is about what a person asked for, the `detail` about the status."""

    def __init__(self, topics: Topics) -> None:
        self.status = STARTING
        self.detail: str | None = None
        self.hint: str | None = None
        self.last_success: datetime | None = None
        self.wrong_clock: tuple[str, datetime] | None = None  # a sentence, and when it became true
        self.login = AccountLogin()
        self.alive = SignOfLife()
        self.other_instance = OtherInstance(topics)

    @property
    def lacks_login(self) -> bool:
        """Whether nothing could be asked, as there is no login to ask with."""
        return self.status in CREDENTIALS_STATUSES

    def succeeded(self, read_at: datetime) -> None:
        """Note when numbers were read."""
        self.last_success = max(read_at, self.last_success or read_at)
        self.wrong_clock = None

    def show_ok(self, detail: str | None = None) -> None:
        """Show that all is well."""
        self.status, self.detail = OK, detail

    def show_nothing_new(self) -> None:
        """Show that a machine can be asked, if none could: it answered that its numbers are the old ones."""
        if self.status == NoReporter.status:
            self.status, self.detail = STARTING if self.last_success is None else OK, None

    def show_error(self, error: ClaudeUsageError) -> None:
        """Show what is wrong."""
        self.status, self.detail = error.status, str(error)

    def show_silence(self, pushed: Iterable[PushedSource], account: str, now: datetime) -> None:
        """Show that none of the pushed sources sends."""
        last = self.last_success
        for source in pushed:
            self.detail = source.why_silent(account, last)
            if last is None or now - last >= SILENT_AFTER:
                self.status = source.silent
        if self.wrong_clock is not None and now - self.wrong_clock[1] < SILENT_AFTER:
            self.detail = self.wrong_clock[0]

    def changes_at(self, now: datetime, poll_at: datetime | None, *, is_polling: bool) -> list[datetime | None]:
        """Return when time alone changes something; `poll_at` is when the next poll is due."""
        renewal = self.alive.renewal(poll_at, is_polling=is_polling)
        return [self.login.changes_at(now), renewal, self.other_instance.ends_at]

    def restore(self, document: Mapping[str, Any], *, is_known: bool) -> None:
        """Continue from the health that was retained, untrusted, and worth nothing if no numbers are known.

        A restart does not change the account: what was well is well until the next poll says otherwise.
        """
        self.last_success = parse_instant(document.get("last_success")) if is_known else None
        if self.last_success is not None and document.get("status") == OK:
            self.status = OK
