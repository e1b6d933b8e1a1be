"""The commands as a person uses them: what they print, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.cli import check_rights
from claude_usage_mqtt.instants import local_time
from claude_usage_mqtt.settings import machine
from claude_usage_mqtt.usage.account import AccountUsage
from parts import faults
from parts.broker import Broker, Mosquitto, needs_mosquitto
from parts.command import call_command, clean_environment, command_line, run_command
from parts.credentials import break_mount, write_credentials
from parts.documents import make_extra_usage, sample_usage
from parts.endpoint import Endpoint
from parts.net import LOOPBACK
from parts.process import LoggedProcess
from parts.service import CONFIG, HEALTH, STATE, STATUS, ServiceProcess
from parts.waiting import eventually
from parts.watcher import Watcher

TOKEN = "sk-ant-oat01-canary-of-the-command-tests"
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home folder with the credentials of Claude Code in it."""
    (tmp_path / ".claude").mkdir()
    write_credentials(tmp_path / ".claude", token=TOKEN)
    return tmp_path


@pytest.fixture
def api(endpoint: Endpoint) -> dict[str, Any]:
    """Return the setting that names this test's endpoint."""
    return {"CLAUDE_API_URL": endpoint.url}


@pytest.fixture
def given(running_broker: Broker, api: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that name its broker, too."""
    return {"MQTT_HOST": LOOPBACK, "MQTT_PORT": running_broker.port, **api}


@pytest.fixture
def published(home: Path, given: dict[str, Any], watcher: Watcher) -> None:
    """Run a service until it has published everything, and stop it."""
    with ServiceProcess(home, CLAUDE_CONFIG_DIR=home / ".claude", **given) as process:
        watcher.wait_topic(HEALTH, lambda message: message.json()["fresh"])
        assert process.stop() == 0


def test_once_prints_a_table(home: Path, endpoint: Endpoint, api: dict[str, Any]) -> None:
    """`once` says whether one can work, gives the usage in one sentence, then each window and the money."""
    endpoint.document = sample_usage(extra_usage=make_extra_usage(190.0, 1700, "EUR"))
    result = call_command(home, "once", **api)
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"^Not blocked, as of \w+ \d\d:\d\d\nSession 42 %, resets .*Week 17 %", result.stdout, re.MULTILINE
    )
    assert re.search(r"^Session +42 %", result.stdout, re.MULTILINE)
    assert re.search(r"^Weekly +16\.58 %", result.stdout, re.MULTILINE)
    assert "1.9 of 17 EUR" in result.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize(("source", "name"), [("oauth", ".claude/.credentials.json"), ("claude-code", ".claude.json")])
def test_a_login_whose_reading_hangs(home: Path, source: str, name: str) -> None:
    """On a dead mount `once` and `check` say so and end; here it is a pipe, and opening it waits for a writer."""
    file = home / name
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    once, check = (call_command(home, command, CLAUDE_SOURCE=source) for command in ("once", "check"))
    assert (once.returncode, check.returncode) == (3, 3)
    place = file if source == "oauth" else "Claude Code (claude)"
    for said in (once.stderr, check.stdout):
        assert f"{place} cannot be read: reading it hangs." in said
    os.close(os.open(file, os.O_WRONLY))  # the threads that still wait for a writer end


@pytest.mark.skipif(os.name == "nt", reason="not everybody may make a symbolic link")
@pytest.mark.parametrize("setting", ["CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN_FILE"])
def test_a_login_on_a_mount_that_is_gone(tmp_path: Path, endpoint: Endpoint, api: dict[str, Any], setting: str) -> None:
    """It is a credentials error, one sentence with the reason, and nothing is asked."""
    break_mount(tmp_path / "mount")
    once, check = (call_command(tmp_path, each, **api, **{setting: tmp_path / "mount"}) for each in ("once", "check"))
    assert (once.returncode, check.returncode, endpoint.count) == (3, 3, 0)
    assert once.stderr.count("\n") == 1
    for said in (once.stderr, report(check)["credentials"]):
        assert re.search(r"mount.* cannot be read \(.+\); ", said)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="there are no files of descriptors here")
@pytest.mark.parametrize("name", ["once", "check"])
def test_a_token_from_a_command(tmp_path: Path, endpoint: Endpoint, api: dict[str, Any], name: str) -> None:
    """A shell's `CLAUDE_CODE_OAUTH_TOKEN_FILE=<(command)` is a pipe: its token is read once, and used."""
    ours, its = os.pipe()
    os.write(its, TOKEN.encode())
    os.close(its)
    call_command(tmp_path, name, CLAUDE_CODE_OAUTH_TOKEN_FILE=f"/dev/fd/{ours}", **api)
    os.close(ours)
    assert [request.bearer for request in endpoint.requests] == [TOKEN]


def test_once_as_json_is_the_state_document_on_one_line(home: Path, api: dict[str, Any]) -> None:
    """`once --json` prints what the state topic holds, for scripts."""
    result = call_command(home, "once", "--json", **api)
    assert result.stdout.count("\n") == 1
    document = json.loads(result.stdout)
    assert document["account"] == "default"
    assert document["windows"]["five_hour"]["utilization"] == 42


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.unauthorized(), 4),
        (faults.rate_limited(3600), 5),
        (faults.server_error(500), 6),
        (faults.wrong_json([]), 7),
    ],
)
def test_once_ends_with_the_status_of_what_went_wrong(
    home: Path, endpoint: Endpoint, api: dict[str, Any], fault: faults.Fault, status: int
) -> None:
    """Each failure of the API has its exit status and one sentence, without traceback and without the token."""
    endpoint.fault = fault
    result = call_command(home, "once", **api)
    assert result.returncode == status
    assert result.stdout == ""
    assert result.stderr.startswith("claude-usage-mqtt: ")
    assert result.stderr.count("\n") == 1
    assert TOKEN not in result.stderr


def test_the_api_is_not_asked_while_the_service_waits(
    home: Path, endpoint: Endpoint, given: dict[str, Any], watcher: Watcher
) -> None:
    """A request too many would lengthen the API's refusal: what the service has published is obeyed, unless forced."""
    waits, over = (
        {"retry_at": (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat(timespec="seconds")}
        for minutes in (40, -1)
    )
    watcher.publish(HEALTH, json.dumps(waits), retain=True)
    once, check = call_command(home, "once", **given), call_command(home, "check", **given)
    assert endpoint.count == 0
    assert (once.returncode, once.stdout) == (5, "")
    until = local_time(datetime.fromisoformat(waits["retry_at"]))
    assert f"must not be asked before {until}: the service was refused" in once.stderr
    assert re.match(r"- +The API must not be asked before .*--force", report(check)["api"])
    assert check.returncode == 0
    assert call_command(home, "once", "--force", **given).returncode == 0
    assert report(call_command(home, "check", "--force", **given))["api"].startswith("ok")
    assert endpoint.count == 2
    for nothing in (json.dumps(over), "[1]", '{"retry_at": 5}', "no JSON"):
        watcher.publish(HEALTH, nothing, retain=True)
        assert call_command(home, "once", **given).returncode == 0
    assert endpoint.count == 6


def test_check_shows_each_link_of_the_chain(home: Path, given: dict[str, Any], watcher: Watcher) -> None:
    """If everything works, each line says ok, the token is not shown, and nothing stays on the broker."""
    result = call_command(home, "check", MACHINE_NAME="laptop", **given)
    assert watcher.retained() == {}
    found = report(result)
    assert list(found) == ["settings", "credentials", "api", "broker", "publish", "retain", "discovery"]
    assert all(line.startswith("ok ") for line in found.values())
    assert "homeassistant/device/ is writable; nothing announced yet for default" in result.stdout
    assert result.returncode == 0
    assert "user:profile" in result.stdout
    assert TOKEN not in result.stdout + result.stderr


def test_check_names_what_is_not_asked_here(home: Path, given: dict[str, Any]) -> None:
    """A selected source that sends, or is on another machine, has its own line that says so, and what it lacks."""
    found = report(call_command(home, "check", CLAUDE_SOURCE="oauth,statusline,reporter", **given))
    assert "it sends on its own; it does not have a model's week" in found["statusline"]
    assert "run 'claude-usage-mqtt check' on their machines" in found["reporter"]


def test_variables_of_other_programs_are_shown(home: Path, given: dict[str, Any]) -> None:
    """A name like a setting of ours that may be another program's is a line of `check` and a warning of `run`."""
    given |= {"MQTT_TOPIC": "house/energy", "POLLING_INTERVAL": "10"}
    result = call_command(home, "check", **given)
    with ServiceProcess(home, CLAUDE_CONFIG_DIR=home / ".claude", **given) as process:
        process.log.wait_for("Publishing at")
    for name, ours in {"MQTT_TOPIC": "MQTT_BASE_TOPIC", "POLLING_INTERVAL": "POLL_INTERVAL"}.items():
        sentence = f"{name} is not a setting of this program; if it is meant for it, its name is {ours}."
        assert re.search(rf"^variables +- +{re.escape(sentence)}$", result.stdout, re.MULTILINE), result.stdout
        assert process.log.count(sentence) == 1
    assert result.returncode == 0
    assert "house/energy" not in result.stdout + process.log.text


def test_check_in_a_container_asks_for_the_name_of_a_reporter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`report` ends in a container without MACHINE_NAME: `check` says so before."""
    for is_container in (True, False):
        monkeypatch.setattr(machine, "is_container", lambda is_container=is_container: is_container)
        monkeypatch.setattr(machine.socket, "gethostname", lambda: "laptop")
        for given, is_missing in (({}, is_container), ({"MACHINE_NAME": "nas"}, False)):
            found = report(call_command(home, "check", CLAUDE_SOURCE="reporter", **given)).get("machine", "")
            assert ("MACHINE_NAME is not set" in found) is is_missing
            assert ("'claude-usage-mqtt report'" in found) is is_missing


def report(check: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return what `check` said about each link: `ok`, `FAIL` or `-`, and a sentence."""
    return dict(re.findall(r"^(\w+):? +((?:ok|FAIL|-) .*)$", check.stdout, re.MULTILINE))


Allowed = Callable[..., contextlib.AbstractContextManager[tuple[dict[str, Any], Watcher]]]


@pytest.fixture
def allowed(api: dict[str, Any]) -> Allowed:
    """Return what runs a broker whose user has limited rights; it yields the user's settings, and a watcher of all."""

    @contextlib.contextmanager
    def allowed(*rules: str, **settings: Any) -> Iterator[tuple[dict[str, Any], Watcher]]:
        acl = "\n".join(["user us", *(f"topic {rule}" for rule in rules), "user owner", "topic readwrite #", ""])
        with (
            Mosquitto(users={"us": "u", "owner": "o"}, acl=acl) as broker,
            Watcher(broker.port, username="owner", password="o") as watcher,
        ):
            login = {"MQTT_HOST": LOOPBACK, "MQTT_PORT": broker.port, "MQTT_USERNAME": "us", "MQTT_PASSWORD": "u"}
            yield {**api, **login, **settings}, watcher

    return allowed


both_protocols = pytest.mark.parametrize("protocol", ["5", "3.1.1"])


@needs_mosquitto
@both_protocols
def test_check_if_reading_is_not_allowed(
    home: Path, allowed: Allowed, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One missing permission is reported once: what could not be tried without it is not called broken."""
    monkeypatch.setattr(check_rights, "ANSWER_WITHIN", 0.5)
    with allowed("write claude-usage/#", "write homeassistant/#", MQTT_PROTOCOL=protocol) as (settings, _):
        result = call_command(home, "check", **settings)
    found = report(result)
    assert re.match("FAIL .*allow this user to read and write claude-usage/#", found["publish"])
    for link in ("retain", "discovery"):
        assert re.match("- +not checked: ", found[link])
    assert result.stdout.endswith("Fix the FAIL, then run `check` again.\n")
    assert (result.returncode, result.stderr) == (8, "")


@needs_mosquitto
@both_protocols
def test_check_if_writing_is_not_allowed(home: Path, allowed: Allowed, protocol: str) -> None:
    """Whether the broker refuses or disconnects, the permission to add is reported, but not its consequences."""
    with allowed("read claude-usage/#", MQTT_PROTOCOL=protocol) as (settings, _):
        result = call_command(home, "check", **settings)
    found = report(result)
    assert re.match("FAIL .*allow this user to (write|read and write) ", found["publish"])
    assert (result.returncode, result.stdout.count("FAIL ")) == (8, 1)
    assert found["retain"][0] == found["discovery"][0] == "-"


LINE = "claude-usage/default/statusline"
ANSWER = "claude-usage/reporter/laptop/answer"


@needs_mosquitto
@both_protocols
def test_check_with_the_login_of_a_laptop(home: Path, allowed: Allowed, protocol: str) -> None:
    """With the rights that the README gives a laptop, everything is ok there, and what `run` would need is added."""
    found = re.search(r"^  user laptop\n((?:  topic .*\n)+)", README, re.MULTILINE)
    rules = [line.strip().removeprefix("topic ") for line in found[1].splitlines()]
    assert f"write {LINE}" in rules
    with allowed(*rules, MQTT_PROTOCOL=protocol, MACHINE_NAME="laptop") as (settings, _):
        laptop = call_command(home, "check", **settings)
    assert (laptop.returncode, laptop.stderr) == (0, "")
    publishing = report(laptop)["publish"]
    assert publishing.startswith(f"ok    this user may report (what is published under {ANSWER} arrives)")
    sends = f"may report (what is published under {ANSWER} arrives) and send a status line ({LINE});"
    unclear = f"; MQTT 3.1.1 does not show whether it may write {LINE}"
    assert (sends if protocol == "5" else unclear) in publishing
    assert publishing.endswith("for 'claude-usage-mqtt run' it would have to read and write claude-usage/#")


@needs_mosquitto
@pytest.mark.parametrize(("protocol", "rule"), [("5", "write"), ("3.1.1", "readwrite")])
def test_check_with_the_login_of_a_status_line(home: Path, allowed: Allowed, protocol: str, rule: str) -> None:
    """A login that may send only the status line is ok for that, and the check leaves nothing behind."""
    with allowed(f"{rule} {LINE}", MQTT_PROTOCOL=protocol, CLAUDE_SOURCE="statusline") as (settings, watcher):
        result = call_command(home, "check", **settings)
        watcher.settle()
        assert [message.payload for message in watcher.messages(LINE)] == [""]
        assert watcher.retained() == {}
    assert (result.returncode, result.stderr) == (0, "")
    said = f"ok    this user may send a status line ({LINE}); for 'claude-usage-mqtt run' it would"
    assert report(result)["publish"].startswith(said)


NEEDS = "allow this user to read and write claude-usage/#"
REPORTS, SENDS = f"readwrite {ANSWER}", f"write {LINE}"
DESKTOP, LAPTOP = {"MACHINE_NAME": "desktop"}, {"MACHINE_NAME": "laptop"}
OTHER_LOGINS: dict[str, tuple[list[str], dict[str, str], int, str]] = {
    "of another machine": ([REPORTS], DESKTOP, 8, f"; {NEEDS}."),
    "of another machine, MQTT 3.1.1": ([REPORTS], DESKTOP | {"MQTT_PROTOCOL": "3.1.1"}, 8, f"; {NEEDS}."),
    "a laptop whose name is not the one in the rules": (
        [REPORTS, SENDS],
        {"MACHINE_NAME": "My-Laptop"},
        0,
        "; to report as my_laptop it would have to read and write claude-usage/reporter/my_laptop, …/ask and …/answer;",
    ),
    "a laptop whose status line would be lost": (
        [REPORTS],
        LAPTOP | {"CLAUDE_SOURCE": "statusline"},
        8,
        f"FAIL  The broker refused {LINE}, so no status line arrives; allow this user to write there.",
    ),
    "a laptop that need not send one": ([REPORTS], LAPTOP, 0, f"; for the status line it would have to {SENDS};"),
    "a reporter in a container that has no name": (
        [REPORTS],
        {"container": "docker"},
        8,
        f"{NEEDS}, or set MACHINE_NAME if this is a reporter's login.",
    ),
}


@needs_mosquitto
@pytest.mark.parametrize(("rules", "more", "status", "said"), OTHER_LOGINS.values(), ids=OTHER_LOGINS)
def test_check_with_a_login_that_lacks_rights(
    home: Path, allowed: Allowed, rules: list[str], more: dict[str, str], status: int, said: str
) -> None:
    """What would be silently lost is a failure if it is selected, otherwise a remark; what to allow is named."""
    with allowed(*rules, **more) as (settings, _):
        result = call_command(home, "check", **settings)
    assert result.returncode == status
    assert said in report(result)["publish"]


@needs_mosquitto
@both_protocols
def test_check_if_announcing_is_not_allowed(home: Path, allowed: Allowed, protocol: str) -> None:
    """A user that may not write discovery messages is detected before and after the first one, and nothing changes."""
    rules = ("readwrite claude-usage/#", "read homeassistant/#")
    with allowed(*rules, MQTT_PROTOCOL=protocol) as (settings, watcher):
        owner = settings | {"MQTT_USERNAME": "owner", "MQTT_PASSWORD": "o"}
        forbidden = [call_command(home, "check", **settings)]
        assert watcher.retained() == {}
        with ServiceProcess(home, **owner, CLAUDE_CONFIG_DIR=home / ".claude") as service:
            watcher.wait_topic(HEALTH, lambda message: message.json()["fresh"])
            assert service.stop() == 0
        before = watcher.retained()
        forbidden.append(call_command(home, "check", **settings))
        permitted = call_command(home, "check", **owner)
        assert watcher.retained() == before
    for result in forbidden:
        assert (result.returncode, result.stderr) == (8, "")
        assert result.stdout.endswith("Fix the FAIL, then run `check` again.\n")
        remedy = "allow this user to read and write homeassistant/device/+/config"
        assert re.match(f"FAIL .*{re.escape(remedy)}", report(result)["discovery"])
    assert permitted.returncode == 0
    assert report(permitted)["discovery"].startswith("ok")


@needs_mosquitto
@both_protocols
@pytest.mark.parametrize(
    ("rules", "verdict"),
    [(("readwrite homeassistant/#", f"deny {CONFIG}"), "FAIL"), ((f"readwrite {CONFIG}",), "ok")],
    ids=["only ours is forbidden", "only ours is allowed"],
)
def test_check_tries_the_topic_that_the_service_announces_under(
    home: Path, allowed: Allowed, protocol: str, rules: tuple[str, ...], verdict: str
) -> None:
    """Even before the first announcement the right topic is tried; nothing that is known under it is removed."""
    with allowed("readwrite claude-usage/#", *rules, MQTT_PROTOCOL=protocol) as (settings, watcher):
        result = call_command(home, "check", **settings)
        watcher.settle()
        assert watcher.retained() == {}
        tried = watcher.messages(CONFIG)
    assert (result.returncode, result.stderr) == (0 if verdict == "ok" else 8, "")
    assert report(result)["discovery"].startswith(verdict)
    # an empty message removes the device in Home Assistant, and it logs what it does not understand
    assert all(message.json() == {"migrate_discovery": True} for message in tried)
    assert bool(tried) is (verdict == "ok")


@needs_mosquitto
def test_check_with_the_client_id_of_the_service(home: Path, mosquitto: Mosquitto, api: dict[str, Any]) -> None:
    """`check` connects with MQTT_CLIENT_ID, as the service does, but never disconnects a running service."""
    given = {"MQTT_HOST": LOOPBACK, "MQTT_PORT": mosquitto.port, "MQTT_CLIENT_ID": "attic", **api}
    alone = call_command(home, "check", **given)
    mosquitto.log.wait_for(" as attic (")
    with ServiceProcess(home, CLAUDE_CONFIG_DIR=home / ".claude", **given) as process:
        process.log.wait_for("Publishing at")
        second = call_command(home, "check", **given)
        assert process.stop() == 0
    assert "was lost" not in process.log.text
    assert (alone.returncode, second.returncode) == (0, 0)
    assert report(alone)["client_id"].startswith("ok")
    assert re.match("- +not checked: the service is online, and may be conn", report(second)["client_id"])


def test_check_keeps_its_columns_with_several_accounts(home: Path, api: dict[str, Any]) -> None:
    """However long the accounts' names are, the results line up."""
    write_credentials(home / "work", token=TOKEN)
    accounts = json.dumps({"the one at work": str(home / "work"), "me": str(home / ".claude")})
    result = call_command(home, "check", CLAUDE_ACCOUNTS=accounts, **api)
    starts = {
        re.match(r"(?:settings|(?:credentials|api)(?: \w+)?|broker) +", line) for line in result.stdout.splitlines()
    }
    assert {found.end() for found in starts if found is not None} == {len("credentials the_one_at_work ")}


def test_check_tries_the_log_of_the_numbers(home: Path, given: dict[str, Any]) -> None:
    """A USAGE_LOG that could not be written is reported before the service loses its lines, and no file is made."""
    good, missing = home / "usage.jsonl", home / "nowhere" / "usage.jsonl"
    for path, verdict, said in (
        (good, "ok", f"{good} can be written"),
        (missing, "FAIL", f"the folder {missing.parent} does not exist"),
        (home, "FAIL", "is a folder"),
        (home / ("x" * 300) / "usage.jsonl", "FAIL", "does not exist"),
    ):
        result = call_command(home, "check", **given, USAGE_LOG=path, TZ="x" * 300)
        assert re.match(f"{verdict} +.*{re.escape(said)}", report(result)["usage_log"])
        assert result.returncode == (0 if verdict == "ok" else 2)
        assert not good.exists()


def test_an_answer_of_which_nothing_is_understood(home: Path, endpoint: Endpoint, api: dict[str, Any]) -> None:
    """Sections that are all malformed are an error that names them, not an account without limits."""
    endpoint.document = {"five_hour": {"utilization": "much"}, "seven_day": [], "extra_usage": 5}
    once, check = (call_command(home, command, **api) for command in ("once", "check"))
    assert (once.returncode, once.stdout, once.stderr.count("\n")) == (7, "", 1)
    assert check.returncode == 7
    for said in (once.stderr, report(check)["api"]):
        assert "(five_hour, seven_day, extra_usage)" in said


def test_an_answer_that_is_understood_in_part(home: Path, endpoint: Endpoint, api: dict[str, Any]) -> None:
    """`check` names the sections that are missing from the numbers."""
    endpoint.document = sample_usage(extra_usage=5)
    found = report(call_command(home, "check", **api))
    assert re.fullmatch("ok +Session 42 %.*; not understood: extra_usage", found["api"])


def test_check_with_a_socket_that_is_not_there(home: Path, api: dict[str, Any]) -> None:
    """A unix socket has no port, and none is mentioned."""
    path = home / "socket"
    result = call_command(home, "check", MQTT_TRANSPORT="unix", MQTT_HOST=path, **api)
    assert f"No connection to the broker at {path} (No such file" in result.stdout
    assert "MQTT_PORT" not in result.stdout


def test_check_continues_after_a_failure_and_ends_with_the_first(tmp_path: Path) -> None:
    """With neither login nor broker both are reported, and the exit status is that of the login."""
    result = call_command(tmp_path, "check", MQTT_HOST="127.0.0.1", MQTT_PORT=1)
    assert result.returncode == 3
    assert re.match("FAIL .*log in with Claude Code", report(result)["credentials"])
    assert re.match("FAIL .*MQTT_PORT", report(result)["broker"])
    assert result.stdout.endswith("\nFix each FAIL, then run `check` again.\n")


def test_check_says_at_its_end_what_to_do(home: Path, given: dict[str, Any]) -> None:
    """Each mistake must be fixed, also in the settings; a name without effect is a line; success is reported."""
    good = call_command(home, "check", **given, MQTT_HOTS="x")
    bad = call_command(home, "check", POLL_INTERVAL="soon")
    assert (good.returncode, bad.returncode) == (0, 2)
    assert "- Unknown setting MQTT_HOTS is ignored; MQTT_HOST is set too.\n" in re.sub(" +", " ", good.stdout)
    assert good.stdout.endswith("\nEverything that was checked works.\n")
    assert bad.stdout.endswith("\nFix the FAIL, then run `check` again.\n")


@pytest.mark.parametrize("command", [(), ("report",), ("guard",), ("remove",), ("watch",), ("check",)])
def test_without_a_broker_setting(home: Path, api: dict[str, Any], command: tuple[str, ...]) -> None:
    """A command that needs a broker says that none is set and ends with 2; `check` also reports everything else."""
    result = call_command(home, *command, MACHINE_NAME="laptop", **api)
    assert result.returncode == 2
    assert "MQTT_HOST is not set" in (result.stdout if command == ("check",) else result.stderr)
    assert command == ("check",) or result.stdout == ""


LEFT_BEHIND = "ha_old/device/claude_usage_default/config"


@pytest.mark.usefixtures("published")
def test_remove_takes_ours_and_nothing_else(home: Path, given: dict[str, Any], watcher: Watcher) -> None:
    """`remove` removes everything we have retained, nothing of others, and says what; next to a publisher, little."""
    others = {
        "claude-usage-other/status": "online",
        "homeassistant/device/claude_usage_foreign/config": '{"origin": {"name": "somebody else"}}',
        "homeassistant/sensor/x/config": "{}",
        "claude-usage/notes": "a person's own",
    }
    for topic, payload in others.items():
        watcher.publish(topic, payload, retain=True)
    watcher.publish(STATUS, "online", retain=True)
    before = watcher.retained()
    assert len(before) == len(others) + 5
    too_early = call_command(home, "remove", **given)
    assert (too_early.returncode, too_early.stdout) == (2, "")
    assert "A publisher still runs (claude-usage/status says online)" in too_early.stderr
    watcher.publish(LEFT_BEHIND, before[CONFIG], retain=True)
    left_behind = call_command(home, "remove", **given, HOMEASSISTANT_PREFIX="ha_old")
    assert (left_behind.returncode, left_behind.stdout) == (0, f"removed {LEFT_BEHIND}\n"), left_behind.stderr
    assert watcher.retained() == before
    watcher.publish(STATUS, "offline", retain=True)
    result = call_command(home, "remove", **given)
    assert result.returncode == 0, result.stderr
    assert watcher.retained() == others
    assert result.stdout.splitlines() == [
        "removed homeassistant/device/claude_usage_default/config",
        "removed claude-usage/default/health",
        "removed claude-usage/default/memory",
        "removed claude-usage/default/state",
        "removed claude-usage/status",
        "None of our topics are left on the broker.",
    ]


def test_demo_shows_topics_changing_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    """`demo` says where its broker is, any client sees the topics there, windows move, and Ctrl-C ends it cleanly."""
    environment = clean_environment(tmp_path, {"PYTHONUNBUFFERED": "1"})
    with LoggedProcess(command_line("demo"), env=environment, cwd=tmp_path, stdout=subprocess.PIPE) as demo:
        where = re.search(r"127\.0\.0\.1:(\d+)", demo.process.stdout.readline())
        with Watcher(int(where.group(1))) as watcher:
            first = watcher.wait_topic(STATE).json()["windows"]["seven_day"]["utilization"]
            watcher.wait_topic(
                STATE, lambda message: message.json()["windows"]["seven_day"]["utilization"] not in (None, first)
            )
        demo.process.send_signal(signal.SIGINT)
        output = demo.process.stdout.read()
        assert demo.stop() == 0, demo.log.text
    assert "Session [" in output
    assert demo.log.text == ""


@pytest.mark.usefixtures("published")
def test_demo_on_a_named_broker_leaves_it_as_it_was(home: Path, given: dict[str, Any], watcher: Watcher) -> None:
    """On the home's broker, the demo touches nothing real, and removes its own topics."""
    before = watcher.retained()
    with ServiceProcess(home, ("demo",), **given) as demo:
        watcher.wait_topic("claude-usage-demo/demo/state")
        assert demo.stop(signal.SIGINT) == 0
    assert watcher.retained() == before


def test_a_reader_who_leaves_ends_the_output_without_a_traceback(home: Path, api: dict[str, Any]) -> None:
    """`once | head -0` prints nothing on standard error."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    environment = clean_environment(home, {**api, "PYTHONUNBUFFERED": "1"})
    with LoggedProcess(command_line("once"), env=environment, stdout=write_end) as once:
        os.close(write_end)
        once.process.wait(60)
    assert once.log.text == ""


def test_help_explains_the_exit_status(tmp_path: Path) -> None:
    """`--help` is enough to find one's way; its commands are those of the README's table, which a test compares."""
    result = run_command(tmp_path, "--help")
    assert (result.returncode, "8 the broker" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "unknown command frobnicate; see --help"),
        (["chek"], "unknown command chek; did you mean check?"),
        (["health-check"], "unknown command health-check; did you mean healthcheck?"),
        (["recipe", "nonsense"], "Unknown recipe nonsense; 'claude-usage-mqtt recipe' lists them."),
        (["recipe", "dashbord"], "Unknown recipe dashbord; did you mean dashboard?"),
        (["once", "--jsn"], "unrecognized arguments: --jsn"),
        (["healthcheck", "extra"], "unrecognized arguments: extra"),
        (["guard", "--below", "abc"], "argument --below: abc is not a percentage above 0 and up to 100"),
        (["guard", "--below", "101"], "argument --below: 101 is not a percentage above 0 and up to 100"),
    ],
)
def test_wrong_usage_ends_with_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    """An unknown command or option is refused, with a hint that helps to correct it."""
    result = call_command(tmp_path, *arguments)
    assert result.returncode == 2
    assert result.stderr.endswith(f": {said}\n")


def test_an_error_of_our_own_shows_its_place_and_no_traceback(
    home: Path, api: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen fault is one line with its place, to be reported, without the error's text."""

    def standing(*_: object) -> None:
        raise RuntimeError(TOKEN)

    monkeypatch.setattr(AccountUsage, "standing", standing)
    result = call_command(home, "once", **api)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "RuntimeError in test_cli.py:" in result.stderr
    assert TOKEN not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("by", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", ["once", "check"])
def test_a_signal_ends_a_command_without_a_trace(home: Path, command: str, by: signal.Signals, status: int) -> None:
    """A command that is ended in the middle shows no traceback, and what it started ends and cleans up."""
    started = home / "started"
    program = home / "claude"
    program.write_text(f"#!/bin/sh\nsleep 0.2; pwd > {started}.new; mv {started}.new {started}; sleep 600\n")
    program.chmod(0o755)
    settings = {"CLAUDE_SOURCE": "claude-code", "CLAUDE_CODE_COMMAND": program}
    with ServiceProcess(home, (command,), **settings) as process:
        eventually(started.exists)
        assert process.stop(by) == status
    assert process.log.text == ""
    eventually(lambda: not Path(started.read_text().strip()).exists())
