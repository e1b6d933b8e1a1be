"""The types of sources: polled ones are asked for a reading, in a worker thread; pushed ones send. They only report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import ApiError, CredentialsError
from claude_usage_mqtt.usage.reading import CLAUDE_CODE, REPORTER, Owner, Reading

REPEATS_FOR = dict.fromkeys((CLAUDE_CODE, REPORTER), timedelta(seconds=60))
"""For how long a source makes no request and repeats what it has; a reporter may ask Claude Code."""


class Login(NamedTuple):
    """What is known of a login apart from its token, which is never part of it.

    `account` and `organization` are short hashes. `mark` distinguishes tokens, in this process only.
    """

    account: str | None = None
    organization: str | None = None
    plan: str | None = None
    tier: str | None = None
    scopes: tuple[str, ...] = ()
    token_expires_at: datetime | None = None
    login_expires_at: datetime | None = None
    mark: int | None = None

    @property
    def owner(self) -> Owner:
        """Whose login it is."""
        return Owner(self.account, self.organization)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """What a poll brought: a reading or an error, and what is known of the login that was used.

    Neither a reading nor an error means that there is nothing new. `requests` were made and count toward the budget.
    """

    account: str
    source: str
    reading: Reading | None = None
    error: ApiError | CredentialsError | None = None
    requests: int = 0
    login: Login | None = None
    fingerprint: object = None

    def __post_init__(self) -> None:
        """Cut the error off from the poll that it ended: it is kept for as long as an outage lasts."""
        if self.error is not None:
            self.error.without_history()


class Source(Protocol):
    """Where an account's readings come from."""

    name: str
    """One of the names in `usage.reading`."""
    lacks: str
    """What it cannot deliver, in words; empty if it has everything that the API has."""


class PushedSource(Source, Protocol):
    """Sends on `<base>/<account>/<level>` at any time."""

    level: str
    """The last level of its topic."""
    silent: str
    """The status of an account to which nothing is sent."""

    def why_silent(self, account: str, last: datetime | None) -> str:
        """Return the sentence about that; `last` is when numbers were read last, None if never."""

    def receive(self, payload: bytes, now: datetime) -> Reading | None:
        """Return what a message says, None if it says nothing usable; raises WrongClockError, and nothing else."""


class WrongClockError(Exception):
    """A message has a time that proves its sender's clock, or ours, wrong; the text says so."""


class PolledSource(Source, Protocol):
    """A source of one account that can be asked."""

    is_local: bool
    """Whether its login is on this machine; another machine announces a change of its login."""
    outlives_token: bool
    """Whether it can be asked after its token has expired."""

    place: str
    """Where the login is, in words, for messages."""

    @property
    def can_be_watched(self) -> bool:
        """Whether a changed login is noticed without a request."""

    def login(self) -> Login:
        """Return what is known of the login, without a request; raises CredentialsError."""
        return Login()

    def fingerprint(self) -> object:
        """Return something that changes when the login does, cheaply and without reading it."""
        return None

    def cached(self, now: datetime) -> Reading | None:  # noqa: ARG002 - for the sources that have some
        """Return the newest numbers that are there without a request, None if there are none; never raises."""
        return None

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        """Ask once; with `may_retry` a second time if the login was renewed in between. Bounded, never raises."""


def usable_login(source: PolledSource) -> Login | None:
    """Return what is known of a source's login, None if it cannot be used."""
    try:
        return source.login()
    except CredentialsError:
        return None
