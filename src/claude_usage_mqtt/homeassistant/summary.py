"""The device for all accounts together, where there is more than one."""

from __future__ import annotations

from typing import Any

from claude_usage_mqtt.homeassistant.discovery import device, make_component, origin
from claude_usage_mqtt.homeassistant.entities import EntityDescription
from claude_usage_mqtt.topics import Topics

SUMMARY = "all"
"""The id that stands for all accounts; no account may have it."""

SUMMARY_ENTITIES: tuple[EntityDescription, ...] = (
    EntityDescription(
        key="highest_utilization",
        platform="sensor",
        name="Highest usage",
        icon="mdi:gauge-full",
        value="highest_utilization",
        unit="%",
        state_class="measurement",
        precision=0,
        suffix="highest_usage",
    ),
    EntityDescription(
        key="highest_account",
        platform="sensor",
        name="Highest usage account",
        icon="mdi:account-alert-outline",
        value="highest_account",
        suffix="highest_usage_account",
    ),
    EntityDescription(
        key="headroom_account",
        platform="sensor",
        name="Most headroom account",
        icon="mdi:account-check-outline",
        value="headroom_account",
        suffix="most_headroom_account",
    ),
    EntityDescription(
        key="next_reset",
        platform="sensor",
        name="Next reset",
        icon="mdi:timer-refresh-outline",
        value="next_reset",
        device_class="timestamp",
    ),
    EntityDescription(
        key="problems",
        platform="sensor",
        name="Accounts with problems",
        icon="mdi:alert-circle-outline",
        value="problems",
        precision=0,
        category="diagnostic",
    ),
)
"""Values are keys of the summary's state document."""


def summary_discovery(topics: Topics, version: str) -> dict[str, Any]:
    """Return the discovery message of the device for all accounts."""
    components: dict[str, Any] = {}
    for row in SUMMARY_ENTITIES:
        component = make_component(topics, row, row.key, row.name, f"{{{{ value_json.{row.value} }}}}")
        # What is not fresh is not in the summary: it is there as long as the service is.
        component["availability"] = [{"topic": topics.status}]
        components[row.key] = component
    return {
        "device": device(topics.device, "Claude accounts", version),
        "origin": origin(version),
        "qos": 1,
        "components": components,
    }
