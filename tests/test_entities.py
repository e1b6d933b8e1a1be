"""The table of entities: what a user sees of each, and that a wrong row cannot be made."""

import dataclasses
import itertools

import pytest

from claude_usage_mqtt.homeassistant.entities import (
    ACCOUNT_ENTITIES,
    EVENT,
    EXTRA_USAGE_ENTITIES,
    HEALTH,
    WINDOW_ENTITIES,
    EntityDescription,
)
from claude_usage_mqtt.homeassistant.summary import SUMMARY_ENTITIES
from claude_usage_mqtt.topics import STATUSES

TABLES = (WINDOW_ENTITIES, EXTRA_USAGE_ENTITIES, ACCOUNT_ENTITIES, SUMMARY_ENTITIES)
ROWS = [row for table in TABLES for row in table]
GOOD = EntityDescription(key="x", platform="sensor", name="X", icon="mdi:gauge", value="x")


@pytest.mark.parametrize("table", TABLES)
def test_no_key_and_no_name_is_there_twice(table: tuple[EntityDescription, ...]) -> None:
    """Two entities with one key or name would replace each other, or look alike."""
    for attribute in ("key", "name"):
        values = [getattr(row, attribute) for row in table]
        assert len(values) == len(set(values))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_names_are_sentence_case_without_units(row: EntityDescription) -> None:
    """A name reads like Home Assistant's own: one capital, no unit, no `Claude` (the device says it)."""
    starts_a_name = row not in WINDOW_ENTITIES  # those follow the window's label
    assert row.name[0].isupper() == starts_a_name
    assert row.name[1:] == row.name[1:].lower()
    assert "claude" not in row.name.lower()
    assert "%" not in row.name


def test_what_is_shown_by_default_is_what_the_contract_says() -> None:
    """A fresh device shows what people look at; the derived numbers wait until somebody wants them."""
    hidden = {row.key for row in ROWS if not row.enabled}
    assert hidden == {"burn_rate", "elapsed", "pace", "time_remaining", "last_success", "next_poll"}


def test_diagnostics_are_apart_from_the_numbers() -> None:
    """Numbers, diagnostics and settings stand in cards of their own on the device page."""
    categories = {row.key: row.category for row in ACCOUNT_ENTITIES}
    assert {key for key, category in categories.items() if category == "config"} == {"poll_interval", "polling"}
    assert {key for key, category in categories.items() if category is None} == {"refresh"}
    assert not any(row.category for row in (*WINDOW_ENTITIES, *EXTRA_USAGE_ENTITIES))


def test_every_status_is_an_option() -> None:
    """No status that the service can have is refused by the enum."""
    (row,) = (row for row in ACCOUNT_ENTITIES if row.key == "status")
    assert row.options == STATUSES
    assert row.topic == HEALTH
    assert row.attribute == "detail"


@pytest.mark.parametrize(
    "change",
    [
        {"platform": "light"},
        {"icon": "gauge"},
        {"icon": None},
        {"device_class": "problem", "platform": "binary_sensor"},
        {"category": "config"},
        {"platform": "switch"},
        {"device_class": "timestamp", "unit": "h"},
        {"device_class": "timestamp", "state_class": "measurement"},
        {"device_class": "monetary", "state_class": "measurement"},
        {"device_class": "enum"},
        {"options": ("a",)},
        {"platform": "binary_sensor", "unit": "%"},
        {"platform": "binary_sensor", "precision": 1},
        {"value": None},
        {"platform": "event", "options": ("a",), "topic": EVENT},
        {"platform": "button"},
    ],
    ids=repr,
)
def test_a_row_that_home_assistant_would_drop_cannot_be_made(change: dict[str, object]) -> None:
    """A slip in the table fails at import, not silently in somebody's home."""
    with pytest.raises(ValueError, match="described wrongly"):
        dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]


def test_icons_differ_within_a_device() -> None:
    """On the device page the entities of a window differ by their icons."""
    for table in TABLES:
        for one, other in itertools.combinations([row for row in table if row.icon], 2):
            assert one.icon != other.icon, (one.key, other.key)
