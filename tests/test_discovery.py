"""The discovery message: what is announced to Home Assistant for an account."""

import json
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.homeassistant.discovery import announced, discovery
from claude_usage_mqtt.homeassistant.entities import (
    ACCOUNT_ENTITIES,
    EXTRA_USAGE,
    EXTRA_USAGE_ENABLED,
    EXTRA_USAGE_ENTITIES,
    LOGIN_EXPIRY,
    PLAN,
    POLLING,
    WINDOW_ENTITIES,
)
from claude_usage_mqtt.homeassistant.inventory import Inventory
from claude_usage_mqtt.homeassistant.summary import SUMMARY, summary_discovery
from claude_usage_mqtt.service.summary import is_problem
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.topics import Topics, encode
from parts.documents import sample_usage
from parts.simulation import make_state
from parts.templates import template

TOPICS = Topics(base="claude-usage", account="default")
WORK = Topics(base="claude-usage", account="work")
WINDOWS = {"five_hour": "Session", "seven_day": "Weekly", "seven_day_opus": "Weekly Opus"}
EVERYTHING = frozenset({EXTRA_USAGE, EXTRA_USAGE_ENABLED, PLAN, LOGIN_EXPIRY, POLLING})
STATUS = {"topic": "claude-usage/status"}


def message(topics: Topics = TOPICS, *, label: str | None = None, **changes: Any) -> dict[str, Any]:
    """Make a message of an account that has everything, with changes to its inventory."""
    arguments = {"windows": WINDOWS, "features": EVERYTHING, "currency": "EUR", "reporters": ("laptop",)}
    return discovery(topics, Inventory(**arguments | changes), label=label)


def components(topics: Topics = TOPICS, **changes: Any) -> dict[str, Any]:
    """Make a message and return its components."""
    return dict(message(topics, **changes)["components"])


def test_every_key_of_the_contract_is_there_and_no_other() -> None:
    """Every row of the reference's table, which a test compares, is announced as documented."""
    wanted = {f"{window}_{row.key}": row.platform for window in WINDOWS for row in WINDOW_ENTITIES}
    wanted |= {row.key: row.platform for row in (*ACCOUNT_ENTITIES, *EXTRA_USAGE_ENTITIES)}
    assert {key: each["platform"] for key, each in components().items()} == wanted | {
        "reporter_laptop": "binary_sensor"
    }


def test_unique_ids_are_made_only_of_account_and_key() -> None:
    """A changed label or name never turns one entity into two."""
    for topics, label in ((TOPICS, None), (WORK, "Work"), (WORK, "The office")):
        for key, each in components(topics, label=label).items():
            assert each["unique_id"] == f"claude_usage_{topics.account}_{key}"


def test_entity_ids_read_well_and_stay_when_a_label_changes() -> None:
    """They have session and week, the account if there are several, and never the label."""
    found = components()
    assert found["five_hour_utilization"]["default_entity_id"] == "sensor.claude_session_usage"
    assert found["seven_day_opus_resets_at"]["default_entity_id"] == "sensor.claude_weekly_opus_resets_at"
    assert found["five_hour_event"]["default_entity_id"] == "event.claude_session_event"
    assert found["refresh"]["default_entity_id"] == "button.claude_refresh"
    work = components(WORK, label="The office")
    assert work["seven_day_resets_at"]["default_entity_id"] == "sensor.claude_work_weekly_resets_at"
    for each in (*found.values(), *work.values()):
        assert re.fullmatch(each["platform"] + r"\.claude_[a-z0-9_]+", each["default_entity_id"])
    ids = [each["default_entity_id"] for each in found.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("label", "name"), [(None, "Claude"), ("work", "Claude Work"), ("My Team!", "Claude My Team!"), ("iX", "Claude IX")]
)
def test_the_device_is_named_after_the_account(label: str | None, name: str) -> None:
    """One account is simply Claude; several have different names."""
    assert message(WORK, label=label)["device"]["name"] == name


def test_what_home_assistant_requires_is_there() -> None:
    """Without identifiers or origin, or with an unknown key, it would drop the whole device."""
    made = message()
    assert set(made) == {"device", "origin", "qos", "components"}
    assert made["device"]["identifiers"] == ["claude_usage_default"]
    assert made["origin"]["name"] == "claude-usage-mqtt"
    assert set(made["device"]) <= {"identifiers", "name", "manufacturer", "model", "sw_version", "configuration_url"}
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", TOPICS.config)


def condition(topic: str, holds: str) -> dict[str, str]:
    """Return a condition of an entity's availability."""
    return {"topic": topic, "value_template": f"{{{{ 'online' if {holds} else 'offline' }}}}"}


def test_availability_depends_on_what_is_still_valid() -> None:
    """Stale numbers are unavailable, diagnostics and resets stay, controls and events need the service only.

    Amounts have their own age: an account may have nothing else.
    """
    alive = "as_timestamp((value_json | default({})).get('alive_until'), 0) > as_timestamp(now())"
    controls = {"refresh", "poll_interval", "polling"}
    lasting = {"status", "problem", "last_success", "next_poll", "token_expires_at", "login_expires_at", "plan"}
    lasting |= {"reporter_laptop", *(f"{window}_resets_at" for window in WINDOWS)}
    for key, each in components().items():
        wanted = [STATUS]
        if key not in controls and each["platform"] != "event":
            holds = alive if key in lasting else f"{alive} and value_json.fresh"
            is_money = key.startswith("extra_usage_")
            wanted.append(condition(TOPICS.health, alive if is_money else holds))
            if is_money:
                known = "((value_json | default({})).get('extra_usage') or {}).get('enabled') is not none"
                wanted.append(condition(TOPICS.state, known))
        assert each["availability"] == wanted, key
        assert each["availability_mode"] == "all"
        assert each.get("expire_after") == (420 if len(wanted) > 1 else None), key


def test_an_event_entity_remembers_its_events() -> None:
    """Home Assistant ignores an event that is delivered again: in its log, its history, every automation."""
    for key in ("five_hour_event", "account_event"):
        render, ids = template(components()[key]["value_template"]), list("abcdefgh")
        this = SimpleNamespace(attributes={"earlier_ids": ids})
        assert render(value_json={"id": "a"}, this=this) == ""
        assert json.loads(render(value_json={"id": "i"}, this=this)) == {"id": "i", "earlier_ids": [*ids[1:], "i"]}


def test_an_emptied_topic_is_not_parsed() -> None:
    """The topics that `remove` empties leave no line in Home Assistant's log, whichever comes first."""
    for key, each in components().items():
        for option in ("value_template", "json_attributes_template", "last_reset_value_template"):
            if option in each:
                assert re.search(r"value_json (is defined|\| default\()", each[option]), key


def test_the_same_input_gives_the_same_message() -> None:
    """Home Assistant has nothing to do if nothing has changed, and the message contains no time."""
    assert json.dumps(message()) == json.dumps(message())
    assert not re.search(r"20\d\d-|[0-9]{9}", json.dumps(message()))


def test_money_has_its_currency_and_statistics_that_start_over() -> None:
    """The amount spent has statistics and its currency's decimals; without a currency it has no statistics."""
    for currency, precision in (("EUR", 2), ("USD", 2), ("JPY", 0), ("KWD", 3)):
        money = components(currency=currency)["extra_usage_used"]
        assert (money["device_class"], money["unit_of_measurement"]) == ("monetary", currency)
        assert money["suggested_display_precision"] == precision
        assert money["state_class"] == "total"
        assert "period_start" in money["last_reset_value_template"]
    unknown = components(currency=None)["extra_usage_used"]
    assert not {"device_class", "unit_of_measurement", "state_class", "last_reset_value_template"} & set(unknown)
    assert components(currency=None)["extra_usage_utilization"]["unit_of_measurement"] == "%"


def test_another_currency_has_its_own_entities() -> None:
    """Statistics in two units cannot be added up; the first currency keeps its ids."""
    found = components(currency="USD", first_currency="EUR")
    assert "extra_usage_used" not in found
    assert found["extra_usage_used_usd"]["unit_of_measurement"] == "USD"
    assert found["extra_usage_used_usd"]["default_entity_id"] == "sensor.claude_extra_usage_used_usd"
    assert "extra_usage_utilization" in found
    assert "extra_usage_used" in components(currency="EUR", first_currency="EUR")


def test_money_has_entities_only_while_extra_usage_is_enabled() -> None:
    """Without extra usage there are no entities that are always unknown."""
    without = EVERYTHING - {EXTRA_USAGE, EXTRA_USAGE_ENABLED}
    assert not any(key.startswith("extra_usage") for key in components(features=without))
    off = {key for key in components(features=without | {EXTRA_USAGE}) if key.startswith("extra_usage")}
    assert off == {"extra_usage_enabled", "extra_usage_active"}


def test_what_is_removed_is_a_platform_and_nothing_else() -> None:
    """Home Assistant removes an entity only this way; one that is wanted is never removed.

    The removal stays for an hour, even if the clock is set in between.
    """
    before = message()
    before["components"]["seven_day_sonnet_event"] = {"platform": "event", "unique_id": "x"}
    state = make_state()
    state.discovery.restore({TOPICS.config: encode(before)}, {})
    now = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    payload = state.discovery.update(state.usage, now, has_login_expiry=True, reporters=("laptop",))
    found = json.loads(payload)["components"]
    assert found["seven_day_sonnet_event"] == {"platform": "event"}
    assert found["status"]["unique_id"]
    assert announced(payload).keys() == components().keys() | {"seven_day_sonnet_event"}
    step = timedelta(hours=-3)
    state.clock_stepped(step, now + step)
    for minutes, is_there in ((59, True), (60, False)):
        at = now + step + timedelta(minutes=minutes)
        state.tick(at)
        payload = state.discovery.update(state.usage, at, has_login_expiry=True, reporters=("laptop",))
        assert ("seven_day_sonnet_event" in announced(payload)) is is_there


def test_controls_know_where_to_send_and_what_is_allowed() -> None:
    """The poll interval cannot be set to what the service would refuse."""
    found = components()
    assert found["refresh"]["command_topic"] == "claude-usage/default/command/refresh"
    assert found["polling"]["command_topic"] == "claude-usage/default/command/polling"
    interval = found["poll_interval"]
    assert interval["command_topic"] == "claude-usage/default/command/interval"
    assert (interval["min"], interval["max"], interval["unit_of_measurement"]) == (180, 3600, "s")
    assert components(shortest_interval=1)["poll_interval"]["min"] == 1


def test_status_says_what_is_wrong_and_what_to_do() -> None:
    """The sentence of `detail` is an attribute of the status and of the problem."""
    for key in ("status", "problem"):
        each = components()[key]
        assert each["json_attributes_topic"] == "claude-usage/default/health"
        assert "value_json.detail" in each["json_attributes_template"]


@pytest.mark.parametrize(
    ("status", "failures", "hours", "machines", "shown"),
    [
        ("ok", 0, 0, (), "OFF"),
        ("token_expired", 1, 0, (), "ON"),
        ("server_error", 2, 0, (), "OFF"),
        ("server_error", 3, 0, (), "ON"),
        ("no_reporter", 1, 1, ("offline",), "OFF"),
        ("no_reporter", 1, 1, ("token_expired", "away"), "OFF"),
        ("no_reporter", 1, 1, ("token_expired", "no_credentials"), "ON"),
        ("no_reporter", 1, 1, (), "OFF"),
        ("no_reporter", 1, 25, ("offline",), "ON"),
    ],
)
def test_a_problem_needs_a_person_or_lasts(
    status: str, failures: int, hours: int, machines: tuple[str, ...], shown: str
) -> None:
    """One failure or a sleeping laptop is not a problem; a login that has ended is one at once."""
    now = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    last_success = now - timedelta(hours=hours)
    health = {
        "status": status,
        "consecutive_failures": failures,
        "last_success": last_success.isoformat(),
        "reporters": [{"machine": name, "status": each} for name, each in zip("abc", machines, strict=False)],
    }
    rendered = template(components()["problem"]["value_template"], lambda: now)(value_json=health)
    assert rendered == shown
    assert is_problem(status, failures, last_success, list(machines), now) is (shown == "ON")


@given(label=st.text(min_size=1), window=st.text(min_size=1))
def test_a_hostile_label_cannot_become_a_template(label: str, window: str) -> None:
    """Whatever the API or a person calls something, Home Assistant does not evaluate the name."""
    plain = message(WORK, label="Work")
    hostile = message(WORK, label=label, windows=WINDOWS | {"five_hour": window})
    assert hostile["components"]["five_hour_utilization"]["name"] == f"{window} usage"
    for made in (plain, hostile):
        made["device"].pop("name")
        for each in made["components"].values():
            each.pop("name")
    assert hostile == plain


def test_what_was_announced_can_be_read_back() -> None:
    """After a restart the service knows what to remove."""
    assert announced(json.dumps(message()).encode()) == {key: each["platform"] for key, each in components().items()}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[" * 100_000,
        b'{"components": []}',
        b'{"components": {"a b": {"platform": "sensor"}}}',
        b'{"components": {"a/b": {"platform": "sensor"}}}',
        b'{"components": {"a": {"platform": "device_automation"}}}',
        b'{"components": {"a": {"platform": ["sensor"]}}}',
        b'{"components": {"a": "sensor"}}',
    ],
    ids=lambda payload: repr(payload[:40]),
)
def test_a_message_that_is_not_ours_removes_nothing(payload: bytes) -> None:
    """A stranger's message under our topic neither crashes the service nor removes anything."""
    assert announced(payload) == {}


def test_the_device_of_all_accounts_is_independent() -> None:
    """It is available as long as the service is, and and no account shares its ids."""
    made = summary_discovery(Topics(base="claude-usage", account=SUMMARY), WORK.health)
    assert made["device"]["name"] == "Claude accounts"
    for key, each in made["components"].items():
        assert each["unique_id"] == f"claude_usage_all_{key}"
        assert each["default_entity_id"].startswith(f"{each['platform']}.claude_all_")
        service, alive = each["availability"]
        assert service == STATUS
        assert alive["topic"] == "claude-usage/work/health"
        assert each["expire_after"] == 420


def test_no_model_name_replaces_an_entity_of_the_week() -> None:
    """Whatever a model is called, its entities do not replace those of the week."""
    words = {word for row in WINDOW_ENTITIES for word in row.key.split("_")}
    plain = components()
    for name in sorted(words | {f"{one} {other}" for one in words for other in words}):
        usage = parse_usage(sample_usage(scoped={name: 5}), datetime.now(UTC))
        found = components(windows={window.key: window.label for window in usage})
        for row in WINDOW_ENTITIES:
            assert found[f"seven_day_{row.key}"] == plain[f"seven_day_{row.key}"], name
