"""Whatever anybody sends: only our own errors come out, within bounds, and nothing of it has an effect."""

import datetime as dt
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.errors import CredentialsError, InvalidResponse
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.commands import obey
from claude_usage_mqtt.service.documents import documents
from claude_usage_mqtt.service.former_devices import former_accounts
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.sources.credentials.token import parse_credentials
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.sources.status_line import parse_statusline
from claude_usage_mqtt.usage.reading import OAUTH, STATUSLINE
from parts.documents import make_limit, sample_usage
from parts.hostile import INJECTIONS, spoiled, values
from parts.simulation import TOPICS, make_state, poll

NOW = dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)


def publish(state: AccountState, now: dt.datetime) -> dict[str, Any]:
    """Return what the account would publish, as a reader gets it, after a check that it is strict JSON."""
    found = {topic: json.loads(payload, parse_constant=pytest.fail) for topic, payload in documents(state, now)}
    assert sum(len(json.dumps(document)) for document in found.values()) < 1_000_000
    return found


CREDENTIALS = {
    "claudeAiOauth": {
        "accessToken": "sk-ant-oat01-x",
        "expiresAt": 1795190400000,
        "scopes": ["user:profile"],
        "subscriptionType": "max",
    },
    "organizationUuid": "6a3c1f0e",
}


@given(spoiled(CREDENTIALS).map(json.dumps) | st.text(max_size=300) | values.map(json.dumps))
def test_no_credentials_file_breaks_it(text: str) -> None:
    """Any file is credentials or one of our errors, which quotes nothing of it."""
    try:
        found = parse_credentials(text, "the file")
    except CredentialsError as error:
        sentence = str(error)
        assert sentence.isascii()
        assert len(sentence) < 300
    else:
        assert re.fullmatch(r"[!-~]+", found.token)
        assert found.token not in repr(found) or len(found.token) < 3
        assert found.login.organization is None or re.fullmatch("[0-9a-f]{16}", found.login.organization)


@given(
    spoiled(sample_usage(scoped={"Fable": 3}, extra_usage={"is_enabled": True, "monthly_limit": 5, "currency": "EUR"}))
    | values
)
def test_no_answer_breaks_what_is_published(answer: Any) -> None:
    """Any JSON is a usage or our error; what is published is strict JSON within bounds, without templates."""
    state = make_state(sources=(OAUTH, STATUSLINE))
    try:
        poll(state, NOW, reading=parse_usage(answer, NOW))
    except InvalidResponse:
        return
    assert_harmless(publish(state, NOW))


@pytest.mark.parametrize("text", INJECTIONS)
def test_names_of_the_api_cannot_be_templates_or_topics(text: str) -> None:
    """A model's name appears only as a name: templates, topic levels and entity ids contain at most its slug."""
    answer = sample_usage(now=NOW, limits=[make_limit("weekly_scoped", 5, None, model="M " + text)], **{text: 1})
    money = {"is_enabled": True, "monthly_limit": 5, "used_credits": 1, "currency": text, "decimal_places": 2}
    state = make_state(sources=(OAUTH, STATUSLINE))
    usage = parse_usage(answer | {"extra_usage": money}, NOW, plan=text)
    poll(state, NOW, reading=usage, login=Login(organization=text))
    assert_harmless(publish(state, NOW))


def assert_harmless(documents: dict[str, Any]) -> None:
    """Check that outside data is only in texts that are shown."""
    for key, component in documents[TOPICS.config]["components"].items():
        assert re.fullmatch(r"[a-z0-9_]+", key)
        for option, value in component.items():
            if option.endswith("topic"):
                assert re.fullmatch(r"[a-z0-9_/-]+", value), value
            elif option.endswith("template"):
                assert not set(INJECTIONS) & {value}
                assert "states(" not in value
                assert "range(" not in value
            elif option == "name":
                assert value.isprintable()
                assert len(value) < 100
        assert re.fullmatch(r"[a-z_]+\.[a-z0-9_]+", component.get("default_entity_id", "sensor.x"))


def remembered() -> dict[str, Any]:
    """Return what a real run leaves on the broker."""
    state = make_state(sources=(OAUTH, STATUSLINE))
    poll(state, NOW, reading=parse_usage(sample_usage(now=NOW, scoped={"Fable": 3}), NOW))
    return publish(state, NOW)


LEFT = remembered()
LATER = NOW + dt.timedelta(minutes=2)


@given(
    spoiled(LEFT[TOPICS.memory]).map(json.dumps) | st.text(max_size=99),
    spoiled(LEFT[TOPICS.health]).map(json.dumps) | st.text(max_size=99),
    spoiled(LEFT[TOPICS.state]).map(json.dumps) | st.text(max_size=99),
    (values | st.fixed_dictionaries({"components": st.dictionaries(st.text(max_size=9), values)})).map(json.dumps),
)
def test_no_retained_memory_breaks_a_start(memory: str, health: str, state_text: str, config: str) -> None:
    """Anybody may have written there: the start continues, we publish only our own data, and every wait ends."""
    state = make_state(sources=(OAUTH, STATUSLINE))
    retained = {TOPICS.memory: memory, TOPICS.health: health, TOPICS.state: state_text, TOPICS.config: config}
    state.restore({topic: text.encode("utf-8", "replace") for topic, text in retained.items()}, LATER)
    state.tick(LATER)
    assert_harmless(publish(state, LATER))
    due = state.polling.policy.due(LATER, state.usage.windows.resets())
    assert due <= LATER + dt.timedelta(hours=26)
    later = LATER + dt.timedelta(days=8)  # when nothing can still be in the future
    answer = sample_usage(now=later, five_hour=50.0)
    for at in (later, later + dt.timedelta(minutes=1)):
        assert len(poll(state, at, reading=parse_usage(answer, at))) < 20
    assert publish(state, later + dt.timedelta(minutes=1))[TOPICS.state]["windows"]["five_hour"]["utilization"] == 50.0


@given(st.sampled_from(["refresh", "interval", "polling", "fence", "x", *INJECTIONS]), st.binary(max_size=60))
def test_no_command_breaks_it(name: str, payload: bytes) -> None:
    """A command does its job, or nothing."""
    state = make_state(sources=(OAUTH, STATUSLINE))
    obey(state, name, payload, NOW)
    published = publish(state, NOW)
    assert 180 <= published[TOPICS.health]["poll_interval"] <= 3600
    assert_harmless(published)


WINDOWS = {"five_hour": {"used_percentage": 5, "resets_at": NOW.timestamp() + 60}, "seven_day": {}}
STATUS_LINES = st.fixed_dictionaries(
    {"at": st.just(NOW.timestamp()) | values, "rate_limits": values | spoiled(WINDOWS)}
)


@given((values | STATUS_LINES).map(lambda message: json.dumps(message).encode()) | st.binary(max_size=300))
def test_no_status_line_breaks_it(payload: bytes) -> None:
    """A message with any content gives numbers within bounds, or none."""
    usage = parse_statusline(payload, NOW)
    if usage is not None:
        state = make_state(sources=(OAUTH, STATUSLINE))
        state.take(usage, NOW)
        assert_harmless(publish(state, NOW))


@given(values.map(lambda value: json.dumps({"accounts": value}).encode()) | st.binary(max_size=99))
def test_no_summary_removes_foreign_topics(payload: bytes) -> None:
    """From a former summary only names that an account can have are believed."""
    assert all(re.fullmatch(r"[a-z0-9_]{1,40}", name) for name in former_accounts(payload))
