"""One row of the table of entities: everything that its component needs, checked when it is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

STATE, HEALTH, EVENT = "state", "health", "event"

SERVICE, ALIVE, FRESH, MONEY = "service", "alive", "fresh", "money"
"""What must be true for an entity to be available: the service is connected; and what is retained is not older than
`alive_until`; and the numbers of windows may be acted on, or the amounts of extra usage are known."""

EXPIRE_AFTER = 420
"""Seconds from a message until what it showed is unavailable. State and health are renewed every 300 seconds. Home
Assistant evaluates templates only when a message arrives: without this a power cut of broker and service would leave
the numbers there forever."""

EXPIRING = ("sensor", "binary_sensor")
"""The platforms that know `expire_after`."""

PLATFORMS = (*EXPIRING, "event", "button", "number", "switch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One entity.

    `value`, `attributes` and `last_reset` are Jinja expressions of `value_json`, the JSON of the entity's `topic`;
    `value` is None if it has no state to show. `trust` is what must hold for it to be available, `needs` a feature
    of the account without which it does not exist. `suffix` ends the default entity id if the key would not read
    well. `command` is the command topic of a control. `level` is the last level of an event's topic. Without an
    `icon` it has its device class's, which follows the state.
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

    def __post_init__(self) -> None:
        """Refuse what Home Assistant would drop or warn of. Source: measured against its schemas."""
        for is_kept, rule in self._rules():
            if not is_kept:
                raise ValueError(f"entity {self.key}: {rule}")

    def _rules(self) -> Iterator[tuple[bool, str]]:
        kind, is_control = self.platform, self.platform in ("number", "switch")
        is_plain = self.unit is None and self.state_class is None
        yield kind in PLATFORMS, f"the platform is one of {', '.join(PLATFORMS)}"
        yield (self.icon or "mdi:").startswith("mdi:"), "an icon starts with mdi:"
        has_own_icon = self.device_class in ("problem", "connectivity")
        yield (self.icon is None) == has_own_icon, "it has an icon, or a device class whose icon follows the state"
        yield (self.category == "config") == is_control, "the category config is for numbers and switches"
        is_word = self.device_class in ("timestamp", "enum")
        yield is_plain or not is_word, "a timestamp or enum has no unit and no state class"
        is_money = self.device_class == "monetary"
        yield not is_money or self.state_class in (None, "total"), "the state class of money is total"
        yield self.last_reset is None or self.state_class == "total", "a last reset needs the state class total"
        has_options = self.device_class == "enum" or kind == "event"
        yield bool(self.options) == has_options, "an enum and an event have options, and nothing else does"
        is_bare = is_plain and self.precision is None
        yield is_bare or kind != "binary_sensor", "a binary sensor has no unit, no state class and no precision"
        is_silent = kind in ("button", "event")
        yield (self.value is None) == is_silent, "everything has a value, except a button and an event"
        has_command = is_control or kind == "button"
        yield (self.command is not None) == has_command, "a control has a command, and nothing else does"
        has_level = self.topic == EVENT and self.level is not None
        yield has_level == (kind == "event"), "an event has the topic of events and its last level"
        yield self.trust == SERVICE or kind in EXPIRING, "what cannot expire is available while the service is"


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
    """Return a row for something that a person presses or sets: a button, a number or a switch."""
    return Entity(key=key, platform=platform, name=name, icon=icon, topic=HEALTH, trust=SERVICE, **more)


def event(key: str, name: str, icon: str, level: str, types: tuple[str, ...]) -> Entity:
    """Return a row for events; `level` is the last one of their topic."""
    return Entity(
        key=key, platform="event", name=name, icon=icon, topic=EVENT, level=level, options=types, trust=SERVICE
    )


def binary(key: str, name: str, value: str, **more: Any) -> Entity:
    """Return a row for something that is true or false."""
    return Entity(key=key, platform="binary_sensor", name=name, value=value, **more)
