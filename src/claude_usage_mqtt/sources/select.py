"""From the names of the selected sources to the polled sources of an account, the preferred one first."""

from __future__ import annotations

from collections.abc import Iterable

from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.credentials.token import CredentialSource
from claude_usage_mqtt.sources.source import Source
from claude_usage_mqtt.usage.reading import OAUTH


def polled_sources(selected: Iterable[str], credentials: CredentialSource | None, api: UsageApi) -> tuple[Source, ...]:
    """Return what can be polled on this machine; nothing without a login, which is then another machine's."""
    if credentials is None:
        return ()
    return tuple(ApiSource(credentials, api) for name in selected if name == OAUTH)
