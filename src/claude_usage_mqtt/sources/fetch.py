"""One poll of one account: credentials, request, answer. Runs in a thread of its own and only reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

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
from claude_usage_mqtt.sources.credentials.places import Credentials, CredentialSource
from claude_usage_mqtt.usage.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """What a poll brought: a usage or an error, and what the credentials told beside their token.

    `token_mark` tells one token from another, in this process only: a hash with its random key.
    """

    account: str
    usage: Reading | None = None
    error: ApiError | CredentialsError | None = None
    requests: int = 0
    token_expires_at: datetime | None = None
    organization: str | None = None
    fingerprint: object = None
    token_mark: int | None = None


def poll(account: str, source: CredentialSource, api: UsageApi, clock: Clock, *, may_retry: bool) -> PollResult:
    """Fetch the usage once; with `may_retry` a second time where the token was renewed meanwhile. Never raises."""
    requests = 0
    credentials: Credentials | None = None
    usage: Reading | None = None
    error: ApiError | CredentialsError | None = None
    fingerprint = source.fingerprint()
    try:
        credentials = source.read()
        credentials.require_unexpired(clock.now())
        requests = 1
        try:
            answer = api.fetch(credentials.token)
        except Unauthorized:
            renewed = source.read()
            if not may_retry or renewed.token == credentials.token:
                raise
            credentials = renewed
            credentials.require_unexpired(clock.now())
            requests = 2
            answer = api.fetch(credentials.token)
        usage = parse_usage(answer, clock.now(), credentials.plan)
    except RateLimited as limited:
        error = _expired_in_disguise(credentials, clock.now()) or limited
    except (ApiError, CredentialsError) as known:
        error = known
    except Exception as unknown:  # noqa: BLE001 - a poll must always report; its text could hold outside data
        error = InvalidResponse(f"The usage could not be read ({type(unknown).__name__}); update this program.")
    return PollResult(
        account=account,
        usage=usage,
        error=error,
        requests=requests,
        token_expires_at=credentials.expires_at if credentials else None,
        organization=credentials.organization if credentials else None,
        fingerprint=fingerprint,
        token_mark=hash(credentials.token) if credentials else None,
    )


def _expired_in_disguise(credentials: Credentials | None, now: datetime) -> TokenExpired | None:
    """Return TokenExpired where a 429 came for a token whose time had passed: the API answers both alike."""
    try:
        if credentials is not None:
            credentials.require_unexpired(now)
    except TokenExpired as expired:
        return expired
    return None
