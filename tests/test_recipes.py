"""What users copy is complete, matches the existing entities and topics, and comes from the installed package."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from claude_usage_mqtt.cli.recipe import recipe
from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.homeassistant.discovery import MANUFACTURER, discovery
from claude_usage_mqtt.homeassistant.entities import EXTRA_USAGE, EXTRA_USAGE_ENABLED, LOGIN_EXPIRY, PLAN, POLLING
from claude_usage_mqtt.homeassistant.inventory import Inventory
from claude_usage_mqtt.recipes import RECIPES, app_folder
from claude_usage_mqtt.topics import Topics
from parts.command import run_command

BLUEPRINTS = tuple(name for name in RECIPES if name.startswith("blueprint-"))
UNFINISHED = {"sensor.claude_weekly_", "event.claude_"}
"""The characters that begin a pattern."""
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TOPICS = Topics(base="claude-usage", account="default")


class Loader(yaml.SafeLoader):
    """Reads the tags of Home Assistant and ESPHome as plain text."""


Loader.add_multi_constructor("!", lambda loader, tag, node: f"!{tag} {loader.construct_scalar(node)}")


def load(name: str) -> Any:
    """Parse a recipe."""
    return yaml.load(RECIPES[name].text(), Loader)  # noqa: S506 - a safe loader with tags


@pytest.fixture(scope="module")
def entity_ids() -> set[str]:
    """Return the entity ids of an account that has everything."""
    windows = {"five_hour": "Session", "seven_day": "Weekly"}
    features = frozenset({EXTRA_USAGE, EXTRA_USAGE_ENABLED, PLAN, LOGIN_EXPIRY, POLLING})
    inventory = Inventory(windows=windows, features=features, currency="EUR")
    message = discovery(TOPICS, inventory, label=None)
    return {component["default_entity_id"] for component in message["components"].values()}


def test_dashboard_names_only_entities_that_exist(entity_ids: set[str]) -> None:
    """No card says that its entity was not found."""
    text = RECIPES["dashboard"].text()
    named = set(re.findall(r"\b(?:sensor|binary_sensor|event|button|number|switch)\.claude_\w+", text))
    assert len(named) > 15
    assert named - UNFINISHED <= entity_ids
    assert load("dashboard")["views"][0]["type"] == "sections"
    assert "custom:" not in text, "a fresh Home Assistant has no card of somebody else's"


def test_recipes_for_another_account_name_its_entities_and_topics(entity_ids: set[str]) -> None:
    """The owner of several accounts can copy what `--account work` prints unchanged."""
    for name in ("dashboard", *BLUEPRINTS):
        text = RECIPES[name].text("work")
        named = re.findall(r"\b(?:sensor|binary_sensor|event|button|switch)\.claude_\w+", text)
        assert {entity_id.replace("claude_work_", "claude_") for entity_id in named} - UNFINISHED <= entity_ids
        assert all(".claude_work_" in entity_id for entity_id in named)
    assert "title: Claude Work\n" in RECIPES["dashboard"].text("work")
    assert "title: Claude Work mac\n" in RECIPES["dashboard"].text("work_mac")
    flow = json.loads(RECIPES["nodered"].text("work"))
    topics = {node["topic"] for node in flow if node["type"] == "mqtt in"}
    assert topics == {TOPICS.status, *(f"claude-usage/work/{each}" for each in ("state", "health", "event/+"))}


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_every_input_of_a_blueprint_is_used_and_explained(name: str) -> None:
    """The form that Home Assistant makes from it has no field without effect."""
    blueprint = load(name)
    inputs = blueprint["blueprint"]["input"]
    used = set(re.findall(r"!input (\w+)", json.dumps(blueprint)))
    assert used == set(inputs)
    assert all(field["name"] and field["selector"] is not None for field in inputs.values())
    assert blueprint["blueprint"]["domain"] == "automation"


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_each_entity_of_a_blueprint_is_filled_in(name: str, entity_ids: set[str]) -> None:
    """With one account there is nothing to pick, and a picker lists only entities of our devices."""
    for key, field in load(name)["blueprint"]["input"].items():
        if "entity" in field["selector"] and key != "hold":
            named = field["default"] if isinstance(field["default"], list) else [field["default"]]
            assert set(named) <= entity_ids
            (rule,) = field["selector"]["entity"]["filter"]
            assert rule["integration"] == "mqtt"
            assert rule["device"] == {"manufacturer": MANUFACTURER}
            assert all(entity_id.startswith(f"{rule['domain']}.") for entity_id in named)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_without_the_lines_that_the_readme_names_is_for_older_versions(name: str) -> None:
    """What Home Assistant supports only since 2026.8 is on separate lines, which can be left out."""
    (pattern,) = re.findall(r"recipe blueprint-threshold \| grep -vE '(.*?)'", README)
    kept = [line for line in RECIPES[name].text().splitlines() if not re.search(pattern, line)]
    blueprint, older = load(name), yaml.load("\n".join(kept), Loader)  # noqa: S506 - a safe loader with tags
    assert blueprint["blueprint"].pop("homeassistant") == {"min_version": "2026.8.0"}
    for field in blueprint["blueprint"]["input"].values():
        for rule in field["selector"].get("entity", {}).get("filter", ()):
            rule.pop("device", None)
    assert older == blueprint


def test_node_red_flow_is_connected_and_listens_where_we_publish() -> None:
    """After the import every wire leads somewhere, every topic is ours, and no palette must be installed first."""
    flow = json.loads(RECIPES["nodered"].text())
    built_in = {"tab", "comment", "mqtt-broker", "mqtt in", "function", "switch", "change", "rbe", "template", "debug"}
    assert {node["type"] for node in flow} <= built_in
    ids = [node["id"] for node in flow]
    assert len(ids) == len(set(ids))
    for node in flow:
        assert {target for output in node.get("wires", ()) for target in output} <= set(ids)
        assert node.get("broker") in (None, "localhost", "claude-usage-broker")
    topics = {node["topic"] for node in flow if node["type"] == "mqtt in"}
    assert topics == {TOPICS.status, TOPICS.state, TOPICS.health, TOPICS.event("+")}


def test_node_red_flow_reads_from_left_to_right() -> None:
    """Each wire leads to the right, and no node covers another."""
    nodes = {node["id"]: node for node in json.loads(RECIPES["nodered"].text()) if "x" in node}

    def half(node: dict[str, Any]) -> float:
        return max(50.0, 3.5 * len(node["name"]) + 30)  # about what the editor draws

    for node in nodes.values():
        for target in (nodes[target] for output in node["wires"] for target in output):
            assert node["x"] + half(node) < target["x"] - half(target), (node["name"], target["name"])
    for one, other in itertools.combinations(nodes.values(), 2):
        is_apart = abs(one["x"] - other["x"]) >= half(one) + half(other)
        assert is_apart or abs(one["y"] - other["y"]) >= 40, (one["name"], other["name"])


def test_display_listens_where_we_publish() -> None:
    """The display's topics and keys are those of the documents."""
    mqtt = load("esphome")["mqtt"]
    assert [part["topic"] for part in mqtt["on_json_message"]] == [TOPICS.state, TOPICS.health]
    assert [part["topic"] for part in mqtt["on_message"]] == [TOPICS.status]


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name, the command lists all recipes."""
    assert recipe(None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*RECIPES, app_folder.NAME]
    assert all(len(line) < 100 for line in lines)


@pytest.mark.parametrize("name", RECIPES)
def test_each_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The output can be redirected into a file, on every terminal."""
    assert recipe(name) == 0
    printed = capsys.readouterr().out
    assert printed == RECIPES[name].text()
    assert printed.endswith("\n")
    assert printed.isascii()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("dashbord", "dashboard"),
        ("blueprint", "blueprint-"),
        ("threshold", "blueprint-threshold"),
        ("NodeRed", "nodered"),
        ("nosuch", "Unknown recipe nosuch; 'claude-usage-mqtt recipe' lists them."),
        ("", "'claude-usage-mqtt recipe' lists them."),
    ],
)
def test_an_unknown_name_leads_to_the_known_ones(name: str, near: str) -> None:
    """A typo is answered with what was meant, anything else with how to list the recipes."""
    with pytest.raises(SettingsError, match=re.escape(near)):
        recipe(name)


def test_the_command_ends_as_a_shell_expects(tmp_path: Path) -> None:
    """A wrong name is one line on stderr and status 2; a right one is on stdout."""
    wrong = run_command(tmp_path, "recipe", "dashbord")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1
    right = run_command(tmp_path, "recipe", "dashboard")
    assert (right.returncode, right.stderr) == (0, "")
    assert right.stdout.startswith("#")
