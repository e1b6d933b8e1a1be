"""The tables of the README and the reference match the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from claude_usage_mqtt.cli.commands import make_parser
from claude_usage_mqtt.homeassistant.discovery import PROJECT_URL
from claude_usage_mqtt.homeassistant.entities import ACCOUNT_ENTITIES, EXTRA_USAGE_ENTITIES, REPORTER, WINDOW_ENTITIES
from claude_usage_mqtt.homeassistant.entity import Entity
from claude_usage_mqtt.recipes import RECIPES, app_folder
from claude_usage_mqtt.recipes.started import program
from claude_usage_mqtt.service.documents import health_document
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.topics import OK, STATUSES
from claude_usage_mqtt.usage.events import ACCOUNT_EVENT_TYPES, EVENT_TYPES
from parts.documents import make_extra_usage, sample_usage
from parts.simulation import Simulation, make_state

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/claude_usage_mqtt"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / ".github").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / ".github/REFERENCE.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")


def section(name: str) -> str:
    """Return what is between the marks of a generated table."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", REFERENCE, re.DOTALL)
    assert found is not None, name
    return found.group(1)


def settings_table() -> str:
    """Return the table of settings that the model implies."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if default is None:
            shown = ""
        elif name == "claude_user_agent":
            shown = "`claude-usage-mqtt/<version>`"
        elif isinstance(default, bool):
            shown = f"`{str(default).lower()}`"
        elif isinstance(default, tuple):
            shown = f"`{','.join(f'{value:g}' for value in default)}`"
        else:
            shown = f"`{default}`"
        lines.append(f"| `{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines)


def entities_table() -> str:
    """Return the table of entities that the rows imply."""
    lines = ["| key | entity | name | unit | shown by default |", "|---|---|---|---|---|"]
    lines += [_row(row, f"W_{row.key}", f"*Session* {row.name}") for row in WINDOW_ENTITIES]
    lines += [_row(row, row.key, row.name) for row in (*ACCOUNT_ENTITIES, *EXTRA_USAGE_ENTITIES)]
    lines.append(_row(REPORTER, "reporter_<machine>", "Reporter *machine*"))
    return "\n".join(lines)


def _row(row: Entity, key: str, name: str) -> str:
    kind = row.platform if row.device_class is None else f"{row.platform}, {row.device_class}"
    kind += f" ({row.category})" if row.category else ""
    unit = "the currency" if row.device_class == "monetary" else row.unit or ""
    shown = "session only" if row.key == "limit_at" else "yes" if row.enabled else "no"
    return f"| `{key}` | {kind} | {name} | {unit} | {shown} |"


def test_settings_table() -> None:
    """Each setting is in the reference with its default and its description, in the order of the model."""
    assert section("settings") == settings_table()


def test_entities_table() -> None:
    """Each entity is in the reference with its kind, name, unit, and whether it is shown by default."""
    assert section("entities") == entities_table()


@pytest.mark.parametrize("status", [status for status in STATUSES if status != OK])
def test_each_status_is_in_the_troubleshooting(status: str) -> None:
    """Whatever the status entity shows can be looked up."""
    assert f"`{status}`" in README.split("## Troubleshooting")[1].split("## Privacy")[0]


def test_each_command_is_in_the_table_of_features() -> None:
    """Each command of the program is named, and nothing else."""
    features = README.split("## What it does")[1].split("\n## ")[0]
    commands = re.findall(r"^    (\w+)", make_parser().format_help(), re.MULTILINE)
    assert set(re.findall(r"`claude-usage-mqtt (\w+)", features)) == set(commands)


def test_each_event_type_is_documented() -> None:
    """The event types that automations match on are written down."""
    for event_type in (*EVENT_TYPES, *ACCOUNT_EVENT_TYPES):
        assert f"`{event_type}`" in REFERENCE


def test_each_key_of_the_topics_is_explained() -> None:
    """Each key in `state` and `health` can be looked up in the reference."""
    now = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
    answer = sample_usage(now=now, extra_usage=make_extra_usage(1234.0, 5000, "EUR"))
    simulation = Simulation(lambda _: answer, now, make_state())
    simulation.run(now + timedelta(minutes=1))
    shown = simulation.shown[-1].state
    window, money = shown["windows"]["five_hour"], shown["extra_usage"]
    text = REFERENCE.split("## The numbers")[1].split("\n## ")[0]
    for key in (*shown, *window, *money, *health_document(simulation.state, now)):
        assert f"`{key}`" in text, key


def anchors(text: str) -> set[str]:
    """Return what GitHub makes of a document's headings."""
    outside_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", outside_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_local_link_leads_somewhere(document: Path) -> None:
    """No picture, file or section that a document links to is missing."""
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        assert not file or (document.parent / file).exists(), target
        there = (document.parent / file).read_text(encoding="utf-8") if file and anchor else text
        assert not anchor or anchor in anchors(there), target


def test_each_module_that_contributors_are_sent_to_exists() -> None:
    """The map of the packages and the recipes for changes name files that are there."""
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", CONTRIBUTING))
    assert len(named) > 15
    for path in named:
        assert (PACKAGE / path).is_file() or (ROOT / path).is_file(), path
    for folder in (path.parent.name for path in PACKAGE.glob("*/__init__.py")):
        assert f"`{folder}/`" in CONTRIBUTING, folder


def test_the_map_names_each_module() -> None:
    """Contributors find every module in the map, or its folder or prefix (`reporter*`), and no former constant."""
    named = re.findall(r"`([^`\n]+)`", CONTRIBUTING)
    folders = {"api/", "credentials/", "recipes/", "demo/"} & set(named)
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE)
        is_in_folder = any(f"{folder}/" in folders for folder in module.parts[:-1])
        if module.parts[0] == "cli" or path.stem.startswith("__") or is_in_folder:
            continue
        assert any(fnmatch(path.stem, name.removesuffix(".py").rpartition("/")[2]) for name in named), module
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    for constant in (name for name in named if re.fullmatch(r"_?[A-Z]+(_[A-Z]+)+", name)):
        assert re.search(rf"\b{constant}\b", source) or constant.lower() in Settings.model_fields, constant


def test_the_compose_file_and_the_deployment_are_whole() -> None:
    """The examples on the first screen can be parsed, and every variable in them is a setting."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)]
    compose = next(block for block in blocks if "services" in block)
    deployment = next(block for block in blocks if block.get("kind") == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = {*compose["services"]["claude-usage"]["environment"], *(entry["name"] for entry in container["env"])}
    assert given - {"TZ"} <= {name.upper() for name in Settings.model_fields}


UNRELEASED = r"install( -\S+)* '?claude-usage-mqtt|image: ghcr|compose pull"
"""Commands that work only once there is a release."""


def test_commands_to_copy_work_before_a_release() -> None:
    """No command, recipe or message installs or starts something that nobody has published."""
    kinds = {".py", ".md", ".yaml", ".service", ".plist", ".xml"}
    for path in (ROOT / "README.md", *(path for path in PACKAGE.rglob("*") if path.suffix in kinds)):
        assert not re.search(UNRELEASED, path.read_text(encoding="utf-8")), path
    assert "**There is no release yet**" in README.split("## ")[0]


@pytest.mark.skipif(os.name != "posix" or not program().is_file(), reason="needs sh and the installed program")
def test_the_commands_for_the_home_assistant_app_make_one_that_can_be_built(tmp_path: Path) -> None:
    """Followed to the letter in a copy of this folder, they write an app that can be built from that copy alone."""
    for name in ("Dockerfile", "README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src").mkdir()
    (block,) = re.findall(r"```sh\n(claude-usage-mqtt recipe home-assistant-app .*?)```", README, re.DOTALL)
    path = f"{program().parent}:{os.environ['PATH']}"
    subprocess.run(["/bin/sh", "-ec", block], cwd=tmp_path, env={"PATH": path}, check=True, capture_output=True)
    app = tmp_path / "claude-usage-app"
    lines = (app / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line.startswith("FROM")} == {
        "FROM python:3.13-slim AS build",
        "FROM python:3.13-slim",
    }
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 0:0"
    copied = {
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    }
    assert all((app / name).exists() for name in copied)
    assert (app / "config.yaml").is_file()


def test_the_project_has_one_address() -> None:
    """The app, its image, the package and the documents name the same repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Homepage"] == app_folder.URL == PROJECT_URL
    for name in ("systemd", "systemd-report"):
        assert f"\nDocumentation={PROJECT_URL}\n" in RECIPES[name].text()
    assert app_folder.URL.replace("https://github.com", "ghcr.io") == app_folder.IMAGE
    assert f"`{app_folder.URL}#home-assistant-app`" in README


def test_the_tests_that_windows_runs_exist() -> None:
    """A test that is renamed does not silently leave the Windows job red."""
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    named = re.findall(r"tests/test_\w+\.py", workflow)
    assert len(named) > 10
    assert all((ROOT / name).is_file() for name in named)
