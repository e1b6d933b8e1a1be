"""Looks at the logins of a reporter's accounts and says when what is to be announced has changed. Makes no request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import CredentialsError, TokenExpired
from claude_usage_mqtt.sources.reporter_messages import USABLE, AnnouncedLogin
from claude_usage_mqtt.sources.source import Login, Source

LOOK_EVERY = 30.0
"""Seconds between looks: a login that was renewed is announced within this time."""

LOOKS_BLIND = 10
"""Looks after which a login that cannot be watched is read anyway: in the Keychain it has no date."""

EXPIRY_MARGIN = timedelta(minutes=5)
"""A token this close to its end is not sent, because clocks differ."""


class LoginsSeen(NamedTuple):
    """All logins as they are now, and for those that cannot be used a sentence for this machine's log."""

    accounts: Mapping[str, AnnouncedLogin]
    problems: Mapping[str, str]


@dataclass(slots=True)
class _Known:
    fingerprint: object = None
    login: Login = field(default_factory=Login)
    status: str | None = None
    problem: str = ""
    looks: int = 0


class KnownLogins:
    """What is known of each account's login."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self._known = {account: _Known() for account in sources}

    def look(self, now: datetime) -> LoginsSeen:
        """Return all logins; only those that may have changed are read."""
        logins = {account: self._look(account, source, now) for account, source in self._sources.items()}
        problems = {
            account: self._known[account].problem
            or f"the login cannot be used ({login.status}); {what_helps(login.login, now)}."
            for account, login in logins.items()
            if not login.is_usable
        }
        return LoginsSeen(logins, problems)

    def _look(self, account: str, source: Source, now: datetime) -> AnnouncedLogin:
        known, fingerprint = self._known[account], source.fingerprint()
        known.looks += 1
        is_blind = not source.can_be_watched and known.looks >= LOOKS_BLIND
        if known.status is None or fingerprint != known.fingerprint or is_blind:
            known.fingerprint, known.looks = fingerprint, 0
            try:
                known.login, known.status, known.problem = source.login(), USABLE, ""
            except CredentialsError as error:
                known.login, known.status, known.problem = Login(), error.status, str(error)
        status = known.status
        if status == USABLE and has_ended(source, known.login, now):
            status = TokenExpired.status
        return AnnouncedLogin(source=source.name, status=status, login=known.login)


def what_helps(login: Login, now: datetime) -> str:
    """Return what makes a login usable again: an access token is renewed by Claude Code, a login that ended is not."""
    if login.login_expires_at is not None and now >= login.login_expires_at - EXPIRY_MARGIN:
        return "log in with Claude Code"
    return "start Claude Code once, or let it be asked (CLAUDE_SOURCE=claude-code)"


def has_ended(source: Source, login: Login, now: datetime) -> bool:
    """Whether a login cannot be used anymore; Claude Code renews an expired token by itself, we do not."""
    ends = [login.login_expires_at, None if source.outlives_token else login.token_expires_at]
    return any(end is not None and now >= end - EXPIRY_MARGIN for end in ends)


def watch_logins(
    sources: Mapping[str, Source],
    clock: Clock,
    put: Callable[[LoginsSeen], None],
    hint: threading.Event,
    stopping: threading.Event,
) -> None:
    """Look every 30 seconds, and at each `hint`, until `stopping`.

    Runs in a thread, because on a dead mount a look may hang.
    """
    known = KnownLogins(sources)
    before: LoginsSeen | None = None
    while True:
        seen = known.look(clock.now())
        if seen != before:
            before = seen
            put(seen)
        hint.wait(clock.to_real(LOOK_EVERY))
        hint.clear()
        if stopping.is_set():
            return
