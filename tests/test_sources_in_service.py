"""The service with the sources of this machine: what is published, and what it costs."""

import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from parts.broker import Broker
from parts.claude_code import FakeClaudeCode
from parts.credentials import write_credentials
from parts.documents import sample_usage
from parts.endpoint import Endpoint
from parts.faults import rate_limited
from parts.service import HEALTH, STATE, ServiceProcess
from parts.watcher import Message, Watcher

MAX_THREADS = 16


def ago(seconds: float) -> dt.datetime:
    """Return the instant so many seconds before now."""
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)).replace(microsecond=0)


def is_status(status: str, text: str = "") -> Callable[[Message], object]:
    """Return what recognizes a health message."""
    return lambda each: each.payload and each.json()["status"] == status and text in (each.json()["detail"] or "")


def test_claude_code_day_and_night(
    tmp_path: Path, running_broker: Broker, watcher: Watcher, endpoint: Endpoint
) -> None:
    """Its numbers are published without a token or a request of ours; after a logout and a login they continue."""
    program = FakeClaudeCode(tmp_path / "claude")
    program.answers(sample_usage(five_hour=42, scoped={"Fable": 33}), ago(1))
    settings = {
        "MQTT_PORT": running_broker.port,
        "CLAUDE_API_URL": endpoint.url,
        "CLAUDE_SOURCE": "claude-code",
        "CLAUDE_CODE_COMMAND": program.command,
        "CLAUDE_CONFIG_DIR": program.folder,
        "POLL_INTERVAL": 1,
    }
    with ServiceProcess(tmp_path / "home", **settings):
        health = watcher.wait_topic(HEALTH, is_status("ok")).json()
        windows = watcher.wait_topic(STATE, lambda each: bool(each.json()["windows"])).json()["windows"]
        assert windows["seven_day_fable"]["utilization"] == 33
        assert windows["five_hour"]["source"] == "claude_code"
        assert health["last_success"] == windows["five_hour"]["read_at"]
        program.answers(None, rate_limits_available=False, subscription_type=None)
        watcher.wait_topic(HEALTH, is_status("no_credentials", "/login"))
        program.answers(sample_usage(five_hour=43), dt.datetime.now(dt.UTC))
        write_credentials(program.folder)  # it is never opened, but that it has changed is seen
        watcher.wait_topic(HEALTH, is_status("ok"))
    assert endpoint.requests == []


def test_the_first_numbers_need_no_request(
    tmp_path: Path, running_broker: Broker, watcher: Watcher, endpoint: Endpoint
) -> None:
    """What Claude Code keeps is published with its own time, although the API refuses."""
    home = tmp_path / "home"
    program, read_at = FakeClaudeCode(home), ago(600)
    write_credentials(home)
    program.cache.write_text(program.keeps(sample_usage(five_hour=42), read_at))
    endpoint.fault = rate_limited(3600)
    settings = {"MQTT_PORT": running_broker.port, "CLAUDE_API_URL": endpoint.url, "CLAUDE_SOURCE": "oauth"}

    def has_numbers(message: Message) -> bool:
        return "five_hour" in message.json()["windows"]

    with ServiceProcess(home, **settings):
        window = watcher.wait_topic(STATE, has_numbers).json()["windows"]["five_hour"]
        assert (window["utilization"], window["source"]) == (42, "claude_code")
        assert dt.datetime.fromisoformat(window["read_at"]) == read_at
        watcher.wait_topic(HEALTH, is_status("rate_limited"))
    assert len(endpoint.requests) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts threads as Linux shows them")
def test_200_accounts_have_few_threads(tmp_path: Path, running_broker: Broker, endpoint: Endpoint) -> None:
    """However many accounts there are, the threads are few: they would be refused on a small machine."""
    folders = {f"a{number}": str(tmp_path / f"a{number}") for number in range(200)}
    for folder in folders.values():
        write_credentials(Path(folder))
    settings = {"MQTT_PORT": running_broker.port, "CLAUDE_API_URL": endpoint.url}
    highest = 0

    def count(process: int) -> int:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))

    with ServiceProcess(tmp_path / "home", CLAUDE_ACCOUNTS=json.dumps(folders), **settings) as service:
        while len(endpoint.requests) < len(folders):
            highest = max(highest, count(service.process.pid))
            time.sleep(0.01)
    assert 0 < highest <= MAX_THREADS
