"""What is announced to Home Assistant for one account, and which entities have to be removed. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from claude_usage_mqtt import __version__
from claude_usage_mqtt.homeassistant.discovery import (
    announced,
    announced_by,
    discovery,
    extra_usage_components,
    window_components,
)
from claude_usage_mqtt.topics import Topics, encode
from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.window_state import STUB_KEPT

log = logging.getLogger(__name__)


class DiscoveryMessage:
    """The discovery message of an account; made anew only when what it is made of has changed."""

    def __init__(self, topics: Topics, label: str | None, shortest_interval: int) -> None:
        self._topics = topics
        self._label = label
        self._shortest_interval = shortest_interval
        self._stubs: dict[str, str] = {}
        self._basis: object = None
        self._payload = b""
        self.was_retained = False
        """Whether a message of ours stood on the broker."""
        self.stubs_until: datetime | None = None
        """When the order to remove what an earlier version announced may leave the message."""

    def restore(self, retained: bytes, usage: AccountUsage, now: datetime) -> None:
        """Compare with the message that was retained: what is not wanted any more is to be removed."""
        service = announced_by(retained)
        self.was_retained = service == self._topics.status
        if service not in (None, self._topics.status):
            log.warning(
                "%s was announced by a service with another base topic; this one takes it over.", self._topics.config
            )
        wanted = self._build(usage, {})["components"]
        self._stubs = {key: platform for key, platform in announced(retained).items() if key not in wanted}
        self.stubs_until = now + STUB_KEPT if self._stubs else None

    def forget_stubs(self) -> None:
        """Leave out what has been removed."""
        self._stubs, self.stubs_until = {}, None

    def payload(self, usage: AccountUsage) -> bytes:
        """Return the message."""
        stubs = self._stubs | window_components(key for key, track in usage.windows.items() if track.is_retired)
        if usage.money is not None and not usage.has_extra_usage:
            stubs |= extra_usage_components()
        basis = (_windows(usage), usage.currency, usage.has_extra_usage, stubs)
        if basis != self._basis:
            self._basis, self._payload = basis, encode(self._build(usage, stubs))
        return self._payload

    def _build(self, usage: AccountUsage, stubs: Mapping[str, str]) -> dict[str, Any]:
        return discovery(
            self._topics,
            label=self._label,
            version=__version__,
            windows=_windows(usage),
            currency=usage.currency,
            has_extra_usage=usage.has_extra_usage,
            leftovers=stubs,
            shortest_interval=self._shortest_interval,
        )


def _windows(usage: AccountUsage) -> dict[str, str]:
    return {key: track.label for key, track in usage.windows.items() if not track.is_retired}
