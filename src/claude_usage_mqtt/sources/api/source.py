"""The API as a source: each poll reads the login that is on this machine now, and sends its token once.

We never renew a login ourselves: that would log Claude Code out. Claude Code may do so once the token has expired.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import (
    ApiError,
    CredentialsError,
    InvalidResponse,
    RateLimited,
    TokenExpired,
    Unauthorized,
)
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.sources.claude_code_cache import UsageCache
from claude_usage_mqtt.sources.credentials.token import Credentials, CredentialSource
from claude_usage_mqtt.sources.source import Login, PolledSource, PollResult, usable_login
from claude_usage_mqtt.usage.reading import OAUTH, Reading

ASK_AGAIN = timedelta(hours=1)
"""Between questions to Claude Code about one expired token: each costs a request, and an ended login stays ended."""


class ApiSource:
    """The endpoint, asked directly with the token of the login in one place, and the Claude Code that may renew it."""

    name = OAUTH
    lacks = ""
    is_local = True

    def __init__(
        self,
        credentials: CredentialSource,
        api: UsageApi,
        cache: UsageCache | None = None,
        claude_code: PolledSource | None = None,
    ) -> None:
        self.place = credentials.place
        self.outlives_token = claude_code is not None
        self._claude_code = claude_code
        self._asked: tuple[int | None, datetime] | None = None  # the mark of the token to renew, and when we asked
        self._credentials = credentials
        self._api = api
        self._cache = cache
        self._last_login: Login | None = None

    @property
    def can_be_watched(self) -> bool:
        """Whether a changed login is noticed without a request."""
        return self._credentials.can_be_watched

    def login(self) -> Login:
        """Return what is known of the login apart from its token; raises CredentialsError."""
        self._last_login = self._credentials.read().login
        return self._last_login

    def fingerprint(self) -> object:
        """Return something that changes when the login does."""
        return self._credentials.fingerprint()

    def cached(self, now: datetime) -> Reading | None:
        """Return the newest numbers that Claude Code keeps, if they are of the same login; never raises."""
        if self._cache is None or (reading := self._cache.newest(now)) is None:
            return None
        login, cached = self._last_login or usable_login(self), self._cache.login
        if login is None or (cached is not None and cached.owner.is_same(login.owner) is False):
            return None
        return reading

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        """Ask once; with `may_retry` a second time if the token was renewed in between. Never raises.

        If it has expired, Claude Code is asked; its answer is as good.
        """
        result = self._ask(account, clock, may_retry=may_retry)
        if self._claude_code is None or not isinstance(result.error, TokenExpired):
            return result
        mark, now = None if result.login is None else result.login.mark, clock.now()
        was_asked = self._asked is not None and self._asked[0] == mark and now - self._asked[1] < ASK_AGAIN
        if was_asked or result.requests >= (2 if may_retry else 1):
            return result
        self._asked = mark, now
        answer = self._claude_code.poll(account, clock, may_retry=False)
        login = usable_login(self) or result.login
        is_renewed = login is not None and login.mark != mark
        if answer.error is not None and not is_renewed:
            text = f"{result.error} Claude Code was asked to renew it, without success: {answer.error}"
            answer = replace(answer, error=TokenExpired(text))
        requests = result.requests + answer.requests
        return replace(answer, login=login, requests=requests, fingerprint=self.fingerprint())

    def _ask(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        requests = 0
        credentials: Credentials | None = None
        reading: Reading | None = None
        error: ApiError | CredentialsError | None = None
        fingerprint: object = None
        try:
            fingerprint = self._credentials.fingerprint()
            credentials = self._credentials.read()
            self._last_login = credentials.login
            credentials.require_unexpired(clock.now())
            requests = 1
            try:
                answer = self._api.fetch(credentials.token)
            except Unauthorized:
                renewed = self._credentials.read()
                if not may_retry or renewed.token == credentials.token:
                    raise
                credentials = renewed
                credentials.require_unexpired(clock.now())
                requests = 2
                answer = self._api.fetch(credentials.token)
            reading = parse_usage(answer, clock.now(), plan=credentials.login.plan, tier=credentials.login.tier)
        except ApiError as refused:
            refused.without_history()  # it may be replaced
            is_limited = isinstance(refused, RateLimited)
            disguised = _expired_in_disguise(credentials, clock.now()) if is_limited else None
            error = disguised or self._credentials.explain(refused)
        except CredentialsError as unusable:
            error = unusable
        except Exception as unknown:  # noqa: BLE001 - a poll must always report; its text could hold outside data
            error = InvalidResponse(f"The usage could not be read ({type(unknown).__name__}); update this program.")
        return PollResult(
            account=account,
            source=self.name,
            reading=reading,
            error=error,
            requests=requests,
            login=None if credentials is None else credentials.login,
            fingerprint=fingerprint,
        )


def _expired_in_disguise(credentials: Credentials | None, now: datetime) -> TokenExpired | None:
    """Return TokenExpired if a 429 came for a token that has expired: the API answers both alike."""
    try:
        if credentials is not None:
            credentials.require_unexpired(now)
    except TokenExpired as expired:
        return expired
    return None
