"""The setups of the README's first screen, followed with real processes as far as one machine allows."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from parts.broker import Mosquitto, needs_mosquitto
from parts.command import call_command, run_command
from parts.endpoint import Endpoint
from parts.service import HEALTH, STATE, Start, has_status
from parts.watcher import Message, Watcher

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
LOGIN = {"MQTT_USERNAME": "claude-usage", "MQTT_PASSWORD": "secret"}

pytestmark = needs_mosquitto


@pytest.fixture
def running_broker() -> Iterator[Mosquitto]:
    """Run a broker whose login for us may do only what the README's section on security says."""
    found = re.search(r"^  user claude-usage\n(?:  topic .*\n)+", README, re.MULTILINE)
    assert found is not None
    acl = found[0].replace("\n  ", "\n").strip() + "\nuser reader\ntopic readwrite #\n"
    with Mosquitto(users={"claude-usage": "secret", "reader": "reader"}, acl=acl) as running:
        yield running


@pytest.fixture
def watcher(running_broker: Mosquitto) -> Iterator[Watcher]:
    """Watch everything on it."""
    with Watcher(running_broker.port, username="reader", password="reader") as found:
        yield found


def session(message: Message) -> object:
    """Return the session's use in a state message, and the machine that it came from."""
    window = message.json()["windows"].get("five_hour") or {}
    return window.get("utilization"), window.get("machine")


def test_a_linux_box(start: Start, running_broker: Mosquitto, watcher: Watcher, endpoint: Endpoint, home: Path) -> None:
    """With the login that the README recommends, everything is published and announced, and `check` finds no problem.

    After `remove` nothing of ours is retained.
    """
    with start(**LOGIN):
        watcher.wait_topic(STATE, lambda message: session(message) == (42, None))
        watcher.wait_topic("homeassistant/device/claude_usage_default/config")
    settings = LOGIN | {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": running_broker.port}
    settings |= {"CLAUDE_API_URL": endpoint.url, "CLAUDE_CONFIG_DIR": home}
    checked = call_command(home, "check", **settings)
    assert checked.returncode == 0, checked.stdout
    removed = call_command(home, "remove", **settings)
    assert removed.returncode == 0, removed.stderr
    watcher.settle()
    assert watcher.retained() == {}


def test_a_box_without_claude_code_and_a_laptop(start: Start, tmp_path: Path, watcher: Watcher, home: Path) -> None:
    """The environment of the compose file and of the Deployment publishes what a reporter with the same login sends."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)]
    compose = next(block for block in blocks if "services" in block)["services"]["claude-usage"]["environment"]
    (container,) = next(b for b in blocks if b.get("kind") == "Deployment")["spec"]["template"]["spec"]["containers"]
    assert compose["CLAUDE_SOURCE"] == {each["name"]: each.get("value") for each in container["env"]}["CLAUDE_SOURCE"]
    (tmp_path / "nothing").mkdir()
    with (
        start(tmp_path / "nothing", **LOGIN, CLAUDE_SOURCE=compose["CLAUDE_SOURCE"]),
        start(home, "report", **LOGIN, MACHINE_NAME="laptop"),
    ):
        watcher.wait_topic(STATE, lambda message: session(message) == (42, "laptop"), 60)
    assert not any("sk-ant" in message.payload for message in watcher.messages())


@pytest.mark.parametrize("source", ["statusline", "reporter,statusline"])
def test_a_machine_that_may_make_no_request(
    source: str, start: Start, tmp_path: Path, running_broker: Mosquitto, watcher: Watcher, endpoint: Endpoint
) -> None:
    """With the README's settings for Claude Code, its status line supplies a publisher, which misses no reporter."""
    found = re.search(r"```json\n(.*?)```", README.split("## The status line")[1], re.DOTALL)
    assert found is not None
    there = json.loads(found[1])
    assert there["statusLine"]["command"] == "~/claude-usage/bin/claude-usage-mqtt statusline"
    window = {"used_percentage": 42, "resets_at": int((datetime.now(UTC) + timedelta(hours=2)).timestamp())}
    shown = json.dumps({"session_id": "x", "rate_limits": {"five_hour": window}})
    with start(tmp_path, **LOGIN, CLAUDE_SOURCE=source):
        watcher.wait_topic(HEALTH, has_status("no_reporter" if "reporter" in source else "no_status_line"))
        env = there["env"] | {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": running_broker.port}
        assert "42%" in run_command(tmp_path, "statusline", stdin=shown, **env).stdout
        state = watcher.wait_topic(STATE, lambda message: session(message) == (42, None)).json()
        assert state["windows"]["five_hour"]["source"] == "statusline"
        health = watcher.wait_topic(HEALTH, lambda message: message.json()["fresh"]).json()
        assert (health["status"], health["detail"]) == ("ok", None)
    assert endpoint.count == 0
