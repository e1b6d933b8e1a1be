"""The device for all accounts together, if there is more than one."""

from __future__ import annotations

from typing import Any

from claude_usage_mqtt.homeassistant.discovery import make_components, make_message
from claude_usage_mqtt.homeassistant.entity import ALIVE, Entity
from claude_usage_mqtt.topics import Topics

SUMMARY = "all"
"""The id that means all accounts; no account may have it."""

SUMMARY_ENTITIES: tuple[Entity, ...] = (
    Entity(
        key="blocked",
        platform="binary_sensor",
        name="All accounts blocked",
        value="value_json.blocked",
        device_class="problem",
        attributes="{'accounts': value_json.blocked_accounts}",
        trust=ALIVE,
    ),
    Entity(
        key="blocked_until",
        platform="sensor",
        name="All accounts blocked until",
        icon="mdi:timer-lock-outline",
        value="value_json.blocked_until",
        device_class="timestamp",
        trust=ALIVE,
    ),
    Entity(
        key="highest_utilization",
        platform="sensor",
        name="Highest usage",
        icon="mdi:gauge-full",
        value="value_json.highest_utilization",
        unit="%",
        state_class="measurement",
        precision=0,
        suffix="highest_usage",
        trust=ALIVE,
    ),
    Entity(
        key="highest_account",
        platform="sensor",
        name="Highest usage account",
        icon="mdi:account-alert-outline",
        value="value_json.highest_account",
        suffix="highest_usage_account",
        trust=ALIVE,
    ),
    Entity(
        key="headroom_account",
        platform="sensor",
        name="Most headroom account",
        icon="mdi:account-check-outline",
        value="value_json.headroom_account",
        suffix="most_headroom_account",
        trust=ALIVE,
    ),
    Entity(
        key="next_reset",
        platform="sensor",
        name="Next reset",
        icon="mdi:timer-refresh-outline",
        value="value_json.next_reset",
        device_class="timestamp",
        trust=ALIVE,
    ),
    Entity(
        key="problems",
        platform="sensor",
        name="Accounts with problems",
        icon="mdi:alert-circle-outline",
        value="value_json.problems",
        precision=0,
        category="diagnostic",
        trust=ALIVE,
    ),
)
"""Values are keys of the summary's state document. What is not fresh is not in it."""


def summary_discovery(topics: Topics, version: str, alive: str) -> dict[str, Any]:
    """Return the discovery message of the device for all accounts; `alive` is the health topic of one of them."""
    return make_message(topics, "Claude accounts", version, make_components(topics, SUMMARY_ENTITIES, alive=alive))
