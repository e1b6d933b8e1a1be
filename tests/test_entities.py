"""The table of entities: what a user sees of each, and that a wrong row cannot be made."""

import dataclasses
import itertools

import pytest

from claude_usage_mqtt.homeassistant.entities import (
    ACCOUNT_ENTITIES,
    EXTRA_USAGE_ENTITIES,
    PLAN,
    POLLING,
    REPORTER,
    WINDOW_ENTITIES,
    status_in_words,
)
from claude_usage_mqtt.homeassistant.entity import EVENT, HEALTH, SERVICE, Entity
from claude_usage_mqtt.homeassistant.inventory import Inventory, WindowName, entities
from claude_usage_mqtt.homeassistant.summary import SUMMARY_ENTITIES
from claude_usage_mqtt.topics import STATUSES

TABLES = (WINDOW_ENTITIES, EXTRA_USAGE_ENTITIES, ACCOUNT_ENTITIES, SUMMARY_ENTITIES)
ROWS = [row for table in TABLES for row in table]
GOOD = Entity(key="x", platform="sensor", name="X", icon="mdi:gauge", value="x")


@pytest.mark.parametrize("table", TABLES)
def test_no_key_and_no_name_is_there_twice(table: tuple[Entity, ...]) -> None:
    """Two entities with one key or name would replace each other, or look alike."""
    for attribute in ("key", "name"):
        values = [getattr(row, attribute) for row in table]
        assert len(values) == len(set(values))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_names_are_sentence_case_without_units(row: Entity) -> None:
    """A name reads like Home Assistant's own: one capital, no unit, no `Claude` (the device says it)."""
    starts_a_name = row not in WINDOW_ENTITIES  # those follow the window's label
    assert row.name[0].isupper() == starts_a_name
    assert row.name[1:] == row.name[1:].lower()
    assert "claude" not in row.name.lower()
    assert "%" not in row.name


def test_only_a_session_shows_when_its_limit_is_expected() -> None:
    """For a week it is unknown most of the time, and a row that is always unknown is noise."""
    windows = {"five_hour": WindowName(label="Session"), "seven_day": WindowName(label="Weekly")}
    shown = {row.key: row.enabled for row in entities(Inventory(windows=windows)) if row.key.endswith("limit_at")}
    assert shown == {"five_hour_limit_at": True, "seven_day_limit_at": False}


def test_a_pool_has_no_entities_that_would_always_be_unknown() -> None:
    """A pool of dollars has no length, so it has no pace and no projection."""
    pool = {"pool_cinder": WindowName(label="Cinder", has_duration=False)}
    keys = {row.key for row in entities(Inventory(windows=pool)) if row.key.startswith("pool_")}
    assert keys == {
        f"pool_cinder_{key}"
        for key in ("utilization", "resets_at", "limit_reached", "event", "remaining", "burn_rate", "time_remaining")
    }


def test_what_an_account_does_not_have_has_no_entities() -> None:
    """An unknown plan, a login that does not expire, and controls without effect have no row on the device page."""
    keys = {row.key for row in entities(Inventory(windows={}))}
    assert not keys & {"plan", "login_expires_at", "refresh", "poll_interval", "polling", "extra_usage_enabled"}
    more = {row.key for row in entities(Inventory(windows={}, features=frozenset({PLAN, POLLING})))}
    assert more - keys == {"plan", "refresh", "poll_interval", "polling"}


def test_each_reporter_has_a_row() -> None:
    """Each machine with a reporter is shown as connected or not."""
    rows = [row for row in entities(Inventory(windows={}, reporters=("laptop", "work_mac"))) if "reporter" in row.key]
    assert [row.key for row in rows] == ["reporter_laptop", "reporter_work_mac"]
    assert [row.name for row in rows] == ["Reporter laptop", "Reporter work_mac"]
    assert all("{" not in (row.value or "") for row in rows)
    assert REPORTER.device_class == "connectivity"


def test_every_status_is_an_option_in_words() -> None:
    """No status that the service can have is refused by the enum, and none is shown as a code."""
    (row,) = (row for row in ACCOUNT_ENTITIES if row.key == "status")
    assert row.options == tuple(map(status_in_words, STATUSES))
    assert {"OK", "Rate limited", "No reporter"} <= set(row.options)
    assert row.topic == HEALTH


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
        {"platform": "event", "options": ("a",), "topic": EVENT, "level": "account", "trust": SERVICE},
        {"platform": "button"},
        {"platform": "button", "value": None, "command": "refresh"},
        {"command": "refresh"},
        {"topic": EVENT, "platform": "event", "value": None, "trust": SERVICE, "options": ("a",)},
        {"last_reset": "x"},
    ],
    ids=repr,
)
def test_a_row_that_home_assistant_would_drop_cannot_be_made(change: dict[str, object]) -> None:
    """A slip in the table fails at import and names the rule, instead of failing silently in somebody's home."""
    with pytest.raises(ValueError, match=r"entity x: .{20,}"):
        dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]


def test_icons_differ_within_a_device() -> None:
    """On the device page the entities of a window differ by their icons."""
    for table in TABLES:
        for one, other in itertools.combinations([row for row in table if row.icon], 2):
            assert one.icon != other.icon, (one.key, other.key)
