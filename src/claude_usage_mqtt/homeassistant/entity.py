"""One row of the table of entities: everything that its component needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STATE, HEALTH, EVENT = "state", "health", "event"

SERVICE, ALIVE, FRESH, MONEY = "service", "alive", "fresh", "money"
"""What must be true for an entity to be available: the service is connected; it is not later than `alive_until`; and
the numbers of windows may be acted on, or the amounts of extra usage are known."""

EXPIRE_AFTER = 420
"""Seconds after a message until its values are unavailable. State and health are renewed every 300 seconds. Home
Assistant evaluates templates only when a message arrives: without this the numbers would stay forever after a power cut
of broker and service."""

EXPIRING = ("sensor", "binary_sensor")
"""The platforms that support `expire_after`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One entity.

    `value`, `attributes` and `last_reset` are Jinja expressions of `value_json`, the JSON of the entity's `topic`;
    `value` is None if it has no state to show. `trust` is what must hold for it to be available, `needs` a feature
    of the account without which it does not exist. `suffix` ends the default entity id if the key does not read well.
    `command` is the command topic of a control. `level` is the last level of an event's topic. Without an `icon` it has
    that of its device class, which follows the state.
    """

    key: str
    platform: str
    name: str
    icon: str | None = None
    topic: str = STATE
    value: str | None = None
    attributes: str | None = None
    last_reset: str | None = None
    trust: str = FRESH
    needs: str | None = None
    suffix: str | None = None
    unit: str | None = None
    device_class: str | None = None
    state_class: str | None = None
    precision: int | None = None
    category: str | None = None
    enabled: bool = True
    options: tuple[str, ...] = ()
    command: str | None = None
    level: str | None = None
    extra: tuple[tuple[str, Any], ...] = ()


def sensor(key: str, name: str, icon: str, value: str, **more: Any) -> Entity:
    """Return a row for any value."""
    return Entity(key=key, platform="sensor", name=name, icon=icon, value=value, **more)


def percent(key: str, name: str, icon: str, value: str, **more: Any) -> Entity:
    """Return a row for a percentage, or another measurement."""
    options: dict[str, Any] = {"unit": "%", "precision": 0} | more
    return sensor(key, name, icon, value, state_class="measurement", **options)


def timestamp(key: str, name: str, icon: str, value: str, **more: Any) -> Entity:
    """Return a row for an instant."""
    return sensor(key, name, icon, value, device_class="timestamp", **more)


def control(key: str, platform: str, name: str, icon: str, **more: Any) -> Entity:
    """Return a row for a control that a person presses or sets: a button, a number or a switch."""
    return Entity(key=key, platform=platform, name=name, icon=icon, topic=HEALTH, trust=SERVICE, **more)


def event(key: str, name: str, icon: str, level: str, types: tuple[str, ...]) -> Entity:
    """Return a row for events; `level` is the last one of their topic."""
    return Entity(
        key=key, platform="event", name=name, icon=icon, topic=EVENT, level=level, options=types, trust=SERVICE
    )


def binary(key: str, name: str, value: str, **more: Any) -> Entity:
    """Return a row for something that is true or false."""
    return Entity(key=key, platform="binary_sensor", name=name, value=value, **more)
