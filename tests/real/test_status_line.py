"""The status line of a real session: Claude Code's terminal program runs our command, the service's only source."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from real.claude_code_box import run_box

RESET_AFTER = 7860
"""Seconds from the start of the fake API, by which it counts, to the reset that it reports."""

YELLOW, RED = "\x1b[33m", "\x1b[31m"


@pytest.fixture(scope="module")
def box(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the session once; return the folder of what it left."""
    return run_box(scripts, tmp_path_factory, "status_line_box.sh", 300).folder


def published(box: Path, topic: str) -> Iterator[dict[str, Any]]:
    """Yield what was published under an account's topic."""
    for line in (box / "messages").read_text().splitlines():
        _, name, payload = line.split(" ", 2)
        if name == f"claude-usage/default/{topic}":
            yield json.loads(payload)


def test_each_response_arrives_once_with_its_time(box: Path) -> None:
    """Claude Code repeats the same numbers every second; each response is one message, with the response's time."""
    messages = list(published(box, "statusline"))
    assert [message["rate_limits"]["five_hour"]["used_percentage"] for message in messages] == [80.1, 10]
    assert [message["response"] for message in messages] == [True, True]
    assert int((box / "runs").read_text()) > 10
    requests = [json.loads(line) for line in (box / "requests.jsonl").read_text().splitlines()]
    asked = [request["t"] for request in requests if request["path"] == "/v1/messages" and request["body"]["stream"]]
    began = messages[0]["rate_limits"]["five_hour"]["resets_at"] - RESET_AFTER
    for message in messages:
        # the fake counts from a fraction of a second later than it says
        assert any(-1 <= message["at"] - began - at <= 3 for at in asked), (message["at"] - began, asked)


def test_the_service_shows_what_the_session_showed(box: Path) -> None:
    """The numbers have the time of the response; a lower one from a new response counts if the next agrees."""
    windows = [state["windows"] for state in published(box, "state")]
    first, *_ = published(box, "statusline")
    shown = windows[0]["five_hour"]
    assert (shown["utilization"], shown["source"]) == (80.1, "statusline")
    assert abs(datetime.fromisoformat(shown["read_at"]).timestamp() - first["at"]) <= 1
    assert [health["status"] for health in published(box, "health")][-1] == "ok"


def test_the_line_has_colors(box: Path) -> None:
    """Inside Claude Code the line is yellow from 75 % and red from 90 %; before the first response it has no number."""
    before, first, second = ((box / name).read_text() for name in ("before", "first", "second"))
    assert "5h – · 7d –" in before  # noqa: RUF001
    assert f"{YELLOW}80%" in first
    assert f"{RED}95%" in first
    assert "5h 10% ↻ 2h" in second


def test_nothing_keeps_running(box: Path) -> None:
    """After the session has ended neither Claude Code nor a command of ours is left, and there was no complaint."""
    assert (box / "left").read_text() == ""
    assert "Traceback" not in (box / "log").read_text()
