"""One poll of one account: credentials, request, answer. Runs in a thread of its own and only reports."""

from __future__ import annotations

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
from claude_usage_mqtt.sources.source import Login, PollResult
from claude_usage_mqtt.usage.reading import OAUTH, Reading


def poll(account: str, source: CredentialSource, api: UsageApi, clock: Clock, *, may_retry: bool) -> PollResult:
    """Fetch the usage once; with `may_retry` a second time where the token was renewed meanwhile. Never raises."""
    requests = 0
    credentials: Credentials | None = None
    reading: Reading | None = None
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
        reading = parse_usage(answer, clock.now(), plan=credentials.plan)
    except RateLimited as limited:
        error = _expired_in_disguise(credentials, clock.now()) or limited
    except (ApiError, CredentialsError) as known:
        error = known
    except Exception as unknown:  # noqa: BLE001 - a poll must always report; its text could hold outside data
        error = InvalidResponse(f"The usage could not be read ({type(unknown).__name__}); update this program.")
    login = (
        None
        if credentials is None
        else Login(
            organization=credentials.organization,
            plan=credentials.plan,
            scopes=credentials.scopes,
            token_expires_at=credentials.expires_at,
            mark=hash(credentials.token),
        )
    )
    return PollResult(
        account=account,
        source=OAUTH,
        reading=reading,
        error=error,
        requests=requests,
        login=login,
        fingerprint=fingerprint,
    )


def _expired_in_disguise(credentials: Credentials | None, now: datetime) -> TokenExpired | None:
    """Return TokenExpired where a 429 came for a token whose time had passed: the API answers both alike."""
    try:
        if credentials is not None:
            credentials.require_unexpired(now)
    except TokenExpired as expired:
        return expired
    return None
