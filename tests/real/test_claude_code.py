"""The real Claude Code as a source of the real service, in a sandbox with a fake of the API."""

import json
from pathlib import Path

import pytest

from real.claude_code_box import Box, run_box

TRIALS = ("numbers", "expired", "oauth_expired", "refused", "limited", "failing", "logged_out")


@pytest.fixture(scope="module")
def box(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Box:
    """Run all trials once."""
    return run_box(scripts, tmp_path_factory, "claude_code_box.sh", 600)


def test_all_numbers_without_a_token(box: Box) -> None:
    """All windows and the money are published with the time of the fetch; no message went to a model."""
    state, health = box.messages("numbers", "default/state")[-1], box.messages("numbers", "default/health")[-1]
    windows = state["windows"]
    used = {key: window["utilization"] for key, window in windows.items() if window["utilization"] is not None}
    assert used == {"five_hour": 42, "seven_day": 19, "seven_day_sonnet": 7, "seven_day_fable": 33}
    assert {window["source"] for window in windows.values()} == {"claude_code"}
    assert (state["plan"], state["extra_usage"]["used"], state["extra_usage"]["limit"]) == ("max", 12.34, 50)
    assert health["last_success"] == state["windows"]["five_hour"]["read_at"]
    assert box.asked("numbers", "/v1/messages") == []
    assert len(box.asked("numbers", "/api/oauth/usage")) == 1  # asked every second, and a fetch is one reading


def test_nothing_of_the_users_own_runs(box: Box) -> None:
    """Hooks, helpers, a status line and MCP servers, which Claude Code runs otherwise, are not run for a question."""
    assert box.text("ran_as_usual") != ""
    assert box.text("ran") == ""


def test_once_and_check(box: Box) -> None:
    """Both ask Claude Code too, and print what it answered."""
    (line,) = box.text("once").splitlines()
    assert json.loads(line)["windows"]["five_hour"]["utilization"] == 42
    assert "claude-code  ok    Claude Code (/opt/cc/claude): Session 42 %" in box.text("check")


def test_an_expired_token_is_renewed_by_its_owner(box: Box) -> None:
    """The numbers continue past the end of a token: Claude Code rewrites its file."""
    assert box.messages("expired", "default/state")[-1]["windows"]["five_hour"]["utilization"] == 42
    assert "renewed" in box.text("expired", "credentials")


def test_direct_requests_continue_with_the_renewed_token(box: Box) -> None:
    """With `oauth` Claude Code is asked once, and then the API again."""
    assert "renewed" in box.text("oauth_expired", "credentials")
    assert box.messages("oauth_expired", "default/state")[-1]["windows"]["five_hour"]["source"] == "oauth"
    assert box.messages("oauth_expired", "default/health")[-1]["token_expires_at"] is not None


def test_a_login_that_is_over(box: Box) -> None:
    """A refused renewal ends in the status that says to log in again."""
    assert "/login" in box.messages("refused", "default/health")[-1]["detail"]


@pytest.mark.parametrize("trial", ["limited", "failing"])
def test_refusals_that_look_alike(box: Box, trial: str) -> None:
    """A 429 and a 500 cannot be distinguished, and wait as after a 429; earlier numbers keep their own time."""
    health = box.messages(trial, "default/health")[-1]
    assert "cannot be distinguished" in health["detail"]
    assert health["retry_at"] is not None
    if trial == "failing":
        state = box.messages(trial, "default/state")[-1]
        assert state["windows"]["five_hour"]["utilization"] == 42
        assert state["windows"]["five_hour"]["read_at"] < health["alive_until"]


def test_a_logout(box: Box) -> None:
    """If nobody is logged in, the sentence says what to do."""
    health = box.messages("logged_out", "default/health")[-1]
    assert (health["status"], "/login" in health["detail"]) == ("no_credentials", True)


@pytest.mark.parametrize("trial", TRIALS)
def test_nothing_keeps_running_and_no_token_is_shown(box: Box, trial: str) -> None:
    """After the service has ended no Claude Code is left; no message or log has a token or e-mail address."""
    assert box.text(trial, "left") == ""
    for output in (box.text(trial, "messages"), box.text(trial, "log"), box.text("once"), box.text("check")):
        assert "sk-ant" not in output
        assert "fake@example.org" not in output
    assert "Traceback" not in box.text(trial, "log")
