"""The table of entities: what users see of each, and that no row is wrong."""

import itertools

import pytest

from claude_usage_mqtt.homeassistant.discovery import REMOVABLE
from claude_usage_mqtt.homeassistant.entities import (
    ACCOUNT_ENTITIES,
    EXTRA_USAGE,
    EXTRA_USAGE_ENABLED,
    EXTRA_USAGE_ENTITIES,
    LOGIN_EXPIRY,
    PLAN,
    POLLING,
    REPORTER,
    WINDOW_ENTITIES,
    status_in_words,
)
from claude_usage_mqtt.homeassistant.entity import EVENT, EXPIRING, HEALTH, SERVICE, Entity
from claude_usage_mqtt.homeassistant.inventory import Inventory, entities
from claude_usage_mqtt.homeassistant.summary import SUMMARY_ENTITIES
from claude_usage_mqtt.topics import STATUSES

TABLES = (WINDOW_ENTITIES, EXTRA_USAGE_ENTITIES, ACCOUNT_ENTITIES, SUMMARY_ENTITIES)
ROWS = [row for table in TABLES for row in table]


@pytest.mark.parametrize("table", TABLES)
def test_no_key_or_name_appears_twice(table: tuple[Entity, ...]) -> None:
    """Two entities with one key or name would replace each other, or look alike."""
    for attribute in ("key", "name"):
        values = [getattr(row, attribute) for row in table]
        assert len(values) == len(set(values))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_names_are_sentence_case_without_units(row: Entity) -> None:
    """A name reads like Home Assistant's own: one capital, no unit, no `Claude` (the device says it)."""
    starts_a_name = row not in WINDOW_ENTITIES  # these follow the window's label
    assert row.name[0].isupper() == starts_a_name
    assert row.name[1:] == row.name[1:].lower()
    assert "claude" not in row.name.lower()
    assert "%" not in row.name


def test_only_a_session_shows_when_its_limit_is_expected() -> None:
    """For a week it is unknown most of the time, and such a row is noise."""
    windows = {"five_hour": "Session", "seven_day": "Weekly"}
    shown = {row.key: row.enabled for row in entities(Inventory(windows=windows)) if row.key.endswith("limit_at")}
    assert shown == {"five_hour_limit_at": True, "seven_day_limit_at": False}


def test_a_pool_has_no_entities_that_would_always_be_unknown() -> None:
    """A pool of dollars has no length, so it has no pace and no projection."""
    pool = {"pool_cinder": "Cinder"}
    keys = {row.key for row in entities(Inventory(windows=pool)) if row.key.startswith("pool_")}
    assert keys == {
        f"pool_cinder_{key}"
        for key in ("utilization", "resets_at", "limit_reached", "event", "remaining", "burn_rate", "time_remaining")
    }


def test_an_account_has_no_entities_for_what_it_lacks() -> None:
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
    """The enum accepts every status that the service can have, and none is shown as a code."""
    (row,) = (row for row in ACCOUNT_ENTITIES if row.key == "status")
    assert row.options == tuple(map(status_in_words, STATUSES))
    assert {"OK", "Rate limited", "No reporter"} <= set(row.options)
    assert row.topic == HEALTH


def broken_rules(row: Entity) -> list[str]:
    """Return the rules of Home Assistant that a row breaks. Source: measured against its schemas."""
    kind, is_control = row.platform, row.platform in ("number", "switch")
    is_plain = row.unit is None and row.state_class is None
    rules = {
        "the platform is one that we can remove": kind in REMOVABLE,
        "an icon starts with mdi:": (row.icon or "mdi:").startswith("mdi:"),
        "it has an icon, or a device class whose icon follows the state": (row.icon is None)
        == (row.device_class in ("problem", "connectivity")),
        "the category config is for numbers and switches": (row.category == "config") == is_control,
        "a timestamp or enum has no unit and no state class": is_plain or row.device_class not in ("timestamp", "enum"),
        "the state class of money is total": row.device_class != "monetary" or row.state_class in (None, "total"),
        "a last reset needs the state class total": row.last_reset is None or row.state_class == "total",
        "an enum and an event have options": bool(row.options) == (row.device_class == "enum" or kind == "event"),
        "a binary sensor has no unit and no precision": kind != "binary_sensor" or (is_plain and row.precision is None),
        "everything has a value, except a button and an event": (row.value is None) == (kind in ("button", "event")),
        "a control has a command": (row.command is not None) == (is_control or kind == "button"),
        "an event has its topic": (row.topic == EVENT and row.level is not None) == (kind == "event"),
        "an entity that cannot expire is available while the service is": row.trust == SERVICE or kind in EXPIRING,
    }
    return [rule for rule, is_kept in rules.items() if not is_kept]


@pytest.mark.parametrize("currency", [None, "USD"])
def test_home_assistant_would_drop_no_row(currency: str | None) -> None:
    """A mistake in the table is found here, instead of failing silently in somebody's home."""
    features = frozenset({EXTRA_USAGE, EXTRA_USAGE_ENABLED, PLAN, LOGIN_EXPIRY, POLLING})
    windows = {"five_hour": "Session", "pool_cinder": "Cinder"}
    rows = entities(Inventory(windows, features, currency, first_currency="EUR", reporters=("laptop",)))
    for row in (*rows, *SUMMARY_ENTITIES):
        assert broken_rules(row) == [], row.key


def test_icons_differ_within_a_device() -> None:
    """On the device page the entities of a window have different icons."""
    for table in TABLES:
        for one, other in itertools.combinations([row for row in table if row.icon], 2):
            assert one.icon != other.icon, (one.key, other.key)
