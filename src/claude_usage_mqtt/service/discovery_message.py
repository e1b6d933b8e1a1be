"""What is announced to Home Assistant for one account, and what of it is to be removed. No I/O."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from claude_usage_mqtt import __version__
from claude_usage_mqtt.homeassistant.discovery import announced, announced_by, discovery
from claude_usage_mqtt.homeassistant.entities import (
    EXTRA_USAGE,
    EXTRA_USAGE_ENABLED,
    LOGIN_EXPIRY,
    PLAN,
    POLLING,
)
from claude_usage_mqtt.homeassistant.inventory import Inventory, WindowName
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, ONLINE, Topics, encode
from claude_usage_mqtt.untrusted import CURRENCY, json_object, matching
from claude_usage_mqtt.usage.absence import STUB_KEPT
from claude_usage_mqtt.usage.account import AccountUsage, Plan

log = logging.getLogger(__name__)

KEPT_FEATURES = frozenset({PLAN, LOGIN_EXPIRY})
"""Once known, they keep their entities: a login that cannot be read for a while still has a plan."""


class DiscoveryMessage:
    """The discovery message of an account; made again only if what it is made of has changed.

    What it announced before and does not announce now is removed: for an hour it holds the order to do so.
    """

    def __init__(self, topics: Topics, label: str | None, shortest_interval: int) -> None:
        self._topics = topics
        self._label = label
        self._shortest_interval = shortest_interval
        self._announced: dict[str, str] = {}
        self._removed: dict[str, str] = {}
        self._features: frozenset[str] = frozenset()
        self._basis: object = None
        self.entity_ids_of = topics.account
        """The account whose name the entity ids bear: that of a predecessor, whose history they continue."""
        self.first_currency: str | None = None
        """The currency of the entities whose keys name none; another one has its own entities."""
        self.payload = b""
        """The message that was made last, at first the one that was retained."""
        self.is_foreign = False
        """Whether the device is another service's, which is there: then it is not announced."""
        self.was_retained = False
        """Whether a message of ours was retained."""
        self.stubs_until: datetime | None = None
        """When the order to remove entities may leave the message."""

    def restore(self, retained: Mapping[str, bytes], memory: Mapping[str, Any]) -> None:
        """Continue from the message that was retained, and from what else an earlier run saved; both are untrusted."""
        payload = retained.get(self._topics.config, b"")
        service = announced_by(payload)
        self.was_retained = service == self._topics.status
        if service not in (None, self._topics.status):
            self._meet(service, is_online=retained.get(service) == ONLINE)
            if self.is_foreign:
                return
        self._mention_left_behind(memory.get("discovery_topic"))
        if memory.get("entity_ids_of") == DEFAULT_ACCOUNT:
            self.entity_ids_of = DEFAULT_ACCOUNT
        self.payload = payload
        self._announced = announced(payload)
        first_currency = memory.get("currency")
        currency = first_currency if isinstance(first_currency, str) else _unit(payload, "extra_usage_used")
        self.first_currency = matching(CURRENCY, currency)
        self._features = frozenset(
            feature for feature, key in ((PLAN, "plan"), (LOGIN_EXPIRY, "login_expires_at")) if key in self._announced
        )

    def _meet(self, service: str, *, is_online: bool) -> None:
        """Take over the device of a former base topic, but not that of a service which is there."""
        base = service.removesuffix("/status")
        self.is_foreign = is_online
        if is_online:
            log.warning(
                "The Home Assistant device %s belongs to the service under the base topic %s and is left to it: "
                "give this account another name in CLAUDE_ACCOUNTS.",
                self._topics.device,
                base,
            )
        else:
            log.warning(
                "%s was announced under the base topic %s; taking it over. To remove what was left there: "
                "MQTT_BASE_TOPIC=%s claude-usage-mqtt remove",
                self._topics.config,
                base,
                base,
            )

    def _mention_left_behind(self, former: object) -> None:
        prefix = former.removesuffix(f"/device/{self._topics.device}/config") if isinstance(former, str) else None
        if prefix is not None and re.fullmatch(r"[A-Za-z0-9_/-]{1,100}", prefix) and prefix != self._topics.prefix:
            log.warning(
                "The discovery message under the prefix %s was left behind; to remove it: "
                "HOMEASSISTANT_PREFIX=%s claude-usage-mqtt remove",
                prefix,
                prefix,
            )

    def forget_stubs(self, now: datetime) -> None:
        """Leave out what was removed long enough ago."""
        if self.stubs_until is not None and now >= self.stubs_until:
            self._removed, self.stubs_until = {}, None

    def update(
        self, usage: AccountUsage, now: datetime, *, is_polled: bool, has_login_expiry: bool, reporters: Iterable[str]
    ) -> bytes:
        """Return the message as of now."""
        inventory = self._inventory(usage, is_polled=is_polled, has_login_expiry=has_login_expiry, reporters=reporters)
        basis = (inventory, tuple(self._removed))
        if basis == self._basis:
            return self.payload
        wanted = {key: each["platform"] for key, each in self._build(inventory, {})["components"].items()}
        gone = {key: platform for key, platform in self._announced.items() if key not in wanted}
        if gone:
            self.stubs_until = now + STUB_KEPT
        self._removed = {key: each for key, each in (self._removed | gone).items() if key not in wanted}
        self._announced = wanted
        self._basis = (inventory, tuple(self._removed))
        self.payload = encode(self._build(inventory, self._removed))
        return self.payload

    def _build(self, inventory: Inventory, removed: Mapping[str, str]) -> dict[str, Any]:
        return discovery(
            self._topics,
            inventory,
            label=self._label,
            version=__version__,
            removed=removed,
            entity_ids_of=self.entity_ids_of,
        )

    def _inventory(
        self, usage: AccountUsage, *, is_polled: bool, has_login_expiry: bool, reporters: Iterable[str]
    ) -> Inventory:
        has = {
            EXTRA_USAGE: usage.has_extra_usage,
            EXTRA_USAGE_ENABLED: usage.has_extra_usage and usage.money is not None and usage.money.enabled,
            PLAN: usage.plan != Plan(),
            LOGIN_EXPIRY: has_login_expiry,
            POLLING: is_polled,
        }
        features = frozenset(feature for feature, is_there in has.items() if is_there)
        self._features = (self._features | features) & KEPT_FEATURES
        self.first_currency = self.first_currency or usage.currency
        return Inventory(
            windows={
                key: WindowName(label=window.label, has_duration=window.duration is not None)
                for key, window in usage.windows.items()
                if not window.is_retired
            },
            features=features | self._features,
            currency=usage.currency,
            first_currency=self.first_currency,
            reporters=tuple(reporters),
            shortest_interval=self._shortest_interval,
        )


def _unit(payload: bytes, key: str) -> object:
    try:
        return json_object(payload)["components"][key]["unit_of_measurement"]
    except (LookupError, TypeError):
        return None
