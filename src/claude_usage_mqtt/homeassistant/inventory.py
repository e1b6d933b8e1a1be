"""Which entities an account has: the rows of the tables for its windows, money and machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from claude_usage_mqtt.homeassistant.entities import (
    ACCOUNT_ENTITIES,
    DURATION,
    EXTRA_USAGE_ENTITIES,
    REPORTER,
    WINDOW_ENTITIES,
)
from claude_usage_mqtt.homeassistant.entity import Entity
from claude_usage_mqtt.topics import SHORTEST_INTERVAL
from claude_usage_mqtt.usage.reading import FIVE_HOUR, MINOR_DIGITS, SEVEN_DAY, duration_of


class Inventory(NamedTuple):
    """What an account has, which decides which entities there are.

    `windows` maps the keys of windows to their labels. `currency` is the unit of the money, `first_currency` that of
    the entities whose keys name no currency. `shortest_interval` is the least poll interval in seconds. `without` are
    the keys of entities that would be unknown forever: those about the limit of extra usage without one.
    """

    windows: Mapping[str, str]
    features: frozenset[str] = frozenset()
    currency: str | None = None
    first_currency: str | None = None
    reporters: tuple[str, ...] = ()
    shortest_interval: int = SHORTEST_INTERVAL
    without: frozenset[str] = frozenset()


def entities(inventory: Inventory) -> Iterator[Entity]:
    """Yield the entities of an account."""
    for window, label in inventory.windows.items():
        has_duration = duration_of(window) is not None
        yield from (_of_window(row, window, label) for row in WINDOW_ENTITIES if has_duration or row.needs != DURATION)
    for row in (*EXTRA_USAGE_ENTITIES, *ACCOUNT_ENTITIES):
        if (row.needs is None or row.needs in inventory.features) and row.key not in inventory.without:
            yield _fitted(row, inventory)
    yield from map(_of_machine, inventory.reporters)


def _of_window(row: Entity, window: str, label: str) -> Entity:
    short = {FIVE_HOUR: "session", SEVEN_DAY: "weekly"}.get(window, window.replace("seven_day_", "weekly_", 1))
    return replace(
        row,
        key=f"{window}_{row.key}",
        name=f"{label} {row.name}",
        suffix=f"{short}_{row.suffix or row.key}",
        value=row.value and row.value.replace("{window}", f"value_json.windows.{window}"),
        level=row.level and window,
        enabled=row.enabled and (row.key != "limit_at" or window == FIVE_HOUR),
    )


def _of_machine(machine: str) -> Entity:
    return replace(
        REPORTER,
        key=REPORTER.key.replace("{machine}", machine),
        name=REPORTER.name.replace("{machine}", machine),
        value=REPORTER.value and REPORTER.value.replace("{machine}", machine),
    )


def _fitted(row: Entity, inventory: Inventory) -> Entity:
    if row.key == "poll_interval":
        return replace(row, extra=(("min", inventory.shortest_interval), *row.extra[1:]))
    if row.device_class != "monetary":
        return row
    currency, first = inventory.currency, inventory.first_currency
    if currency is None:  # an amount of an unknown unit is a plain number, and statistics would mix units
        return replace(row, device_class=None, state_class=None, last_reset=None)
    key = row.key if currency == (first or currency) else f"{row.key}_{currency.lower()}"
    return replace(row, key=key, unit=currency, precision=MINOR_DIGITS.get(currency, 2))
