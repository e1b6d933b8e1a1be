"""Device-discovery messages: a loop over the table of entities. Deterministic: no times, the same order always."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from claude_usage_mqtt import __version__
from claude_usage_mqtt.homeassistant.entity import (
    EVENT,
    EXPIRE_AFTER,
    EXPIRING,
    FRESH,
    HEALTH,
    MONEY,
    SERVICE,
    STATE,
    Entity,
)
from claude_usage_mqtt.homeassistant.inventory import Inventory, entities
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, Topics
from claude_usage_mqtt.untrusted import json_object

ORIGIN_NAME = "claude-usage-mqtt"
MANUFACTURER = "Anthropic"
PROJECT_URL = "https://github.com/claude-usage-mqtt/claude-usage-mqtt"
USAGE_PAGE = "https://claude.ai/settings/usage"
"""Where Claude itself shows the same numbers: Home Assistant's "visit device"."""

EVENTS_REMEMBERED = 8
NEW_EVENTS_ONLY = (
    "{% set id, ids = (value_json | default({})).get('id'), (this.attributes.get('earlier_ids') or []) | list %}"
    "{{ '' if not id or id in ids"
    f" else dict(value_json, earlier_ids=(ids + [id])[-{EVENTS_REMEMBERED}:]) | tojson }}}}"
)
"""The template that ignores an event that the entity already had: it may be delivered more than once. The entity itself
remembers the last ids, as an attribute, which Home Assistant restores."""

REMOVABLE = frozenset(
    {"sensor", "binary_sensor", "event", "button", "number", "switch", "select", "text", "update", "device_tracker"}
)


def discovery(
    topics: Topics, inventory: Inventory, *, label: str | None, entity_ids_of: str | None = None
) -> dict[str, Any]:
    """Return the discovery message of an account.

    `label` is what a person calls the account, None if it is the only one. The entity ids contain the name of the
    account `entity_ids_of`, by default of this one.
    """
    name = "Claude" if label is None else f"Claude {label[:1].upper()}{label[1:]}"
    return make_message(topics, name, make_components(topics, entities(inventory), entity_ids_of=entity_ids_of))


def make_message(topics: Topics, name: str, components: Mapping[str, Any]) -> dict[str, Any]:
    """Return a discovery message."""
    device = {
        "identifiers": [topics.device],
        "name": name,
        "manufacturer": MANUFACTURER,
        "model": "Claude subscription",
        "sw_version": __version__,
        "configuration_url": USAGE_PAGE,
    }
    origin = {"name": ORIGIN_NAME, "sw_version": __version__, "support_url": PROJECT_URL}
    return {"device": device, "origin": origin, "qos": 1, "components": components}


def make_components(
    topics: Topics, rows: Iterable[Entity], *, alive: str | None = None, entity_ids_of: str | None = None
) -> dict[str, Any]:
    """Return the components of entities by key; `alive` is the topic of `alive_until` if it is not the health topic."""
    components: dict[str, Any] = {}
    for row in rows:  # a model could be called "Time": the week's own entities come first, and win
        components.setdefault(row.key, _component(topics, row, alive or topics.health, entity_ids_of or topics.account))
    return components


def _component(topics: Topics, row: Entity, alive: str, entity_ids_of: str) -> dict[str, Any]:
    account = "" if entity_ids_of == DEFAULT_ACCOUNT else f"{entity_ids_of}_"
    place = {STATE: topics.state, HEALTH: topics.health, EVENT: topics.event(row.level or "")}[row.topic]
    options: dict[str, Any] = {
        "platform": row.platform,
        "unique_id": f"{topics.device}_{row.key}",
        "default_entity_id": f"{row.platform}.claude_{account}{row.suffix or row.key}",
        "name": row.name,
        "availability": _availability(topics, row.trust, alive),
        "availability_mode": "all",
        "state_topic": None if row.platform == "button" else place,
        "value_template": _value_template(row),
        "expire_after": EXPIRE_AFTER if row.platform in EXPIRING and row.trust != SERVICE else None,
        "icon": row.icon,
        "unit_of_measurement": row.unit,
        "device_class": row.device_class,
        "state_class": row.state_class,
        "suggested_display_precision": row.precision,
        "entity_category": row.category,
        "command_topic": None if row.command is None else topics.command(row.command),
        "enabled_by_default": None if row.enabled else False,
        "event_types" if row.platform == "event" else "options": list(row.options) or None,
    }
    # An emptied topic has no JSON: Home Assistant accepts the "else" value without a line in its log.
    if row.last_reset is not None:
        options["last_reset_value_template"] = f"{{{{ {row.last_reset} if value_json is defined }}}}"
    if row.attributes is not None:
        options["json_attributes_topic"] = place
        options["json_attributes_template"] = (
            f"{{{{ {row.attributes} | tojson if value_json is defined else '{{}}' }}}}"
        )
    return {option: value for option, value in (options | dict(row.extra)).items() if value is not None}


def _value_template(row: Entity) -> str | None:
    """Return the template of a value: for null it gives `None`, which Home Assistant shows as unknown, silently."""
    if row.platform == "event":
        return NEW_EVENTS_ONLY
    if row.value is None:
        return None
    value = f"({row.value})" if " " in row.value else row.value
    found = f"{value} if value_json is defined else none"
    if row.platform in ("binary_sensor", "switch"):
        return f"{{% set v = {found} %}}{{{{ 'None' if v is none else 'ON' if v else 'OFF' }}}}"
    return f"{{{{ {found} }}}}"


def _availability(topics: Topics, trust: str, alive: str) -> list[dict[str, str]]:
    conditions = [{"topic": topics.status}]
    if trust != SERVICE:
        # Version 1's health, which is retained while this version starts, has no `alive_until`.
        holds = "as_timestamp((value_json | default({})).get('alive_until'), 0) > as_timestamp(now())"
        holds += " and value_json.fresh" if trust == FRESH else ""
        conditions.append(_condition(alive, holds))
    if trust == MONEY:
        known = "((value_json | default({})).get('extra_usage') or {}).get('enabled') is not none"
        conditions.append(_condition(topics.state, known))
    return conditions


def _condition(topic: str, holds: str) -> dict[str, str]:
    return {"topic": topic, "value_template": f"{{{{ 'online' if {holds} else 'offline' }}}}"}


def announced_by(payload: bytes) -> str | None:
    """Return the status topic of the service that made a discovery message, None if this program did not make it."""
    document = json_object(payload)
    if not isinstance(document.get("components"), dict):
        return None
    found = document.get("origin")
    if not isinstance(found, dict) or found.get("name") != ORIGIN_NAME:
        return None
    for component in document["components"].values():
        conditions = component.get("availability") if isinstance(component, dict) else None
        for condition in conditions if isinstance(conditions, list) else ():
            if isinstance(condition, dict) and isinstance(condition.get("topic"), str):
                return str(condition["topic"])  # the first one is the service's own
    return None


def announced(payload: bytes) -> dict[str, str]:
    """Return keys and platforms of the entities in a discovery message, untrusted; empty if there are none."""
    components = json_object(payload).get("components")
    if not isinstance(components, dict):
        return {}
    return {
        key: component["platform"]
        for key, component in list(components.items())[:1000]
        if re.fullmatch(r"[a-z0-9_]{1,80}", key)
        and isinstance(component, dict)
        and isinstance(component.get("platform"), str)
        and component["platform"] in REMOVABLE
    }
