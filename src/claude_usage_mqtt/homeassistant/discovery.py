"""Device-discovery messages, made from the table of entities. Deterministic: no times, the same order always."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from claude_usage_mqtt.homeassistant.entities import (
    ACCOUNT_ENTITIES,
    EVENT,
    EXTRA_USAGE_ENTITIES,
    HEALTH,
    STATE,
    WINDOW_ENTITIES,
    EntityDescription,
)
from claude_usage_mqtt.topics import NO_PROBLEM, Topics

ORIGIN_NAME = "claude-usage-mqtt"
PROJECT_URL = "https://pypi.org/project/claude-usage-mqtt/"
USAGE_PAGE = "https://claude.ai/settings/usage"
"""Where Claude itself shows the same numbers: Home Assistant's "visit device"."""

NO_MINOR_UNIT = frozenset({"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV"})
"""Currencies whose amounts have no decimals."""

REMOVABLE = frozenset(
    {"sensor", "binary_sensor", "event", "button", "number", "switch", "select", "text", "update", "device_tracker"}
)


def discovery(
    topics: Topics,
    *,
    label: str | None,
    version: str,
    windows: Mapping[str, str],
    currency: str | None,
    has_extra_usage: bool,
    leftovers: Mapping[str, str],
    shortest_interval: int = 180,
) -> dict[str, Any]:
    """Return the discovery message of an account.

    `label` is what a person calls the account, None where it is the only one. `windows` maps the keys of the
    windows that have entities to their labels, `leftovers` the keys of entities to take back to their platforms.
    `currency` is the unit of the money, `shortest_interval` the seconds that the poll interval may not go below.
    """
    components: dict[str, Any] = {}
    for window, name in windows.items():
        for row in WINDOW_ENTITIES:
            components[f"{window}_{row.key}"] = _window_component(topics, row, window, name)
    if has_extra_usage:
        for row in EXTRA_USAGE_ENTITIES:
            components[row.key] = _extra_usage_component(topics, row, currency)
    for row in ACCOUNT_ENTITIES:
        components[row.key] = make_component(topics, row, row.key, row.name, _account_template(row))
    components["poll_interval"]["min"] = shortest_interval
    for key, platform in sorted(leftovers.items()):
        components.setdefault(key, {"platform": platform})
    return {
        "device": device(topics.device, _device_name(label), version),
        "origin": origin(version),
        "qos": 1,
        "components": components,
    }


def device(identifier: str, name: str, version: str) -> dict[str, Any]:
    """Return the device's object."""
    return {
        "identifiers": [identifier],
        "name": name,
        "manufacturer": "Anthropic",
        "model": "Claude subscription",
        "sw_version": version,
        "configuration_url": USAGE_PAGE,
    }


def _device_name(label: str | None) -> str:
    return "Claude" if label is None else f"Claude {label[:1].upper()}{label[1:]}"


def origin(version: str) -> dict[str, Any]:
    """Return the origin's object: this program."""
    return {"name": ORIGIN_NAME, "sw_version": version, "support_url": PROJECT_URL}


def announced_by(payload: bytes) -> str | None:
    """Return the status topic of the service that made a discovery message, None where it was not this program."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("components"), dict):
        return None
    found = document.get("origin")
    if not isinstance(found, dict) or found.get("name") != ORIGIN_NAME:
        return None
    for component in document["components"].values():
        conditions = component.get("availability") if isinstance(component, dict) else None
        for condition in conditions if isinstance(conditions, list) else ():
            if isinstance(condition, dict) and isinstance(condition.get("topic"), str):
                return str(condition["topic"])  # the first one is the service's
    return None


def announced(payload: bytes) -> dict[str, str]:
    """Return keys and platforms of the entities in a discovery message, untrusted; empty where it is no such."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    components = document.get("components") if isinstance(document, dict) else None
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


def window_components(windows: Iterable[str]) -> dict[str, str]:
    """Return keys and platforms of the entities that windows have."""
    return {f"{window}_{row.key}": row.platform for window in windows for row in WINDOW_ENTITIES}


def extra_usage_components() -> dict[str, str]:
    """Return keys and platforms of the entities that extra usage has."""
    return {row.key: row.platform for row in EXTRA_USAGE_ENTITIES}


def _window_component(topics: Topics, row: EntityDescription, window: str, label: str) -> dict[str, Any]:
    short = {"five_hour": "session", "seven_day": "weekly"}.get(window, "weekly_" + window.removeprefix("seven_day_"))
    template = f"value_json.windows.{window}.{row.value}"
    component = make_component(topics, row, f"{window}_{row.key}", f"{label} {row.name}", _shown(row, template))
    component["default_entity_id"] = _entity_id(topics, row.platform, f"{short}_{row.suffix or row.key}")
    if row.topic == EVENT:
        component["state_topic"] = topics.event(window)
    return component


def _extra_usage_component(topics: Topics, row: EntityDescription, currency: str | None) -> dict[str, Any]:
    template = f"(value_json.extra_usage or {{}}).get('{row.value}')"
    component = make_component(topics, row, row.key, row.name, _shown(row, template))
    if row.device_class == "monetary" and currency is None:
        component.pop("device_class", None)  # an amount of nobody knows what is a plain number
    elif row.device_class == "monetary":
        component["unit_of_measurement"] = currency
        if currency in NO_MINOR_UNIT:
            component["suggested_display_precision"] = 0
    return component


def _account_template(row: EntityDescription) -> str | None:
    if row.value is None:
        return None
    path = f"value_json.{row.value}"
    if row.key == "problem":
        return f"{{{{ 'OFF' if {path} in {list(NO_PROBLEM)!r} else 'ON' }}}}"
    return _shown(row, path)


def _shown(row: EntityDescription, expression: str) -> str | None:
    """Return the template for an expression: `None` is what Home Assistant takes for "not known", silently."""
    if row.value is None:
        return None
    if row.platform in ("binary_sensor", "switch"):
        return f"{{% set v = {expression} %}}{{{{ 'None' if v is none else 'ON' if v else 'OFF' }}}}"
    return f"{{{{ {expression} }}}}"


def make_component(topics: Topics, row: EntityDescription, key: str, name: str, template: str | None) -> dict[str, Any]:
    """Return the component of one entity, as far as its row says it all."""
    component: dict[str, Any] = {
        "platform": row.platform,
        "unique_id": f"{topics.device}_{key}",
        "default_entity_id": _entity_id(topics, row.platform, row.suffix or key),
        "name": name,
    }
    if row.topic != EVENT:
        # An event has happened whatever became of the service since: were it unavailable at each restart of ours,
        # careless automations would fire when it is back.
        component["availability"] = _availability(topics, fresh=row.topic == STATE and row.category is None)
        component["availability_mode"] = "all"
    if row.platform != "button":
        component["state_topic"] = topics.health if row.topic == HEALTH else topics.state
    if template is not None:
        component["value_template"] = template
    if row.attribute is not None:
        component["json_attributes_topic"] = component["state_topic"]
        component["json_attributes_template"] = f"{{{{ {{'{row.attribute}': value_json.{row.attribute}}} | tojson }}}}"
    optional = {
        "icon": row.icon,
        "unit_of_measurement": row.unit,
        "device_class": row.device_class,
        "state_class": row.state_class,
        "suggested_display_precision": row.precision,
        "entity_category": row.category,
        "command_topic": None if row.command is None else topics.command(row.command),
    }
    component |= {option: value for option, value in optional.items() if value is not None}
    if row.options:
        component["event_types" if row.platform == "event" else "options"] = list(row.options)
    if not row.enabled:
        component["enabled_by_default"] = False
    return component | dict(row.extra)


def _entity_id(topics: Topics, platform: str, ending: str) -> str:
    account = "" if topics.account == "default" else f"{topics.account}_"
    return f"{platform}.claude_{account}{ending}"


def _availability(topics: Topics, *, fresh: bool) -> list[dict[str, str]]:
    conditions = [{"topic": topics.status}]
    if fresh:
        template = "{{ 'online' if value_json.fresh else 'offline' }}"
        conditions.append({"topic": topics.health, "value_template": template})
    return conditions
