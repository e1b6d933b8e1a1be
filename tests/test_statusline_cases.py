"""What Claude Code passed to real status-line commands, from public reports: what the line shows and what is published.

A case is replayed on one machine: the command's cache decides what is handed over, the account what is shown of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.cli.statusline import line
from claude_usage_mqtt.cli.statusline_cache import PendingReading
from claude_usage_mqtt.cli.statusline_publish import take_in
from claude_usage_mqtt.sources.rate_limits import Mark, parse_limits
from claude_usage_mqtt.sources.status_line import parse_statusline
from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.document import state_document

CASES = Path(__file__).parent / "cases"


@dataclass
class Replay:
    """The line, the state document and the events of a case."""

    lines: list[str] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


def replay(name: str, folder: Path) -> Replay:
    """Run a case."""
    done, account, pending = Replay(), AccountUsage("default"), PendingReading("default", folder)
    for entry in json.loads((CASES / f"statusline_{name}.json").read_text())["input"]["readings"]:
        now, document = datetime.fromisoformat(entry["at"]), entry["stdin"]
        limits = parse_limits(document.get("rate_limits"), now, now)
        done.lines.append(line(limits, now, in_color=False))
        if take_in(pending, Mark(document), limits, now):
            reading = parse_statusline(pending.read(), now)
            if reading is not None:
                done.events += [event.event_type for event in account.update(reading, now)]
        done.states.append(state_document(account, now))
    return done


def test_every_case_is_replayed() -> None:
    """No recorded input of a status line is without a test."""
    source = Path(__file__).read_text()
    names = [path.stem.removeprefix("statusline_") for path in CASES.glob("statusline_*.json")]
    assert [name for name in names if f'"{name}"' not in source] == []
    assert len(names) >= 9


PUBLISHED = [
    ("float_noise", "seven_day", [14.0]),
    ("idle_session_of_a_past_window", "five_hour", [80.0, 80.0, 2.0, 2.0]),  # shown for two minutes after its reset
    ("of_another_account", "five_hour", [10.0, 10.0, 11.0]),
    ("of_another_account", "seven_day", [20.0, 20.0, 20.0]),
    ("percent_is_the_epoch", "five_hour", [None]),
    ("percent_is_the_epoch", "seven_day", [20.0]),
    ("rate_limits_absent", "five_hour", [None]),
    ("sentinel_2030", "five_hour", [None]),
    ("sentinel_2030", "seven_day", [None]),
    ("sessions_differ", "five_hour", [58.0, 58.0, 59.0, 59.0]),
    ("spend_limit_only", "five_hour", [None]),
    ("weekly_falls_same_boundary", "seven_day", [60.0, 60.0, 8.0, 15.0, 40.0]),
]


@pytest.mark.parametrize(("name", "key", "expected"), PUBLISHED)
def test_what_is_published(name: str, key: str, expected: list[float | None], tmp_path: Path) -> None:
    """Nonsense, older numbers, and another login's numbers are not published; what is new is."""
    windows = [state["windows"].get(key, {}) for state in replay(name, tmp_path).states]
    assert [window.get("utilization") for window in windows] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("float_noise", "5h 16% ↻ 1h00m · 7d 14%"),
        ("percent_is_the_epoch", "7d 20%"),
        ("rate_limits_absent", "5h – · 7d –"),  # noqa: RUF001
        ("sentinel_2030", "5h – · 7d –"),  # noqa: RUF001
        ("spend_limit_only", "spend 130% ($65 of $50)"),
    ],
)
def test_what_the_line_shows(name: str, expected: str, tmp_path: Path) -> None:
    """The line shows what is known, a spend limit included, and a dash only if nothing is."""
    assert replay(name, tmp_path).lines == [expected]


def test_a_refill_is_an_event(tmp_path: Path) -> None:
    """The week that starts over within its window is reported once, after a second reading has confirmed it."""
    assert replay("weekly_falls_same_boundary", tmp_path).events.count("reset_early") == 1
    assert replay("of_another_account", tmp_path / "other").events == []
