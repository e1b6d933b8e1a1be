"""The device for all accounts together, if there is more than one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from claude_usage_mqtt.homeassistant.discovery import make_components, make_message
from claude_usage_mqtt.homeassistant.entity import ALIVE, Entity, binary, percent, sensor, timestamp
from claude_usage_mqtt.topics import Topics

SUMMARY = "all"
"""The id of all accounts together; no account may have it."""

SUMMARY_ENTITIES: tuple[Entity, ...] = tuple(
    replace(row, trust=ALIVE)
    for row in (
        binary(
            "blocked",
            "All accounts blocked",
            "value_json.blocked",
            device_class="problem",
            attributes="{'accounts': value_json.blocked_accounts}",
        ),
        timestamp("blocked_until", "All accounts blocked until", "mdi:timer-lock-outline", "value_json.blocked_until"),
        percent(
            "highest_utilization",
            "Highest usage",
            "mdi:gauge-full",
            "value_json.highest_utilization",
            suffix="highest_usage",
        ),
        sensor(
            "highest_account",
            "Highest usage account",
            "mdi:account-alert-outline",
            "value_json.highest_account",
            suffix="highest_usage_account",
        ),
        sensor(
            "headroom_account",
            "Most headroom account",
            "mdi:account-check-outline",
            "value_json.headroom_account",
            suffix="most_headroom_account",
        ),
        timestamp("next_reset", "Next reset", "mdi:timer-refresh-outline", "value_json.next_reset"),
        sensor(
            "problems",
            "Accounts with problems",
            "mdi:alert-circle-outline",
            "value_json.problems",
            precision=0,
            category="diagnostic",
        ),
    )
)
"""Values are keys of the summary's state document, which has no old numbers."""


def summary_discovery(topics: Topics, alive: str) -> dict[str, Any]:
    """Return the discovery message of the device for all accounts; `alive` is the health topic of one of them."""
    return make_message(topics, "Claude accounts", make_components(topics, SUMMARY_ENTITIES, alive=alive))
