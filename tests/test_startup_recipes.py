"""The files that start the program with a box or a login: systemd, launchd, Task Scheduler.

Only systemd is on the machines that run these tests; what belongs to macOS and Windows is parsed and checked by name.
"""

import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from claude_usage_mqtt.recipes import RECIPES

COMMANDS = {"": "run", "-report": "report"}
TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


def unit(name: str) -> dict[str, dict[str, list[str]]]:
    """Parse a unit: sections, and in them each key with its values."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in RECIPES[name].text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = found.setdefault(match[1], {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("suffix", COMMANDS)
@pytest.mark.parametrize("kind", ["systemd", "launchd", "task-scheduler"])
def test_no_mark_is_left(kind: str, suffix: str) -> None:
    """What is printed is complete and names the recipe it came from."""
    text = RECIPES[kind + suffix].text()
    assert not re.search(r"@[A-Z]+@", text)
    assert f"recipe {kind}{suffix} " in text or f"recipe {kind}{suffix})" in text


@pytest.mark.parametrize(("name", "command"), [("systemd", "run"), ("systemd-report", "report")])
def test_a_unit_starts_its_command_and_does_not_repeat_a_mistake(name: str, command: str) -> None:
    """A wrong setting ends the unit instead of restarting it every ten seconds."""
    service = unit(name)["Service"]
    assert service["ExecStart"][0].endswith(f"bin/claude-usage-mqtt {command}")
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2"]


def test_the_unit_waits_for_the_time_and_for_the_network() -> None:
    """A box whose clock starts in 1970 does not ask with a token that seems valid forever."""
    found = unit("systemd")["Unit"]
    assert set(found["After"][0].split()) == {"network-online.target", "time-sync.target"}
    assert found["After"] == found["Wants"]


def test_the_unit_needs_no_credentials_of_systemd() -> None:
    """In an LXC container LoadCredential can give empty files: the password is read from a plain file."""
    service = unit("systemd")["Service"]
    assert "LoadCredential" not in service
    (login,) = [value for value in service["Environment"] if "MQTT_PASSWORD_FILE" in value]
    assert "MQTT_PASSWORD_FILE=/etc/claude-usage-mqtt/mqtt-password" in login.split()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", ["systemd", "systemd-report"])
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    """No key is misspelled or in the wrong section: systemd itself reads the unit without a warning."""
    path = tmp_path / "claude-usage-test.service"
    # what it starts, and who, has to exist to be verified
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", RECIPES[name].text(), flags=re.MULTILINE)
    path.write_text(text.replace("User=claude", "User=daemon"), encoding="utf-8")
    mode = "--user" if name.endswith("report") else "--system"
    command = ["systemd-analyze", "verify", mode, "--man=no", "--recursive-errors=no", str(path)]
    ended = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in ended.stderr.splitlines() if path.name in line] == []


@pytest.mark.parametrize("suffix", COMMANDS)
def test_launchd_agent(suffix: str) -> None:
    """Launchd starts the right command at login, again after a crash, and not after a clean end."""
    agent = plistlib.loads(RECIPES["launchd" + suffix].text().encode())
    shell, option, script = agent["ProgramArguments"]
    assert (shell, option) == ("/bin/sh", "-c")
    words = shlex.split(script)
    assert words[words.index("exec") + 1 :][:2] == ["$HOME/.local/bin/claude-usage-mqtt", COMMANDS[suffix]]
    assert agent["Label"] == f"claude-usage-mqtt.{COMMANDS[suffix]}"
    assert agent["RunAtLoad"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["Umask"] == 0o077


@pytest.mark.skipif(os.name != "posix", reason="launchd starts a POSIX shell")
@pytest.mark.parametrize("suffix", COMMANDS)
def test_the_shell_of_the_launchd_agent_becomes_the_program(suffix: str, tmp_path: Path) -> None:
    """The script works in a shell: it runs in the settings' folder, and the log goes where macOS keeps logs."""
    program = tmp_path / ".local/bin/claude-usage-mqtt"
    for folder in (program.parent, tmp_path / ".config/claude-usage-mqtt", tmp_path / "Library/Logs"):
        folder.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$1 in $PWD" >&2\n', encoding="utf-8")
    program.chmod(0o755)
    arguments = plistlib.loads(RECIPES["launchd" + suffix].text().encode())["ProgramArguments"]
    subprocess.run(arguments, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    log = (tmp_path / "Library/Logs/claude-usage-mqtt.log").read_text(encoding="utf-8")
    assert log == f"{COMMANDS[suffix]} in {tmp_path}/.config/claude-usage-mqtt\n"


@pytest.mark.parametrize("suffix", COMMANDS)
def test_windows_task(suffix: str) -> None:
    """Windows starts the right command at logon, on battery too, without a time limit, and again if it fails."""
    task = ET.fromstring(RECIPES["task-scheduler" + suffix].text())  # noqa: S314 - our own file

    def text(path: str) -> str | None:
        return task.findtext("/".join(f"{TASK}{part}" for part in path.split("/")))

    assert task.tag == f"{TASK}Task"
    assert text("Actions/Exec/Command") == r"%USERPROFILE%\.local\bin\claude-usage-mqtt.exe"
    assert text("Actions/Exec/Arguments") == COMMANDS[suffix]
    assert text("Actions/Exec/WorkingDirectory") == r"%USERPROFILE%\.config\claude-usage-mqtt"
    assert text("Triggers/LogonTrigger/UserId") == text("Principals/Principal/UserId") == "YOU"
    assert text("Principals/Principal/RunLevel") == "LeastPrivilege"
    assert text("Settings/ExecutionTimeLimit") == "PT0S"
    assert text("Settings/DisallowStartIfOnBatteries") == text("Settings/StopIfGoingOnBatteries") == "false"
    assert text("Settings/RestartOnFailure/Interval") == "PT1M"
