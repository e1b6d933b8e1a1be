"""What a source of readings is, and what one poll of it returns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import ClaudeUsageError
from claude_usage_mqtt.usage.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What is known of a login beside its token; never the token. `account` and `organization` are short hashes."""

    account: str | None = None
    organization: str | None = None
    plan: str | None = None
    tier: str | None = None
    scopes: tuple[str, ...] = ()
    token_expires_at: datetime | None = None
    login_expires_at: datetime | None = None
    mark: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """What a poll returned; no reading and no error: nothing new, nothing wrong."""

    account: str
    source: str
    reading: Reading | None = None
    error: ClaudeUsageError | None = None
    requests: int = 0
    login: Login | None = None
    fingerprint: object = None


class Source(Protocol):
    """A source that is polled."""

    name: str
    can_be_watched: bool
    repeats_for: timedelta

    @property
    def place(self) -> str:
        """Where it is, in words."""

    def login(self) -> Login:
        """Return what is known of the login; makes no request; raises CredentialsError."""

    def fingerprint(self) -> object:
        """Return something that changes when the login does."""

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        """Return a reading or an error; never raises."""
