"""The demo's own parts: a simulated account, its HTTP server, and the embedded broker."""

import contextlib
import itertools
import json
import logging
import random
import re
import socket
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from claude_usage_mqtt.demo.broker import EmbeddedBroker
from claude_usage_mqtt.demo.simulated_account import SimulatedAccount
from claude_usage_mqtt.demo.simulated_api import SimulatedApi
from claude_usage_mqtt.errors import SettingsError
from parts.watcher import Watcher

START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
History = list[tuple[datetime, dict[str, Any]]]
JITTER = timedelta(seconds=2)
GOOD_HEADERS = {"Authorization": "Bearer some-token", "anthropic-beta": "oauth-2025-04-20"}
PATIENCE = 10.0  # s until a test gives up; none waits that long if all is well


@pytest.fixture(scope="module")
def history() -> History:
    """Ten days, an answer for each minute, simulated once for all tests that only read it."""
    now = START
    account = SimulatedAccount(lambda: now, seed=0)
    answers = []
    for _ in range(10 * 24 * 60):
        now += timedelta(minutes=1)
        answers.append((now, account.answer()))
    return answers


@pytest.mark.parametrize("window", ["five_hour", "seven_day"])
def test_windows_fill_and_reset(history: History, window: str) -> None:
    """In the demo both windows get nearly full and start again."""
    used = [answer[window]["utilization"] for _, answer in history]
    assert max(used) >= 90
    assert any(after < before - 20 for before, after in itertools.pairwise(used))


def test_every_answer_is_json_with_sane_numbers(history: History) -> None:
    """The demo never shows a number that is impossible for an account."""
    text = json.dumps([answer for _, answer in history], allow_nan=False)  # which refuses what is not finite
    assert not re.search(r"(: |, |\[)-", text)


def test_session_resets_five_hours_after_its_first_use(history: History) -> None:
    """The session's reset does not move while the window runs, five hours after it began; at times it is idle."""
    began: datetime | None = None
    windows = idle = 0
    for now, answer in history:
        session = answer["five_hour"]
        if session["resets_at"] is None:
            assert session["utilization"] == 0
            began = None
            idle += 1
            continue
        resets_at = datetime.fromisoformat(session["resets_at"])
        if began is None or now >= began + timedelta(hours=5):
            began = now
            windows += 1
        assert abs(resets_at - (began + timedelta(hours=5))) <= JITTER
    assert windows > 10
    assert idle


def test_extra_usage_drains_only_without_quota(history: History) -> None:
    """Money is spent in the demo while a window is at 100 %, and at no other time."""
    drained = 0
    for (_, before), (_, after) in itertools.pairwise(history):
        if after["extra_usage"]["used_credits"] > before["extra_usage"]["used_credits"]:
            drained += 1
            assert max(after["five_hour"]["utilization"], after["seven_day"]["utilization"]) >= 100 - 1e-9
    assert drained


def test_newer_model_is_only_in_the_limits(history: History) -> None:
    """The demo's model window comes as newer models' windows do: not as a flat one."""
    _, answer = history[-1]
    scoped = [limit for limit in answer["limits"] if limit["kind"] == "weekly_scoped"]
    assert [limit["scope"]["model"]["display_name"] for limit in scoped] == ["Fable"]
    assert answer["seven_day_opus"] is None
    assert answer["seven_day_sonnet"] is None


def test_account_does_not_depend_on_how_often_it_is_asked(history: History) -> None:
    """Two watchers of the same demo see the same numbers, however rarely one of them looks."""
    now = START
    account = SimulatedAccount(lambda: now, seed=0)
    rng = random.Random(1)
    at = -1
    while (at := at + rng.randint(1, 2 * 24 * 60)) < len(history):
        now, expected = history[at]
        answer = account.answer()
        assert answer["five_hour"]["utilization"] == expected["five_hour"]["utilization"]
        assert answer["seven_day"]["utilization"] == expected["seven_day"]["utilization"]
        assert answer["extra_usage"] == expected["extra_usage"]


def test_account_survives_a_leap_of_the_clock() -> None:
    """A demo on a machine that slept for a year continues with windows that end in the future."""
    now = START
    account = SimulatedAccount(lambda: now)
    account.answer()
    now += timedelta(days=365)
    answer = account.answer()
    resets = [window["resets_at"] for window in (answer["five_hour"], answer["seven_day"])]
    assert all(reset is None or datetime.fromisoformat(reset) > now - JITTER for reset in resets)


def test_api_answers_with_the_right_headers_only() -> None:
    """The demo's API is as strict as the real one, so that a missing header is found before release."""
    with SimulatedApi(SimulatedAccount(lambda: START)) as api, httpx.Client(base_url=api.url) as client:
        good = client.get("/api/oauth/usage", headers=GOOD_HEADERS)
        assert good.status_code == 200
        assert "five_hour" in good.json()
        for name, value in (("Authorization", ""), ("Authorization", "Bearer"), ("anthropic-beta", "no")):
            bad = client.get("/api/oauth/usage", headers=GOOD_HEADERS | {name: value})
            assert bad.status_code == 401
            assert bad.json()["error"]["type"] == "authentication_error"
        assert client.get("/api/oauth/usage").status_code == 401
        assert client.get("/elsewhere", headers=GOOD_HEADERS).status_code == 404


def test_api_is_gone_at_the_end() -> None:
    """A demo that has ended leaves no thread and no open port behind."""
    with SimulatedApi(SimulatedAccount(lambda: START)) as api:
        pass
    assert "simulated-api" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{api.url}/api/oauth/usage")


def watching(broker: EmbeddedBroker, *topics: str) -> Watcher:
    """Return a client, which is subscribed to these topics inside a `with`; `test_brokers` covers the main path."""
    return Watcher(broker.port, topics)


def seen(watcher: Watcher) -> list[tuple[str, str, bool]]:
    """Return topic, payload and retain flag of what came."""
    watcher.settle()
    return [(message.topic, message.payload, message.retain) for message in watcher.messages()]


def test_broker_sends_nothing_unasked() -> None:
    """A client that connects gets no retained message because of what another one has subscribed to."""
    with EmbeddedBroker(port=0) as broker, watching(broker, "demo/first") as first:
        first.publish("demo/first", "mine", retain=True)
        with watching(broker, "demo/second") as second:
            second.publish("demo/second", "live")
            assert seen(second) == [("demo/second", "live", False)]


def test_broker_takes_another_port_when_its_own_is_taken() -> None:
    """The demo starts even if a broker already has the port."""
    with EmbeddedBroker(port=0) as first, EmbeddedBroker(port=first.port) as second:
        assert second.port != first.port
        with watching(second) as one:
            one.publish("demo/state", "x", retain=True)


def test_broker_starts_and_stops_repeatedly(caplog: pytest.LogCaptureFixture) -> None:
    """Twenty demos in a row leave neither a log line, nor a warning, nor a thread behind."""
    caplog.set_level(logging.DEBUG)
    for _ in range(20):
        with EmbeddedBroker(port=0) as broker, watching(broker, "demo/state") as one:
            one.publish("demo/state", "x", retain=True)
            assert seen(one) == [("demo/state", "x", False)]
    assert "embedded-broker" not in [thread.name for thread in threading.enumerate()]
    assert {record.name.partition(".")[0] for record in caplog.records} <= {"asyncio"}
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_broker_closes_despite_clients_that_stay() -> None:
    """Ctrl-C ends the demo even while clients are connected, in the middle of something, or silent."""
    broker = EmbeddedBroker(port=0)
    with socket.create_connection(("127.0.0.1", broker.port)) as silent, watching(broker, "demo/state"):
        broker.close()
        broker.close()
        assert "embedded-broker" not in [thread.name for thread in threading.enumerate()]
        silent.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""


def test_broker_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the command that helps is shown, not a traceback."""
    monkeypatch.setitem(sys.modules, "amqtt.broker", None)
    with pytest.raises(SettingsError, match=r" -m pip install 'amqtt<0.13'"):
        EmbeddedBroker(port=0)
