"""The Home Assistant app: a Supervisor starts it, it finds the broker by itself, and it needs no Claude login."""

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from claude_usage_mqtt import __version__
from claude_usage_mqtt.cli import home_assistant_app
from claude_usage_mqtt.cli.recipe import recipe
from claude_usage_mqtt.errors import BrokerRefused, BrokerUnreachable, SettingsError
from claude_usage_mqtt.recipes import app_folder
from claude_usage_mqtt.settings.load import load_settings
from parts import faults
from parts.broker import Mosquitto, needs_mosquitto
from parts.command import clean_environment, run_command
from parts.endpoint import Endpoint, Fault
from parts.process import LoggedProcess
from parts.supervisor import GOOD_TOKEN, PASSWORD, Supervisor
from parts.watcher import Watcher

TEMPLATE = Path(app_folder.__file__).parent / "home_assistant_app/config.yaml"
DEFAULTS = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8").replace("@", ""))["options"]
"""What a new app passes to the program."""

# What the Supervisor accepts in an app's config.yaml: required keys and those used here, and its option types
REQUIRED = {"name": str, "version": str, "slug": str, "description": str, "arch": list}
OPTIONAL = {"url": str, "startup": str, "boot": str, "init": bool, "services": list, "map": list, "timeout": int}
TYPES = re.compile(r"(str|bool|password|int\(-?\d+,-?\d+\)|list\([^()]+\)|match\(.+\))\??")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Write the app."""
    app_folder.write(tmp_path / "app")
    return tmp_path / "app"


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """Run a Supervisor, and be its app."""
    with Supervisor() as found:
        monkeypatch.setenv(home_assistant_app.TOKEN, GOOD_TOKEN)
        monkeypatch.setenv(home_assistant_app.URL, found.url)
        yield found


def options_file(folder: Path, options: object) -> Path:
    """Write the options as the Supervisor does."""
    path = folder / "options.json"
    path.write_text(json.dumps(options), encoding="utf-8")
    path.chmod(0o600)
    return path


def parsed(file: Path) -> dict[str, Any]:
    """Return the content of a YAML file of the app."""
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")))


# What the recipe writes


def test_the_recipe_writes_everything_that_home_assistant_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command makes a folder that can be copied into Home Assistant's share of local apps."""
    assert recipe(app_folder.NAME, str(tmp_path)) == 0
    names = {Path(line).relative_to(tmp_path).as_posix() for line in capsys.readouterr().out.splitlines()}
    assert names == {"config.yaml", "Dockerfile", "DOCS.md", "icon.png", "translations/en.yaml"}
    assert all((tmp_path / name).stat().st_size for name in names)
    assert not any(b"@" in (tmp_path / name).read_bytes() for name in names if not name.endswith(".png"))


def test_the_recipe_without_a_folder_says_what_is_missing(tmp_path: Path) -> None:
    """The app is not printed, nothing else is written to a folder, and an unwritable folder is reported."""
    with pytest.raises(SettingsError, match="Add the folder"):
        recipe(app_folder.NAME)
    with pytest.raises(SettingsError, match="redirect"):
        recipe("dashboard", str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        recipe(app_folder.NAME, str(tmp_path / "file"))


def test_the_recipe_overwrites_nothing(tmp_path: Path) -> None:
    """The folder of another project, or of a changed app, is not overwritten."""
    (tmp_path / "Dockerfile").write_text("FROM mine")
    with pytest.raises(SettingsError, match="is not empty"):
        recipe(app_folder.NAME, str(tmp_path))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("Dockerfile", "FROM mine")]


def test_config_fits_the_supervisors_schema(app: Path) -> None:
    """The Supervisor accepts the app: required keys, known keys, known values, an option type for each option."""
    found = parsed(app / "config.yaml")
    for key, kind in REQUIRED.items():
        assert isinstance(found[key], kind), key
    for key in found.keys() - REQUIRED.keys() - {"options", "schema"}:
        assert isinstance(found[key], OPTIONAL[key]), key
    assert found["version"] == __version__
    assert set(found["arch"]) <= {"aarch64", "amd64"}
    assert (found["startup"], found["boot"], found["init"]) == ("application", "auto", False)
    assert found["services"] == ["mqtt:want"], "with `need` it would not start before a broker is installed"
    assert found["map"] == [{"type": "share", "read_only": True}]
    assert re.fullmatch(r"[-_.A-Za-z0-9]+", found["slug"])
    assert 10 <= found["timeout"] <= 300
    assert found["options"].keys() <= found["schema"].keys()
    for name, kind in found["schema"].items():
        for each in kind[0].values() if isinstance(kind, list) else [kind]:
            assert TYPES.fullmatch(each), name
        # the Supervisor treats a list as optional only if its elements are plain and optional
        first = kind[0] if isinstance(kind, list) else kind
        assert name in found["options"] or (isinstance(first, str) and first.endswith("?")), f"{name} is required"


def test_every_option_is_read_and_explained(app: Path) -> None:
    """The form has no field without effect and none without a name and a description."""
    schema, translations = parsed(app / "config.yaml")["schema"], parsed(app / "translations/en.yaml")["configuration"]
    assert set(translations) == set(schema) == {*home_assistant_app.PLAIN_OPTIONS, "accounts", "login_folder"}
    assert all(each["name"] and each["description"] for each in translations.values())


def test_the_icon_has_the_size_that_home_assistant_requires(app: Path) -> None:
    """It is a square of 128 pixels."""
    content = (app / "icon.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (128, 128)


def test_the_app_is_the_image_of_the_same_version_started_as_root(app: Path) -> None:
    """Root reads the options; the health check, which reads no option, runs as the user that the service becomes."""
    text = (app / "Dockerfile").read_text(encoding="utf-8")
    assert f"\nFROM {app_folder.IMAGE}:{__version__}\n" in text
    assert "\nUSER 0:0\n" in text
    healthcheck = json.loads(text.partition("CMD ")[2])
    assert f"--reuid={home_assistant_app.USER}" in healthcheck
    assert healthcheck[-2:] == ["/app/bin/claude-usage-mqtt", "healthcheck"]


# What the app does with its options


def read(folder: Path, **options: object) -> dict[str, str]:
    """Return the variables made from these options."""
    return home_assistant_app.read_options(options_file(folder, DEFAULTS | options))


def test_default_options_need_no_login(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new app reports no missing login: it waits for numbers from the machines with Claude Code."""
    for name, value in read(empty).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.sources == ("reporter", "statusline")
    assert (settings.poll_interval, settings.alert_thresholds) == (300, (75.0, 90.0))


def test_options_become_settings(tmp_path: Path) -> None:
    """The values of the form reach the program; an empty field counts as missing."""
    variables = read(tmp_path, mqtt_tls=True, mqtt_port=8883, mqtt_host="x.example", mqtt_username="", log_level=None)
    wanted = {"MQTT_TLS": "true", "MQTT_PORT": "8883", "MQTT_HOST": "x.example"}
    assert wanted.items() <= variables.items()
    assert not {"MQTT_USERNAME", "LOG_LEVEL"} & variables.keys()


@pytest.mark.parametrize("folder", ["claude", "/share/claude", "claude/"])
def test_a_login_may_be_in_the_share(tmp_path: Path, folder: str) -> None:
    """With or without /share before it, the folder is found."""
    assert read(tmp_path, login_folder=folder)["CLAUDE_CONFIG_DIR"] == "/share/claude"


@pytest.mark.parametrize("folder", ["../data", "/data", "a/../../data"])
def test_a_login_may_be_nowhere_else(tmp_path: Path, folder: str) -> None:
    """An option cannot make the app read its own secrets as a login."""
    with pytest.raises(SettingsError, match="share"):
        read(tmp_path, login_folder=folder)


def test_several_accounts(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each account of the form is one in CLAUDE_ACCOUNTS, with a login in the share or without."""
    variables = read(empty, accounts=[{"name": "home", "login_folder": "home"}, {"name": "work"}])
    assert json.loads(variables["CLAUDE_ACCOUNTS"]) == {"home": "/share/home", "work": None}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert [account.label for account in load_settings().accounts()] == ["home", "work"]


def test_no_account_in_the_form_is_lost(tmp_path: Path) -> None:
    """Two accounts with one name are reported: neither may silently replace the other."""
    with pytest.raises(SettingsError, match="the name work twice; give each"):
        read(tmp_path, accounts=[{"name": "work", "login_folder": "one"}, {"name": "work", "login_folder": "two"}])


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"login_folder": 5}',
        '{"accounts": 5}',
        '{"accounts": ["work"]}',
        '{"accounts": [{}]}',
        '{"accounts": [{"name": []}]}',
    ],
)
def test_options_that_cannot_be_read_are_one_sentence(tmp_path: Path, content: str) -> None:
    """A damaged file is not an internal error."""
    path = tmp_path / "options.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match="save them again"):
        home_assistant_app.read_options(path)
    with pytest.raises(SettingsError, match="save them again"):
        home_assistant_app.read_options(tmp_path / "missing.json")


# What it asks the Supervisor


def test_the_broker_comes_from_the_supervisor(box: Supervisor) -> None:
    """Address and login are Home Assistant's own; nobody types them."""
    box.install_broker(1883)
    assert home_assistant_app.fetch_broker() == {
        "MQTT_HOST": "127.0.0.1",
        "MQTT_PORT": "1883",
        "MQTT_USERNAME": "addons",
        "MQTT_PASSWORD": PASSWORD,
        "MQTT_TLS": "false",
    }
    assert box.requests == [("/services/mqtt", f"Bearer {GOOD_TOKEN}")]


def test_each_reason_to_wait_is_a_sentence(box: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker, a refusal and a missing Supervisor have their own sentences with what to do; none shows the token."""
    with pytest.raises(BrokerUnreachable, match="install and start the app Mosquitto broker") as missing:
        home_assistant_app.fetch_broker()
    monkeypatch.setenv(home_assistant_app.URL, "http://127.0.0.1:1")
    with pytest.raises(BrokerUnreachable, match="no usable response") as gone:
        home_assistant_app.fetch_broker()
    monkeypatch.setenv(home_assistant_app.URL, box.url)
    monkeypatch.setenv(home_assistant_app.TOKEN, "wrong-canary")
    with pytest.raises(BrokerRefused, match="HTTP 401") as refused:
        home_assistant_app.fetch_broker()
    assert not any("canary" in str(each.value) for each in (missing, gone, refused))


def test_an_error_of_the_supervisor_is_not_a_missing_broker(box: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is advised to install an existing broker because the Supervisor could not answer."""
    for status in (302, 500, 503):
        monkeypatch.setattr(box, "answer", lambda *_, status=status: (status, {"result": "error", "message": "busy"}))
        with pytest.raises(BrokerUnreachable, match=rf"no usable response about its MQTT broker \(HTTP {status}\)"):
            home_assistant_app.fetch_broker()


def test_a_broker_that_is_installed_later_is_found(
    box: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The app may be installed first; it says so once, not at every request."""
    ask_again = SimpleNamespace(sleep=lambda _: len(box.requests) < 4 or box.install_broker(1884))
    monkeypatch.setattr(home_assistant_app, "time", ask_again)
    assert home_assistant_app.wait_for_broker()["MQTT_PORT"] == "1884"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("fault", [faults.DripHeaders(0.02), faults.DripBody(0.02)], ids=["headers", "body"])
def test_a_supervisor_that_answers_slowly_is_asked_again(
    box: Supervisor, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    """On a busy box the app does not wait for the rest of one response without a sign of life."""
    box.install_broker(1884)
    endpoint.fault = fault
    monkeypatch.setattr(home_assistant_app, "TIMEOUT", 0.5)
    monkeypatch.setenv(home_assistant_app.URL, endpoint.url)
    ask_again = SimpleNamespace(sleep=lambda _: monkeypatch.setenv(home_assistant_app.URL, box.url))
    monkeypatch.setattr(home_assistant_app, "time", ask_again)
    assert home_assistant_app.wait_for_broker()["MQTT_PORT"] == "1884"
    [record] = caplog.records
    assert record.getMessage().startswith("The Supervisor gave no usable response about its MQTT broker")


# The whole app: a process started as the Supervisor does. The place of the options and the user 1000 belong to the
# image, which has its own test below.

START = """
import os, pathlib, sys
from claude_usage_mqtt.cli import home_assistant_app, main
home_assistant_app.ASK_EVERY = 0.1
home_assistant_app.OPTIONS, home_assistant_app.USER = pathlib.Path(sys.argv[1]), os.geteuid()
sys.exit(main(["run"]))
"""


def running_app(home: Path, box: Supervisor, **options: object) -> LoggedProcess:
    """Return `run` with the Supervisor's variables and options."""
    return LoggedProcess(
        [sys.executable, "-W", "error", "-c", START, options_file(home, DEFAULTS | options)],
        env=clean_environment(home, {home_assistant_app.TOKEN: GOOD_TOKEN, home_assistant_app.URL: box.url}),
        cwd=home,
    )


@needs_mosquitto
@pytest.mark.skipif(os.name != "posix", reason="an app is a Linux container")
def test_an_app_waits_for_a_broker_publishes_and_stops(tmp_path: Path) -> None:
    """Installed before the broker, it is online as soon as there is one, and ends cleanly."""
    with Supervisor() as box, Mosquitto(users={"addons": PASSWORD, "reader": "reader"}) as broker:
        with running_app(tmp_path, box) as process:
            assert box.asked.wait(30)
            box.install_broker(broker.port)
            with Watcher(broker.port, username="reader", password="reader") as watcher:
                watcher.wait_topic("claude-usage/status", lambda message: message.payload == "online")
                assert process.stop() == 0
                watcher.wait_topic("claude-usage/status", lambda message: message.payload == "offline")
        assert GOOD_TOKEN not in process.log.text + broker.log.text
        assert PASSWORD not in process.log.text


@pytest.mark.skipif(os.name != "posix", reason="an app is a Linux container")
def test_an_app_that_waits_is_healthy_and_can_be_stopped(tmp_path: Path) -> None:
    """Home Assistant does not restart it while it waits for a broker, and stops it at once."""
    with Supervisor() as box, running_app(tmp_path, box) as process:
        process.log.wait_for("no MQTT broker yet")
        healthy = run_command(tmp_path, "healthcheck")
        assert (healthy.returncode, healthy.stderr) == (0, "")
        assert process.stop() == 0
        assert GOOD_TOKEN not in process.log.text


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_root_is_given_up_permanently() -> None:
    """After the options have been read nothing runs as root, and nothing can become root again."""
    code = "import os; from claude_usage_mqtt.cli import home_assistant_app; home_assistant_app.drop_privileges(); "
    code += "print(os.getresuid(), os.getresgid(), os.getgroups())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "(1000, 1000, 1000) (1000, 1000, 1000) []"
