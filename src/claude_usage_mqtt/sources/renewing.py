"""The API with a login that Claude Code renews: it is asked once when the token has expired, then the API again.

We never renew a login ourselves: that would log Claude Code out.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import TokenExpired
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.claude_code import ClaudeCode
from claude_usage_mqtt.sources.claude_code_cache import UsageCache
from claude_usage_mqtt.sources.credentials.token import CredentialSource
from claude_usage_mqtt.sources.source import PollResult, usable_login

ASK_AGAIN = timedelta(hours=1)
"""From one question for the same expired token to the next: each costs a request, and a login that is over stays so."""


class RenewingSource(ApiSource):
    """The endpoint, and the Claude Code that owns the login."""

    outlives_token = True

    def __init__(
        self, credentials: CredentialSource, api: UsageApi, cache: UsageCache, claude_code: ClaudeCode
    ) -> None:
        super().__init__(credentials, api, cache)
        self._claude_code = claude_code
        self._asked: tuple[int | None, datetime] | None = None

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        """Ask the API; if the token has expired, ask Claude Code, whose answer is as good. Never raises."""
        result = super().poll(account, clock, may_retry=may_retry)
        if not isinstance(result.error, TokenExpired) or result.requests >= (2 if may_retry else 1):
            return result
        mark, now = None if result.login is None else result.login.mark, clock.now()
        if self._asked is not None and self._asked[0] == mark and now - self._asked[1] < ASK_AGAIN:
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
