"""The commands as a person uses them: what they print, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from parts import faults
from parts.broker import any_broker
from parts.command import clean_environment, command_line, run_command
from parts.credentials import write_credentials
from parts.documents import make_extra_usage, sample_usage
from parts.endpoint import Endpoint
from parts.watcher import Watcher

TOKEN = "sk-ant-oat01-canary-of-the-command-tests"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home folder with the credentials of Claude Code in it."""
    (tmp_path / ".claude").mkdir()
    write_credentials(tmp_path / ".claude", token=TOKEN)
    return tmp_path


def test_once_prints_a_table(home: Path) -> None:
    """`once` shows each window with its usage, and the money in whole units."""
    document = sample_usage(
        five_hour=42, seven_day=16.580000000000002, extra_usage=make_extra_usage(190.0, 1700, "EUR")
    )
    with Endpoint(document) as endpoint:
        result = run_command(home, "once", CLAUDE_API_URL=endpoint.url)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^Session +42 %", result.stdout, re.MULTILINE)
    assert re.search(r"^Weekly +16\.58 %", result.stdout, re.MULTILINE)
    assert "1.9 of 17 EUR" in result.stdout


def test_once_as_json_is_the_state_document_on_one_line(home: Path) -> None:
    """`once --json` prints what stands on the state topic, for scripts."""
    with Endpoint(sample_usage(five_hour=42)) as endpoint:
        result = run_command(home, "once", "--json", CLAUDE_API_URL=endpoint.url)
    assert result.stdout.count("\n") == 1
    document = json.loads(result.stdout)
    assert document["account"] == "default"
    assert document["windows"]["five_hour"]["utilization"] == 42


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.unauthorized(), 4),
        (faults.insufficient_scope(), 4),
        (faults.rate_limited(3600), 5),
        (faults.server_error(500), 6),
        (faults.CloseAtOnce(), 6),
        (faults.html_page(200), 6),
        (faults.invalid_json(), 7),
        (faults.wrong_json([]), 7),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_once_ends_with_the_status_of_what_went_wrong(home: Path, fault: faults.Fault, status: int) -> None:
    """Each failure of the API has its exit status and one sentence, without traceback and without the token."""
    with Endpoint(sample_usage()) as endpoint:
        endpoint.fault = fault
        result = run_command(home, "once", CLAUDE_API_URL=endpoint.url)
    assert result.returncode == status
    assert result.stdout == ""
    assert result.stderr.startswith("claude-usage-mqtt: ")
    assert result.stderr.count("\n") == 1
    assert TOKEN not in result.stderr


def test_once_without_credentials(tmp_path: Path) -> None:
    """Without a login `once` says so, asks nobody and ends with 3."""
    with Endpoint(sample_usage()) as endpoint:
        result = run_command(tmp_path, "once", CLAUDE_API_URL=endpoint.url)
        assert endpoint.count == 0
    assert result.returncode == 3
    assert "log in with Claude Code" in result.stderr


def test_check_shows_each_link_of_the_chain(home: Path) -> None:
    """On a machine where all is well each line says ok, the token is not shown, and nothing stays on the broker."""
    with any_broker() as broker, Endpoint(sample_usage(five_hour=42)) as endpoint:
        result = run_command(home, "check", CLAUDE_API_URL=endpoint.url, MQTT_HOST="127.0.0.1", MQTT_PORT=broker.port)
        with Watcher(broker.port) as watcher:
            assert watcher.retained() == {}
    lines = dict(re.findall(r"^(\w+) +(\w+|-)", result.stdout, re.MULTILINE))
    assert lines == dict.fromkeys(["settings", "credentials", "api", "broker", "publish", "retain", "discovery"], "ok")
    assert result.returncode == 0
    assert "user:profile" in result.stdout
    assert TOKEN not in result.stdout + result.stderr


def test_check_goes_on_after_a_failure_and_ends_with_the_first(tmp_path: Path) -> None:
    """With neither login nor broker both are told, and the exit status is that of the login."""
    result = run_command(tmp_path, "check", MQTT_HOST="127.0.0.1", MQTT_PORT=1)
    assert result.returncode == 3
    assert re.search(r"^credentials +FAIL .*log in with Claude Code", result.stdout, re.MULTILINE)
    assert re.search(r"^broker +FAIL .*MQTT_PORT", result.stdout, re.MULTILINE)


def test_check_without_a_broker_setting(home: Path) -> None:
    """A missing MQTT_HOST is named."""
    with Endpoint(sample_usage()) as endpoint:
        result = run_command(home, "check", CLAUDE_API_URL=endpoint.url)
    assert result.returncode == 2
    assert "MQTT_HOST is not set" in result.stdout


def test_run_without_a_broker_setting(home: Path) -> None:
    """`run` says what is missing and ends with 2."""
    result = run_command(home)
    assert (result.returncode, result.stdout) == (2, "")
    assert "MQTT_HOST is not set" in result.stderr


def test_remove_takes_ours_and_nothing_else(home: Path) -> None:
    """After `remove` nothing of ours stands on the broker, what others keep there does, and it says what went."""
    others = {
        "claude-usage-other/status": "online",
        "homeassistant/device/claude_usage_foreign/config": '{"origin": {"name": "somebody else"}}',
        "homeassistant/sensor/x/config": "{}",
        "claude-usage/notes": "a person's own",
    }
    with any_broker() as broker, Endpoint(sample_usage()) as endpoint, Watcher(broker.port) as watcher:
        settings = {"CLAUDE_API_URL": endpoint.url, "MQTT_HOST": "127.0.0.1", "MQTT_PORT": broker.port}
        for topic, payload in others.items():
            watcher.publish(topic, payload, retain=True)
        service = subprocess.Popen(command_line("run"), env=clean_environment(home, settings), cwd=home)
        watcher.wait_topic("claude-usage/default/health", lambda message: message.json()["fresh"])
        service.terminate()
        assert service.wait(timeout=10) == 0
        assert len(watcher.retained()) == len(others) + 4
        result = run_command(home, "remove", **settings)
        assert result.returncode == 0, result.stderr
        assert watcher.retained() == others
    assert result.stdout.splitlines() == [
        "removed homeassistant/device/claude_usage_default/config",
        "removed claude-usage/default/health",
        "removed claude-usage/default/state",
        "removed claude-usage/status",
    ]


def test_demo_shows_topics_changing_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    """`demo` says where its broker is, any client sees the topics there, windows move, and Ctrl-C ends it cleanly."""
    demo = subprocess.Popen(
        command_line("demo"),
        env=clean_environment(tmp_path, {"PYTHONUNBUFFERED": "1"}),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    try:
        where = re.search(r"127\.0\.0\.1:(\d+)", demo.stdout.readline())
        assert where is not None
        with Watcher(int(where.group(1)), version="3.1.1") as watcher:
            first = watcher.wait_topic("claude-usage/default/state").json()["windows"]["seven_day"]["utilization"]
            watcher.wait_topic(
                "claude-usage/default/state",
                lambda message: message.json()["windows"]["seven_day"]["utilization"] not in (None, first),
            )
        demo.send_signal(signal.SIGINT)
        output, errors = demo.communicate(timeout=10)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0, errors
    assert "Session [" in output
    assert errors == ""


def test_a_reader_who_leaves_ends_the_output_without_a_traceback(home: Path) -> None:
    """`once | head -0` says nothing on standard error."""
    with Endpoint(sample_usage()) as endpoint:
        read_end, write_end = os.pipe()
        os.close(read_end)
        result = subprocess.run(
            command_line("once"),
            env=clean_environment(home, {"CLAUDE_API_URL": endpoint.url, "PYTHONUNBUFFERED": "1"}),
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(write_end)
    assert result.stderr == ""


def test_help_names_every_command_and_exit_status(tmp_path: Path) -> None:
    """`--help` is enough to find one's way."""
    result = run_command(tmp_path, "--help")
    assert result.returncode == 0
    for word in ("run", "once", "check", "demo", "remove", "healthcheck", "8 the broker"):
        assert word in result.stdout


@pytest.mark.parametrize("arguments", [["frobnicate"], ["once", "--jsn"], ["healthcheck", "extra"]])
def test_wrong_usage_ends_with_2(tmp_path: Path, arguments: list[str]) -> None:
    """A word that is no command, or an option that is none, is refused."""
    result = run_command(tmp_path, *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_an_error_of_our_own_shows_its_place_and_no_traceback(home: Path) -> None:
    """A fault nobody thought of is one line with a place to report, without what the error's text might hold."""
    (home / "sitecustomize.py").write_text(
        "from claude_usage_mqtt.usage.account import AccountUsage\n"
        "def document(*_):\n"
        f"    raise RuntimeError({TOKEN!r})\n"
        "AccountUsage.document = document\n"
    )
    with Endpoint(sample_usage()) as endpoint:
        result = run_command(home, "once", CLAUDE_API_URL=endpoint.url, PYTHONPATH=home)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "RuntimeError in sitecustomize.py:3" in result.stderr
    assert TOKEN not in result.stderr
    assert "Traceback" not in result.stderr
