"""The API as a source: each poll reads the token that Claude Code keeps on this machine, and sends it once."""

from __future__ import annotations

from datetime import timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.credentials.places import CredentialSource
from claude_usage_mqtt.sources.fetch import poll
from claude_usage_mqtt.sources.source import Login, PollResult
from claude_usage_mqtt.usage.reading import OAUTH


class OauthSource:
    """The API, asked with the login that is found in one place."""

    name = OAUTH
    can_be_watched = True
    repeats_for = timedelta(0)

    def __init__(self, credentials: CredentialSource, api: UsageApi) -> None:
        self._credentials = credentials
        self._api = api

    @property
    def place(self) -> str:
        """Where the login is."""
        return self._credentials.place

    def login(self) -> Login:
        """Return what is known of the login; makes no request; raises CredentialsError."""
        found = self._credentials.read()
        return Login(
            organization=found.organization,
            plan=found.plan,
            scopes=found.scopes,
            token_expires_at=found.expires_at,
            mark=hash(found.token),
        )

    def fingerprint(self) -> object:
        """Return something that changes when the login does."""
        return self._credentials.fingerprint()

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        """Return a reading or an error; never raises."""
        return poll(account, self._credentials, self._api, clock, may_retry=may_retry)
