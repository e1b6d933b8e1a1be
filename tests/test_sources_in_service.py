"""The service with the sources of this machine: what is published, and what it costs."""

import datetime as dt
import json
import time
from pathlib import Path

import pytest

from claude_usage_mqtt.service import workers
from parts.claude_code import FakeClaudeCode
from parts.credentials import write_credentials
from parts.documents import sample_usage
from parts.endpoint import Endpoint
from parts.faults import rate_limited
from parts.service import HEALTH, STATE, Serve, Start, has_status, is_ok, session_is
from parts.watcher import Watcher

MAX_THREADS = 16


def ago(seconds: float) -> dt.datetime:
    """Return the instant that many seconds before now."""
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)).replace(microsecond=0)


def test_claude_code_day_and_night(start: Start, tmp_path: Path, watcher: Watcher, endpoint: Endpoint) -> None:
    """Its numbers are published without a token or a request of ours; after a logout and a login they continue."""
    program = FakeClaudeCode(tmp_path / "claude")
    program.answers(sample_usage(five_hour=42, scoped={"Fable": 33}), ago(1))
    settings = {"CLAUDE_SOURCE": "claude-code", "CLAUDE_CODE_COMMAND": program.command, "POLL_INTERVAL": 1}
    with start(CLAUDE_CONFIG_DIR=program.folder, **settings):
        health = watcher.wait_topic(HEALTH, is_ok).json()
        windows = watcher.wait_topic(STATE, lambda message: bool(message.json()["windows"])).json()["windows"]
        assert windows["seven_day_fable"]["utilization"] == 33
        assert windows["five_hour"]["source"] == "claude_code"
        assert health["last_success"] == windows["five_hour"]["read_at"]
        program.answers(None, rate_limits_available=False, subscription_type=None)
        assert "/login" in watcher.wait_topic(HEALTH, has_status("no_credentials")).json()["detail"]
        program.answers(sample_usage(five_hour=43), dt.datetime.now(dt.UTC))
        write_credentials(program.folder)  # it is never opened, but its change is seen
        watcher.wait_topic(STATE, session_is(43))
    assert endpoint.requests == []


def test_the_first_numbers_need_no_request(start: Start, home: Path, watcher: Watcher, endpoint: Endpoint) -> None:
    """The numbers that Claude Code keeps are published with their own time, although the API refuses."""
    program, read_at = FakeClaudeCode(home), ago(600)
    program.cache.write_text(program.keeps(sample_usage(five_hour=43), read_at))
    endpoint.fault = rate_limited(3600)
    with start(CLAUDE_SOURCE="oauth"):
        window = watcher.wait_topic(STATE, session_is(43)).json()["windows"]["five_hour"]
        assert window["source"] == "claude_code"
        assert dt.datetime.fromisoformat(window["read_at"]) == read_at
        watcher.wait_topic(HEALTH, has_status("rate_limited"))
    assert len(endpoint.requests) == 1


def test_a_login_that_changes_before_the_first_poll(
    serve: Serve, home: Path, watcher: Watcher, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted service that must wait after a refused token notices a new one in the meantime, and uses it."""
    monkeypatch.setattr(workers, "CHECK_EVERY", 0.05)
    endpoint.fault = rate_limited()
    with serve():
        watcher.wait_topic(HEALTH, has_status("rate_limited"))
    mark = watcher.mark()
    with serve() as running:
        running.log.wait_for("Publishing at")
        watcher.wait_topic(HEALTH, since=mark)
        assert endpoint.count == 1
        endpoint.fault = None
        write_credentials(home, token="new")
        watcher.wait_topic(HEALTH, is_ok)
    assert endpoint.requests[-1].bearer == "new"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to count threads")
def test_200_accounts_have_few_threads(start: Start, tmp_path: Path, endpoint: Endpoint) -> None:
    """However many accounts there are, there are few threads: a small machine would refuse more."""
    folders = {f"a{number}": str(tmp_path / f"a{number}") for number in range(200)}
    for folder in folders.values():
        write_credentials(Path(folder))
    highest = 0

    def count(process: int) -> int:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))

    with start(CLAUDE_ACCOUNTS=json.dumps(folders)) as service:
        while len(endpoint.requests) < len(folders):
            highest = max(highest, count(service.process.pid))
            time.sleep(0.01)
    assert 0 < highest <= MAX_THREADS
