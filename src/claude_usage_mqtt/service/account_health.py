"""How an account does, as its health document shows it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from claude_usage_mqtt.errors import (
    ClaudeUsageError,
    CredentialsNotFound,
    CredentialsUnreadable,
    NoReporter,
    TokenExpired,
)
from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.service.status_line_notice import NO_STATUS_LINE, silence
from claude_usage_mqtt.topics import OK, STARTING

CREDENTIALS_STATUSES = frozenset(
    kind.status for kind in (CredentialsNotFound, CredentialsUnreadable, TokenExpired, NoReporter)
)

MISSING = frozenset({CredentialsNotFound.status, NoReporter.status})
"""Statuses of sources that are not there."""


class AccountHealth:
    """The `hint` is about what a person asked for, the `detail` about the status."""

    def __init__(self) -> None:
        self.status = STARTING
        self.detail: str | None = None
        self.hint: str | None = None
        self.last_success: datetime | None = None

    @property
    def lacks_login(self) -> bool:
        """Whether nothing could be asked, as there is no login to ask with."""
        return self.status in CREDENTIALS_STATUSES

    def succeeded(self, read_at: datetime) -> None:
        """Note when numbers were read."""
        self.last_success = max(read_at, self.last_success or read_at)

    def show_ok(self, detail: str | None = None) -> None:
        """Show that all is well."""
        self.status, self.detail = OK, detail

    def show_error(self, error: ClaudeUsageError) -> None:
        """Show what is wrong."""
        self.status, self.detail = error.status, str(error)

    def show_silence(self, now: datetime) -> None:
        """Show that no status line comes."""
        is_status, self.detail = silence(self.last_success, now)
        self.status = NO_STATUS_LINE if is_status else self.status

    def restore(self, document: Mapping[str, Any], *, is_known: bool) -> None:
        """Continue from the health that was retained, untrusted, and worth nothing if no numbers are known.

        A restart does not change the account: what was well is well until the next poll says otherwise.
        """
        self.last_success = parse_instant(document.get("last_success")) if is_known else None
        if self.last_success is not None and document.get("status") == OK:
            self.status = OK
