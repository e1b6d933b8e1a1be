"""How an account is doing, as its health document shows it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import (
    ClaudeUsageError,
    CredentialsNotFound,
    CredentialsUnreadable,
    NoReporter,
    TokenExpired,
)
from claude_usage_mqtt.instants import local_time, parse_instant
from claude_usage_mqtt.service.account_login import AccountLogin
from claude_usage_mqtt.service.other_instance import OtherInstance
from claude_usage_mqtt.service.sign_of_life import SignOfLife
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, OK, STARTING, Topics

CREDENTIALS_STATUSES = frozenset(
    kind.status for kind in (CredentialsNotFound, CredentialsUnreadable, TokenExpired, NoReporter)
)

MISSING = frozenset({CredentialsNotFound.status, NoReporter.status})
"""Statuses of sources that are missing."""

NO_STATUS_LINE = "no_status_line"
NO_STATUS_LINE_DETAIL = (
    "No status line was seen yet; set 'claude-usage-mqtt statusline%s' as Claude Code's status-line command "
    "and send a message in its terminal program: the desktop app has no status line."
)

WRONG_CLOCK = (
    "A status line was ignored: by the clock of its machine it was not sent just now; set that clock, or the one here."
)

SILENT_AFTER = timedelta(days=1)
"""Without a status line for this long it is a status, and a problem: nights and meetings are shorter."""


class AccountHealth:
    """The `hint` is about what a person asked for, the `detail` about the status."""

    def __init__(self, topics: Topics) -> None:
        self.status = STARTING
        self.detail: str | None = None
        self.hint: str | None = None
        self.last_success: datetime | None = None
        self.wrong_clock_at: datetime | None = None
        self._option = "" if topics.account == DEFAULT_ACCOUNT else f" --account {topics.account}"
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
        self.wrong_clock_at = None

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

    def show_silence(self, now: datetime) -> None:
        """Show that no status line comes."""
        last = self.last_success
        self.detail = NO_STATUS_LINE_DETAIL % self._option
        if last is None or now - last >= SILENT_AFTER:
            self.status = NO_STATUS_LINE
        if self.wrong_clock_at is not None and now - self.wrong_clock_at < SILENT_AFTER:
            self.detail = WRONG_CLOCK
        elif last is not None:
            self.detail = (
                f"No status line has arrived since {local_time(last)}: a terminal that sits idle and the desktop "
                "app send none, Claude Code reports no limits for an API key and for some plans, or its command cannot "
                "reach the broker (run 'claude-usage-mqtt check' there)."
            )

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
