"""`check --dump`: a response that can be attached to a report, and shows what the program could not understand."""

import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.sources.api.redact import KNOWN, MODEL_NAME, NAME, WORDS, redacted
from claude_usage_mqtt.sources.api.wire import parse_usage
from parts.command import call_command
from parts.credentials import write_credentials
from parts.documents import make_extra_usage, sample_usage
from parts.endpoint import Endpoint

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
CANARY = "canary-7c1f@example.com"
RECORDING = Path(__file__).parent / "cases/dumped_response.json"
SHAPES = {"(text)", "(number)", "(more)", "(key)"}

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from([*sorted(KNOWN), *MODEL_NAME]), inner),
)


@given(documents)
def test_nothing_comes_out_that_is_not_known_to_be_harmless(document: object) -> None:
    """Whatever the API adds: only the kind of an unknown value or key remains."""
    _require_harmless(redacted(document))


def _require_harmless(value: object, path: tuple[str, str] = ("", "")) -> None:
    is_known = path[1] in KNOWN or path == MODEL_NAME
    if isinstance(value, dict):
        for name, item in value.items():
            assert name in SHAPES or NAME.fullmatch(name)
            _require_harmless(item, (path[1], name))
    elif isinstance(value, list):
        for item in value:
            _require_harmless(item, path)
    elif isinstance(value, str):
        assert value in SHAPES or (is_known and WORDS.fullmatch(value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        assert is_known


def test_a_persons_name_is_not_a_models() -> None:
    """The only name that is shown is a model's."""
    document = {"account": {"display_name": "Jane Doe"}, "scope": {"model": {"display_name": "Opus"}}}
    assert redacted(document) == {"account": {"display_name": "(text)"}, "scope": {"model": {"display_name": "Opus"}}}


def test_what_is_left_is_understood_like_the_original() -> None:
    """A maintainer sees the same windows and money as the user."""
    document = sample_usage(
        now=NOW, scoped={"Opus": 7}, extra_usage=make_extra_usage(used=1234, limit=5000, currency="EUR")
    )
    assert parse_usage(redacted(document), NOW) == parse_usage(document, NOW)


def test_a_recording_is_understood() -> None:
    """A response that was attached to a report can go into the tests unchanged."""
    reading = parse_usage(json.loads(RECORDING.read_text(encoding="utf-8")), NOW)
    assert [window.label for window in reading] == ["Session", "Weekly", "Weekly Opus"]
    assert reading.malformed == ()


@pytest.mark.parametrize("is_understood", [True, False])
def test_check_prints_it(tmp_path: Path, is_understood: bool) -> None:  # noqa: FBT001
    """It is printed after the findings, especially if the response was not understood, and has nothing personal."""
    write_credentials(tmp_path)
    document = sample_usage(owner=CANARY, note={"mail": CANARY, CANARY: 1})
    if not is_understood:
        document = {"five_hour": {"utilization": "much", "owner": CANARY}}
    with Endpoint(document) as endpoint:
        settings = {
            "CLAUDE_CONFIG_DIR": tmp_path,
            "CLAUDE_API_URL": endpoint.url,
            "MQTT_HOST": "127.0.0.1",
            "MQTT_PORT": 1,
        }
        checked = call_command(tmp_path, "check", "--dump", **settings)
        plain = call_command(tmp_path, "check", **settings)
    shown = json.loads(checked.stdout[checked.stdout.index("{") : checked.stdout.rindex("}") + 1])
    assert (shown["five_hour"]["utilization"] == 42) is is_understood
    assert CANARY not in checked.stdout + checked.stderr
    assert "{" not in plain.stdout
