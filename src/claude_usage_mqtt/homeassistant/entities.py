"""The one table of entities: a row an entity, checked when it is made, no branching elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from claude_usage_mqtt.topics import STATUSES
from claude_usage_mqtt.usage.events import EVENT_TYPES

STATE, HEALTH, EVENT = "state", "health", "event"

_PLATFORMS = ("sensor", "binary_sensor", "event", "button", "number", "switch")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityDescription:
    """One entity.

    `value` is a path into the JSON of its `topic`; None where there is no state to show. `suffix` ends its
    default entity id where the key would not read well. `command` is the command topic of a control. `attribute`
    is a key of the JSON that goes beside the state. Without an `icon` it has its device class's, which follows
    the state.
    """

    key: str
    platform: str
    name: str
    icon: str | None = None
    value: str | None = None
    topic: str = STATE
    suffix: str | None = None
    unit: str | None = None
    device_class: str | None = None
    state_class: str | None = None
    precision: int | None = None
    category: str | None = None
    enabled: bool = True
    options: tuple[str, ...] = ()
    command: str | None = None
    attribute: str | None = None
    extra: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what Home Assistant would drop or warn of. Source: measured against its schemas."""
        wrong = (
            self.platform not in _PLATFORMS
            or not (self.icon or "mdi:").startswith("mdi:")
            or (self.icon is None) != (self.device_class == "problem")
            or (self.category == "config") != (self.platform in ("number", "switch"))
            or (self.device_class in ("timestamp", "enum") and (self.unit is not None or self.state_class is not None))
            or (self.device_class == "monetary" and self.state_class not in (None, "total"))
            or (bool(self.options) != (self.device_class == "enum" or self.platform == "event"))
            or (self.platform == "binary_sensor" and (self.unit or self.state_class or self.precision is not None))
            or (self.value is None) != (self.platform in ("button", "event"))
        )
        if wrong:
            raise ValueError(f"entity {self.key} is described wrongly")


def _percent(key: str, name: str, icon: str, **more: Any) -> EntityDescription:
    return EntityDescription(
        key=key,
        platform="sensor",
        name=name,
        icon=icon,
        value=more.pop("value", key),
        unit=more.pop("unit", "%"),
        state_class="measurement",
        precision=more.pop("precision", 0),
        **more,
    )


def _timestamp(key: str, name: str, icon: str, **more: Any) -> EntityDescription:
    return EntityDescription(
        key=key, platform="sensor", name=name, icon=icon, value=key, device_class="timestamp", **more
    )


WINDOW_ENTITIES: tuple[EntityDescription, ...] = (
    _percent("utilization", "usage", "mdi:gauge", suffix="usage"),
    _timestamp("resets_at", "resets at", "mdi:timer-refresh-outline"),
    _percent("projected", "projected at reset", "mdi:chart-line"),
    _timestamp("limit_at", "limit expected", "mdi:timer-alert-outline"),
    EntityDescription(key="on_pace", platform="binary_sensor", name="on pace", icon="mdi:speedometer", value="on_pace"),
    EntityDescription(
        key="limit_reached",
        platform="binary_sensor",
        name="limit reached",
        value="limit_reached",
        device_class="problem",
    ),
    EntityDescription(
        key="event", platform="event", name="event", icon="mdi:bell-outline", topic=EVENT, options=EVENT_TYPES
    ),
    _percent("burn_rate", "burn rate", "mdi:fire", unit="%/h", precision=1, enabled=False),
    _percent("elapsed", "elapsed", "mdi:timelapse", enabled=False),
    _percent("pace", "pace", "mdi:speedometer-medium", precision=1, enabled=False),
    EntityDescription(
        key="time_remaining",
        platform="sensor",
        name="time remaining",
        icon="mdi:timer-sand",
        value="time_remaining_hours",
        unit="h",
        device_class="duration",
        precision=1,
        enabled=False,
    ),
)
"""For each window; names follow the window's label, values are keys of its object in the state document."""


def _money(key: str, name: str, icon: str, value: str) -> EntityDescription:
    # No state class: with one, Home Assistant would warn when the account's currency changes.
    return EntityDescription(
        key=key, platform="sensor", name=name, icon=icon, value=value, device_class="monetary", precision=2
    )


EXTRA_USAGE_ENTITIES: tuple[EntityDescription, ...] = (
    EntityDescription(
        key="extra_usage_enabled",
        platform="binary_sensor",
        name="Extra usage enabled",
        icon="mdi:credit-card-check-outline",
        value="enabled",
    ),
    _money("extra_usage_used", "Extra usage spent", "mdi:cash-minus", "used"),
    _money("extra_usage_limit", "Extra usage limit", "mdi:cash-lock", "limit"),
    _money("extra_usage_remaining", "Extra usage remaining", "mdi:cash-check", "remaining"),
    _percent("extra_usage_utilization", "Extra usage", "mdi:cash-clock", value="utilization"),
)
"""Where the API tells of extra usage; values are keys of `extra_usage` in the state document."""

ACCOUNT_ENTITIES: tuple[EntityDescription, ...] = (
    EntityDescription(
        key="plan",
        platform="sensor",
        name="Plan",
        icon="mdi:card-account-details-outline",
        value="plan",
        category="diagnostic",
    ),
    EntityDescription(
        key="status",
        platform="sensor",
        name="Status",
        icon="mdi:list-status",
        value="status",
        topic=HEALTH,
        device_class="enum",
        options=STATUSES,
        category="diagnostic",
        attribute="detail",
    ),
    EntityDescription(
        key="problem",
        platform="binary_sensor",
        name="Problem",
        value="status",
        topic=HEALTH,
        device_class="problem",
        category="diagnostic",
        attribute="detail",
    ),
    # These two are off by default: each writes a line per poll into the device's activity, until nothing else is there.
    _timestamp(
        "last_success", "Last success", "mdi:cloud-check-outline", topic=HEALTH, category="diagnostic", enabled=False
    ),
    _timestamp("next_poll", "Next poll", "mdi:cloud-clock-outline", topic=HEALTH, category="diagnostic", enabled=False),
    _timestamp("token_expires_at", "Token expires at", "mdi:key-alert-outline", topic=HEALTH, category="diagnostic"),
    EntityDescription(
        key="refresh", platform="button", name="Refresh", icon="mdi:refresh", topic=HEALTH, command="refresh"
    ),
    EntityDescription(
        key="poll_interval",
        platform="number",
        name="Poll interval",
        icon="mdi:timer-cog-outline",
        value="poll_interval",
        topic=HEALTH,
        unit="s",
        device_class="duration",
        category="config",
        command="interval",
        extra=(("min", 180), ("max", 3600), ("step", 1), ("mode", "box")),
    ),
    EntityDescription(
        key="polling",
        platform="switch",
        name="Polling",
        icon="mdi:cloud-sync-outline",
        value="polling",
        topic=HEALTH,
        category="config",
        command="polling",
    ),
)
"""For each account: diagnostics and controls."""
