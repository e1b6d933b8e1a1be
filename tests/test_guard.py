"""`guard`: whether heavy work may start, from retained messages alone; only what is certain is a yes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.cli.guard import UNKNOWN, WAIT, YES, decide
from parts.broker import Broker
from parts.command import call_command
from parts.net import LOOPBACK
from parts.watcher import Watcher

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SOON, LATER = NOW + timedelta(hours=2), NOW + timedelta(days=2)


def window(utilization: float | None, resets_at: datetime | None = SOON, label: str = "Session", **more: Any) -> Any:
    """Return a window of a state document, as far as `guard` reads it."""
    reset = None if resets_at is None else resets_at.isoformat()
    return {"label": label, "utilization": utilization, "resets_at": reset, "locked": False} | more


def state(five_hour: float | None = 42, seven_day: float | None = 19, **more: Any) -> dict[str, Any]:
    """Return a state document, as far as `guard` reads it."""
    windows = {"five_hour": window(five_hour), "seven_day": window(seven_day, LATER, "Weekly")}
    document = {"blocked": False, "blocked_until": None, "summary": "Session 42 %.", "windows": windows}
    return document | more


def health(*, now: datetime = NOW, fresh: bool = True, **more: Any) -> dict[str, Any]:
    """Return a health document, as far as `guard` reads it."""
    return {"fresh": fresh, "detail": None, "alive_until": (now + timedelta(minutes=8)).isoformat()} | more


def asked(document: Any, *, status: bytes = b"online", said: Any = None, **options: Any) -> int:
    """Return the exit status."""
    return decide(status, health() if said is None else said, document, NOW, **options).status


@pytest.mark.parametrize(
    ("document", "options", "expected"),
    [
        (state(), {}, YES),
        (state(), {"below": 50}, YES),
        (state(), {"below": 42}, WAIT),
        (state(), {"window": "seven_day", "below": 42}, YES),
        (state(), {"window": "seven_day", "below": 19}, WAIT),
        (state(100), {}, YES),  # not blocked: paid extra usage covers it
        (state(100), {"below": 100}, WAIT),
        (state(100), {"window": "five_hour"}, WAIT),
        (state(0, 100, blocked=True, blocked_until=LATER.isoformat()), {"window": "five_hour"}, WAIT),
        (state(blocked=True), {}, WAIT),
        (state(blocked=None), {}, UNKNOWN),
        (state(blocked=None), {"window": "five_hour"}, YES),
        (state(None), {"below": 50}, UNKNOWN),
        (state(None, 60), {"below": 50}, WAIT),
        (state(None), {"window": "five_hour"}, UNKNOWN),
        (state(), {"window": "seven_day_opus"}, UNKNOWN),
        (state(windows={"five_hour": window(5, NOW - timedelta(seconds=1))}), {"window": "five_hour"}, UNKNOWN),
        (state(windows={"seven_day_opus": window(5, LATER, locked=True)}), {"window": "seven_day_opus"}, WAIT),
        (state(windows=[1]), {"below": 50}, UNKNOWN),
        ({}, {}, UNKNOWN),
    ],
)
def test_the_verdict(document: Any, options: dict[str, Any], expected: int) -> None:
    """Yes only if it is certain; a reached limit is a reason to wait, whatever else is unknown."""
    assert asked(document, **options) == expected


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (b"offline", health()),
        (b"", health()),
        (b"", {}),
        (b"online", {}),
        (b"online", health(fresh=False, detail="The token has expired.")),
        (b"online", health(now=NOW - timedelta(minutes=9))),  # no program was left to publish offline
        (b"online", health(alive_until=None)),
    ],
)
def test_old_numbers_are_not_an_answer(status: bytes, said: Any) -> None:
    """Messages of a service that is gone, stuck, or without current numbers are not believed."""
    assert asked(state(), status=status, said=said) == UNKNOWN
    assert asked(state(blocked=True), status=status, said=said) == UNKNOWN


def test_it_says_until_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names what is used up and the local time of the last reset to wait for."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        full = decide(b"online", health(), state(80, 90), NOW, below=75)
        blocked = decide(b"online", health(), state(blocked=True, blocked_until=SOON.isoformat()), NOW)
        endless = decide(b"online", health(), state(blocked=True), NOW)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert full.sentence == "Session 80 %, Weekly 90 %. Wait until Sun 21:00."
    assert blocked.sentence == "Blocked. Wait until 23:00."
    assert endless.sentence == "Blocked. It is not known until when."


def test_in_a_script(tmp_path: Path, running_broker: Broker, watcher: Watcher, closed_port: int) -> None:
    """The exit status is the answer: 0 yes, 9 wait, 10 unknown; and 2 or 8 for wrong usage and no broker."""

    def guard(*options: str, port: int = running_broker.port, **settings: str) -> tuple[int, str]:
        ended = call_command(tmp_path, "guard", *options, MQTT_HOST=LOOPBACK, MQTT_PORT=port, **settings)
        return ended.returncode, ended.stdout

    assert guard()[0] == UNKNOWN
    now = datetime.now(UTC)
    document = state()
    for each in document["windows"].values():
        each["resets_at"] = (now + timedelta(hours=1)).isoformat()
    watcher.publish("claude-usage/status", "online", retain=True)
    for account in ("default", "work"):
        watcher.publish(f"claude-usage/{account}/health", json.dumps(health(now=now)), retain=True)
        watcher.publish(f"claude-usage/{account}/state", json.dumps(document), retain=True)
    watcher.settle()
    assert guard() == (YES, "Yes. Session 42 %.\n")
    status, said = guard("--account", "Work", "--window", "five_hour", "--below", "40")
    assert status == WAIT
    assert said.startswith("Session 42 %. Wait until ")
    misspelled = "No account wrok on the broker, only default, work; pass one with --account.\n"
    assert guard("--account", "wrok") == (UNKNOWN, misspelled)
    assert guard(CLAUDE_ACCOUNTS=json.dumps({"a": None, "b": None}))[0] == 2
    assert guard(port=closed_port)[0] == 8
