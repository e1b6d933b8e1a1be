"""What reporters and the service send each other: complete from a real one, harmless from anybody else."""

import dataclasses
import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.errors import (
    CredentialsNotFound,
    InsufficientScope,
    InvalidResponse,
    NetworkError,
    RateLimited,
    ServerError,
    TokenExpired,
    Unauthorized,
)
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.sources.reading_json import (
    Busy,
    error_from_json,
    error_to_json,
    reading_from_json,
    reading_to_json,
)
from claude_usage_mqtt.sources.reporter_messages import (
    MAX_ACCOUNTS,
    AnnouncedLogin,
    Answer,
    Ask,
    Presence,
    encode_answer,
    encode_ask,
    encode_presence,
    parse_answer,
    parse_ask,
    parse_presence,
)
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.usage.reading import REPORTER, Reading
from parts.documents import make_extra_usage, sample_usage
from parts.hostile import spoiled, values

NOW = dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)
AGE = dt.timedelta(seconds=40)
LOGIN = Login(
    account="0123456789abcdef",
    organization="fedcba9876543210",
    plan="max",
    tier="default_claude_max_20x",
    token_expires_at=NOW + dt.timedelta(hours=8),
    login_expires_at=NOW + dt.timedelta(days=28),
)


def make_reading() -> Reading:
    """Return a reading that has everything."""
    body = sample_usage(now=NOW - AGE, scoped={"Fable": 30.0}, extra_usage=make_extra_usage(5, 20, "EUR"))
    return parse_usage(body, NOW - AGE, plan="max", tier="default_claude_max_20x")


def test_a_reading_survives_the_trip() -> None:
    """The numbers that arrive are those that were read, dated by the receiver's clock."""
    sent = make_reading()
    there = NOW + dt.timedelta(days=400)  # a clock that is far off
    back = reading_from_json(json.loads(json.dumps(reading_to_json(sent, NOW))), there, "laptop")
    assert back.read_at == there - AGE
    assert (back.plan, back.tier, back.extra_usage) == (sent.plan, sent.tier, sent.extra_usage)
    assert back.windows.keys() == sent.windows.keys() != set()
    for key, window in back.windows.items():
        assert window.resets_at == (sent[key].resets_at.replace(microsecond=0) if sent[key].resets_at else None)
        assert (window.source, window.machine, window.read_at) == (REPORTER, "laptop", back.read_at)
        same = {"resets_at": None, "source": "", "machine": None, "read_at": NOW}
        assert dataclasses.replace(window, **same) == dataclasses.replace(sent[key], **same)


@pytest.mark.parametrize(
    "error",
    [
        *(kind("No.") for kind in (CredentialsNotFound, TokenExpired, Unauthorized, InsufficientScope, RateLimited)),
        *(kind("No.") for kind in (NetworkError, ServerError, InvalidResponse)),
        RateLimited("Later.", retry_after=dt.timedelta(seconds=3000)),
        Busy("Not now.", retry_after=dt.timedelta(seconds=30)),
    ],
)
def test_an_error_survives_the_trip(error: Any) -> None:
    """An error on the laptop arrives as the same error, with the machine's name before its sentence."""
    back = error_from_json(json.loads(json.dumps(error_to_json(error))), "laptop")
    assert type(back) is type(error)
    assert str(back) == f"laptop: {error}"
    assert getattr(back, "retry_after", None) == getattr(error, "retry_after", None)


def test_messages_survive_the_trip() -> None:
    """Presence, ask and answer arrive as they were sent."""
    presence = Presence(
        online=True,
        instance="a1",
        accounts={"default": AnnouncedLogin(source="oauth", status="ok", login=LOGIN)},
    )
    assert parse_presence(encode_presence(presence)) == presence
    ask = Ask(id="0f", account="work")
    assert parse_ask(encode_ask(ask)) == ask
    answer = Answer(id="0f", account="work", requests=1, login=LOGIN, reading=make_reading())
    back = parse_answer(encode_answer(answer, NOW), NOW, "laptop")
    assert back is not None
    assert (back.id, back.requests, back.login) == ("0f", 1, LOGIN)
    assert back.reading is not None


def test_a_machine_may_have_as_many_accounts_as_the_settings_allow() -> None:
    """The largest presence that a reporter announces is read, not ignored as too large."""
    login = AnnouncedLogin(source="claude_code", status="credentials_unreadable", login=LOGIN)
    accounts = {f"a{number:039d}": login for number in range(MAX_ACCOUNTS)}
    presence = Presence(online=True, instance="a" * 16, accounts=accounts)
    assert parse_presence(encode_presence(presence)) == presence


READING = reading_to_json(make_reading(), NOW)
WINDOW_NAMES = ("five_hour", "seven_day", "seven_day_fable", "pool_x", "seven_day_", "default", "a b", "x" * 200)


@given(spoiled(READING), st.dictionaries(st.sampled_from(WINDOW_NAMES), values, max_size=3))
def test_a_hostile_reading_is_refused_or_within_bounds(document: Any, windows: dict[str, Any]) -> None:
    """Only numbers within the bounds of real ones are published, whoever sent them."""
    if isinstance(document, dict) and isinstance(document.get("windows"), dict):
        document["windows"].update(windows)
    try:
        reading = reading_from_json(document, NOW, "laptop")
    except InvalidResponse:
        return
    assert NOW - dt.timedelta(days=1) <= reading.read_at <= NOW
    for key, window in reading.windows.items():
        assert key in {"five_hour", "seven_day", "seven_day_fable", "pool_x"} | READING["windows"].keys()
        assert window.utilization is not None
        assert 0 <= window.utilization <= 200
        assert window.label.isprintable()
        assert len(window.label) <= 40
    json.dumps(reading_to_json(reading, NOW), allow_nan=False)


@given(st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode()))
def test_nothing_breaks_a_parser(payload: bytes) -> None:
    """Any payload on any of the topics is either understood or ignored."""
    parse_presence(payload)
    parse_ask(payload)
    answer = parse_answer(payload, NOW, "laptop")
    assert answer is None or answer.reading is None


PRESENCE = {
    "online": True,
    "instance": "a",
    "version": "1",
    "accounts": {"default": {"source": "oauth", "status": "ok"}},
}


@given(spoiled(PRESENCE), spoiled({"id": "a", "account": "default", "requests": 1, "login": {}, "error": {}}))
def test_hostile_messages_stay_within_bounds(presence: Any, answer: Any) -> None:
    """What is kept of a message is short, printable, and of the types that the program expects."""
    found = parse_presence(json.dumps(presence).encode())
    for account, login in found.accounts.items() if found else ():
        assert account.isidentifier() or account.isdigit()
        assert len(login.status) <= 40
    said = parse_answer(json.dumps(answer).encode(), NOW, "laptop")
    assert said is None or 0 <= said.requests <= 2
    assert said is None or said.error is None or len(str(said.error)) < 400
