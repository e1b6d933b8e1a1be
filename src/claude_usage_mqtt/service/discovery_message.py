"""What is announced to Home Assistant for one account, and which entities it should remove. No I/O."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from claude_usage_mqtt.homeassistant.discovery import announced, announced_by, discovery
from claude_usage_mqtt.homeassistant.entities import EXTRA_USAGE, EXTRA_USAGE_ENABLED, LOGIN_EXPIRY, PLAN, POLLING
from claude_usage_mqtt.homeassistant.inventory import Inventory
from claude_usage_mqtt.service.options import AccountOptions
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, ONLINE, encode
from claude_usage_mqtt.untrusted import CURRENCY, json_object, matching
from claude_usage_mqtt.usage.absence import STUB_KEPT
from claude_usage_mqtt.usage.account import AccountUsage, Plan

log = logging.getLogger(__name__)

KEPT_FEATURES = frozenset({PLAN, LOGIN_EXPIRY})
"""Features that keep their entities once known: a login that cannot be read for a while still has a plan."""


AMOUNTS_OF_A_LIMIT = ("limit", "remaining", "utilization")


class DiscoveryMessage:
    """The discovery message of an account; made again only if its input has changed."""

    def __init__(self, options: AccountOptions) -> None:
        self._options = options
        self._features: frozenset[str] = frozenset()
        self._inventory: Inventory | None = None  # of the last message
        self._announced: dict[str, str] = {}  # entities and their platforms
        self._removed: dict[str, str] = {}  # likewise: the entities that the message removes
        self.removed_until: datetime | None = None
        """When the removal may be dropped from the message."""
        self.owner: str | None = None
        """The status topic of the service that owns the device, None if none does; a running one keeps its device."""
        self.entity_ids_of = options.topics.account
        """The account whose name the entity ids contain: a predecessor's, to continue its history."""
        self.first_currency: str | None = None
        """The currency of the entities whose keys name none; other currencies have their own entities."""
        self.payload = b""
        """The last message, at first the retained one."""

    def restore(self, retained: Mapping[str, bytes], memory: Mapping[str, Any]) -> None:
        """Continue from the retained message, and from what else an earlier run saved; both are untrusted."""
        topics = self._options.topics
        payload = retained.get(topics.config, b"")
        self.owner = announced_by(payload)
        if self.owner not in (None, topics.status):
            self._meet(self.owner, is_online=retained.get(self.owner) == ONLINE)
            if self.owner is not None:
                return
        self._mention_left_behind(memory.get("discovery_topic"))
        if memory.get("entity_ids_of") == DEFAULT_ACCOUNT:
            self.entity_ids_of = DEFAULT_ACCOUNT
        self.payload = payload
        self._announced = announced(payload)
        first_currency = memory.get("currency")
        currency = first_currency if isinstance(first_currency, str) else _unit(payload, "extra_usage_used")
        self.first_currency = matching(CURRENCY, currency)
        features = ((PLAN, "plan"), (LOGIN_EXPIRY, "login_expires_at"))
        self._features = frozenset(feature for feature, key in features if key in self._announced)

    def _meet(self, service: str, *, is_online: bool) -> None:
        """Take over the device of a former base topic, but not that of a service that is running."""
        base, topics = service.removesuffix("/status"), self._options.topics
        if is_online:
            log.warning(
                "The Home Assistant device %s belongs to the service under the base topic %s and is left to it: "
                "give this account another name in CLAUDE_ACCOUNTS.",
                topics.device,
                base,
            )
        else:
            self.owner = None
            log.warning(
                "%s was announced under the base topic %s; taking it over. To remove what was left there: "
                "MQTT_BASE_TOPIC=%s claude-usage-mqtt remove",
                topics.config,
                base,
                base,
            )

    def _mention_left_behind(self, former: object) -> None:
        topics = self._options.topics
        prefix = former.removesuffix(f"/device/{topics.device}/config") if isinstance(former, str) else None
        if prefix is not None and re.fullmatch(r"[A-Za-z0-9_/-]{1,100}", prefix) and prefix != topics.prefix:
            log.warning(
                "The discovery message under the prefix %s was left behind; to remove it: "
                "HOMEASSISTANT_PREFIX=%s claude-usage-mqtt remove",
                prefix,
                prefix,
            )

    def update(self, usage: AccountUsage, now: datetime, *, has_login_expiry: bool, reporters: Iterable[str]) -> bytes:
        """Return the message as of now."""
        inventory = self._inventory_of(usage, has_login_expiry=has_login_expiry, reporters=reporters)
        if inventory != self._inventory:
            self._inventory = inventory
            options = self._options
            message = discovery(options.topics, inventory, label=options.label, entity_ids_of=self.entity_ids_of)
            components = message["components"]
            if self._announced.keys() - components.keys():
                self.removed_until = now + STUB_KEPT
            former = self._removed | self._announced
            self._removed = {key: former[key] for key in sorted(former) if key not in components}
            self._announced = {key: component["platform"] for key, component in components.items()}
            components |= {key: {"platform": platform} for key, platform in self._removed.items()}
            self.payload = encode(message)
        return self.payload

    def forget_removed(self, now: datetime) -> None:
        """Drop the removal of entities once it has been in the message for long enough."""
        if self.removed_until is not None and now >= self.removed_until:
            self._removed, self.removed_until, self._inventory = {}, None, None

    def _inventory_of(self, usage: AccountUsage, *, has_login_expiry: bool, reporters: Iterable[str]) -> Inventory:
        has = {
            EXTRA_USAGE: usage.has_extra_usage,
            EXTRA_USAGE_ENABLED: usage.has_extra_usage and usage.money is not None and usage.money.enabled,
            PLAN: usage.plan != Plan(),
            LOGIN_EXPIRY: has_login_expiry,
            POLLING: self._options.is_polled,
        }
        features = frozenset(feature for feature, is_there in has.items() if is_there)
        self._features = (self._features | features) & KEPT_FEATURES
        self.first_currency = self.first_currency or usage.currency
        return Inventory(
            windows={key: window.label for key, window in usage.windows.items() if not window.is_retired},
            features=features | self._features,
            currency=usage.currency,
            first_currency=self.first_currency,
            reporters=tuple(reporters),
            shortest_interval=self._options.shortest_interval,
            without=frozenset(
                f"extra_usage_{field}" for field in AMOUNTS_OF_A_LIMIT if not self._has_amount(usage, field)
            ),
        )

    def _has_amount(self, usage: AccountUsage, field: str) -> bool:
        """Whether extra usage has this amount; if the last response lacked all of them, whether it had it before."""
        if usage.money is None or usage.money.money is None:
            return any(key.startswith(f"extra_usage_{field}") for key in self._announced)
        return getattr(usage.money.money, field) is not None


def _unit(payload: bytes, key: str) -> object:
    try:
        return json_object(payload)["components"][key]["unit_of_measurement"]
    except (LookupError, TypeError):
        return None
