"""Notices credentials that change between polls, without reading those that did not. Runs in a thread and only reports.

A thread for each account, because on a dead mount a look may hang, and must not delay another account's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from claude_usage_mqtt.errors import CredentialsError
from claude_usage_mqtt.sources.credentials.places import Credentials, CredentialSource

LOOK_EVERY = 30.0
"""Seconds between looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsChanged:
    """What the credentials of an account are on disk now; no request was made."""

    account: str
    fingerprint: object
    token_mark: int | None
    token_expires_at: datetime | None
    organization: str | None


def watch_credentials(
    account: str,
    source: CredentialSource,
    known: Callable[[], object],
    tell: Callable[[CredentialsChanged], None],
    every: float,
    stopping: threading.Event,
) -> None:
    """Look every so many real seconds until `stopping`, and tell each time that the fingerprint is not the `known`."""
    while not stopping.wait(every):
        fingerprint = source.fingerprint()
        if fingerprint != known():
            tell(_notice(account, source, fingerprint))


def _notice(account: str, source: CredentialSource, fingerprint: object) -> CredentialsChanged:
    credentials: Credentials | None = None
    try:
        credentials = source.read()
    except CredentialsError:
        credentials = None
    return CredentialsChanged(
        account=account,
        fingerprint=fingerprint,
        token_mark=hash(credentials.token) if credentials else None,
        token_expires_at=credentials.expires_at if credentials else None,
        organization=credentials.organization if credentials else None,
    )
