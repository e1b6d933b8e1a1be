"""Looks at the logins of a reporter's accounts and reports what must be announced again. Makes no request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import CredentialsError, CredentialsUnreadable, TokenExpired
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.sources.credentials.token import EXPIRY_MARGIN
from claude_usage_mqtt.sources.credentials.watch import CHECK_EVERY, LoginWatch, Watched
from claude_usage_mqtt.sources.reporter_messages import USABLE, AnnouncedLogin
from claude_usage_mqtt.sources.source import Login, PolledSource

log = logging.getLogger(__name__)

LOOKS_BLIND = 10
"""Looks after which a login that cannot be watched is read anyway: in the Keychain it has no date."""


class LoginSeen(NamedTuple):
    """An account's login as it is now, and for one that cannot be used a sentence for this machine's log."""

    account: str
    login: AnnouncedLogin
    problem: str = ""


class ReportedLogin(Watched[LoginSeen]):
    """One account's login; `seen` is what was announced of it, and only a difference from that is reported."""

    def __init__(self, account: str, source: PolledSource) -> None:
        super().__init__(account, source)
        self.seen = self.unread()
        self.usability = Outage(log)
        self._fingerprint: object = None
        self._last_read: tuple[Login, str, str] | None = None  # with its status, and its problem
        self._looks = 0

    def unread(self) -> LoginSeen:
        """Return what is known of a login that has not been read yet, or cannot be: reading it may hang."""
        return LoginSeen(self.account, AnnouncedLogin(self.source.name, CredentialsUnreadable.status, Login()))

    def _changes(self, now: datetime) -> Iterator[LoginSeen]:
        login, status, problem = self._read()
        remedy = remedy_of_end(self.source, login, now)
        if status == USABLE and remedy is not None:
            status = TokenExpired.status
            problem = f"the login cannot be used ({status}); {remedy}."
        announced = AnnouncedLogin(source=self.source.name, status=status, login=login)
        seen = LoginSeen(self.account, announced, problem)
        if seen != self.seen:
            yield seen

    def _read(self) -> tuple[Login, str, str]:
        """Return the login; it is read only if it may have changed."""
        fingerprint = self.source.fingerprint()
        self._looks += 1
        is_blind = not self.source.can_be_watched and self._looks >= LOOKS_BLIND
        if self._last_read is None or fingerprint != self._fingerprint or is_blind:
            try:
                self._last_read = self.source.login(), USABLE, ""
            except CredentialsError as error:
                self._last_read = Login(), error.status, str(error)
            self._fingerprint, self._looks = fingerprint, 0
        return self._last_read


class ReportedLogins:
    """All logins of a reporter; `put` gets changes, in another thread."""

    def __init__(self, sources: Mapping[str, PolledSource], clock: Clock, put: Callable[[LoginSeen], None]) -> None:
        self._logins = {account: ReportedLogin(account, source) for account, source in sources.items()}
        self.watch = LoginWatch(clock.now, put, clock.to_real(CHECK_EVERY))

    def start(self) -> None:
        """Look at all of them repeatedly."""
        self.watch.start(list(self._logins.values()))

    @property
    def announced(self) -> dict[str, AnnouncedLogin]:
        """The logins to announce."""
        return {account: login.seen.login for account, login in self._logins.items()}

    def take(self, seen: LoginSeen) -> None:
        """Process a change."""
        login = self._logins[seen.account]
        login.seen = seen
        if seen.problem:
            login.usability.down(seen.login.status, f"Account {seen.account}: {seen.problem}")
        else:
            login.usability.up(f"Account {seen.account}: the login can be used again.")

    def note_hanging(self) -> bool:
        """Note a login whose reading hangs; return whether there is a new one."""
        account = self.watch.replace_hanging()
        if account is not None:
            self._logins[account].seen = self._logins[account].unread()
        return account is not None


def remedy_of_end(source: PolledSource, login: Login, now: datetime) -> str | None:
    """Return what makes an ended login usable again, None if it has not ended; one that Claude Code renews has not."""
    soon = now + EXPIRY_MARGIN
    if login.login_expires_at is not None and login.login_expires_at <= soon:
        return "log in with Claude Code"
    if login.token_expires_at is not None and login.token_expires_at <= soon and not source.outlives_token:
        return "start Claude Code once, or let it be asked (CLAUDE_SOURCE=claude-code)"
    return None
