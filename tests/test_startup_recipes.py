"""The files that start the program at boot or login: systemd, launchd, Task Scheduler.

Only systemd is on the machines that run these tests; the files for macOS and Windows are parsed, and their names
checked.
"""

import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

import pytest

from claude_usage_mqtt.cli.recipe import recipe
from claude_usage_mqtt.recipes import RECIPES, started
from parts.command import clean_environment

COMMANDS = {"": "run", "-report": "report"}
TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


class Installed:
    """The program in a venv in a folder whose name every kind of file has to quote; a stub."""

    def __init__(self, home: Path) -> None:
        self.home = home
        folder = home / "Tom & Co 50% $x--y"
        venv.create(folder, symlinks=True)
        self.path = folder / "bin/claude-usage-mqtt"
        self.path.write_text('#!/bin/sh\necho "$1 in $PWD" >&2\n', encoding="utf-8")
        self.path.chmod(0o755)
        (site,) = folder.glob("lib/python3*/site-packages")
        ours = Path(started.__file__).parents[2]
        (site / "ours.pth").write_text(f"{ours}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")

    def prints(self, name: str) -> str:
        """Return the recipe that this program prints."""
        return subprocess.run(
            [self.path.with_name("python"), "-m", "claude_usage_mqtt", "recipe", name],
            env=clean_environment(self.home, {}),
            cwd=self.home,
            capture_output=True,
            text=True,
            check=True,
        ).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the program."""
    return Installed(tmp_path_factory.mktemp("home"))


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
    """A wrong setting ends the unit instead of restarting it every ten seconds; whoever stops it sees no failure."""
    service = unit(name)["Service"]
    assert service["ExecStart"] == [f"{started.quoted_for_systemd(str(started.program()))} {command}"]
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2"]
    assert service["SuccessExitStatus"] == ["143"], "stopped while it still starts"


def test_the_system_unit() -> None:
    """It waits for the network and for a correct clock, and says at its top what to type (`head -12`).

    In an LXC container LoadCredential can give empty files: the password is in a plain file that systemd reads.
    """
    found = unit("systemd")
    assert set(found["Unit"]["After"][0].split()) == {"network-online.target", "time-sync.target"}
    assert found["Unit"]["After"] == found["Unit"]["Wants"]
    assert "LoadCredential" not in found["Service"]
    assert found["Service"]["EnvironmentFile"] == ["/etc/claude-usage-mqtt/settings.env"]
    lines = RECIPES["systemd"].text().splitlines()
    assert [line[:1] for line in lines[:13]] == ["#"] * 12 + [""]


@posix
def test_the_unit_sees_its_program_wherever_it_is() -> None:
    """A program and a Python in somebody's home folder are shown to the service, and nothing else of it."""
    seen = ["/home/me/tool", "/home/me/tool/lib", "/home/me/py", "/opt/other", "/usr", "/root/.pyenv"]
    assert started.hidden(seen) == ["/home/me/py", "/home/me/tool", "/root/.pyenv"]
    assert sys.base_prefix in started.needed()
    assert str(Path(started.__file__).parents[2]) in started.needed()


def test_the_unit_is_of_the_user_who_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user who is logged in with Claude Code prints it and changes nothing: it has their name and login folder."""
    pwd = pytest.importorskip("pwd")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "/srv/my login")
    service = unit("systemd")["Service"]
    assert service["User"] == [pwd.getpwuid(os.getuid()).pw_name]
    assert service["Environment"] == ['"CLAUDE_CONFIG_DIR=/srv/my login"']
    assert service["BindReadOnlyPaths"][0].startswith('"-/srv/my login"')


def test_in_a_container_the_reporter_gets_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reporter needs MACHINE_NAME only in a container; a path in the image may mean nothing outside."""
    for is_container in (True, False):
        monkeypatch.setattr(started, "is_container", lambda is_container=is_container: is_container)
        assert ("MACHINE_NAME=laptop" in RECIPES["systemd-report"].text()) is is_container
        recipe("systemd-report")
        assert ("Printed in a container" in capsys.readouterr().err) is is_container
    recipe("dashboard")
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", ["systemd", "systemd-report"])
def test_systemd_understands_every_line(name: str, installed: Installed, tmp_path: Path) -> None:
    """Systemd itself reads what is printed without a warning, and finds the program that it starts."""
    path = tmp_path / "claude-usage-test.service"
    path.write_text(installed.prints(name), encoding="utf-8")
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
    assert words[words.index("exec") + 1 :][:2] == [str(started.program()), COMMANDS[suffix]]
    assert agent["Label"] == f"claude-usage-mqtt.{COMMANDS[suffix]}"
    assert agent["RunAtLoad"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["Umask"] == 0o077


@posix
@pytest.mark.parametrize("suffix", COMMANDS)
def test_the_shell_of_the_launchd_agent_becomes_the_program(suffix: str, installed: Installed, tmp_path: Path) -> None:
    """The script works in a shell: it runs in the settings' folder, and the log goes where macOS keeps logs."""
    for folder in (tmp_path / ".config/claude-usage-mqtt", tmp_path / "Library/Logs"):
        folder.mkdir(parents=True)
    arguments = plistlib.loads(installed.prints("launchd" + suffix).encode())["ProgramArguments"]
    subprocess.run(arguments, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    log = (tmp_path / "Library/Logs/claude-usage-mqtt.log").read_text(encoding="utf-8")
    assert log == f"{COMMANDS[suffix]} in {tmp_path}/.config/claude-usage-mqtt\n"


@posix
@pytest.mark.parametrize("name", ["systemd-report", "launchd-report"])
def test_a_password_reaches_the_settings_as_it_is(name: str, installed: Installed, tmp_path: Path) -> None:
    """The command at the top writes any password between its quotes: no character has a special meaning."""
    lines = [line.lstrip("# ") for line in installed.prints(name).splitlines()]
    commands = [line for line in lines if line.startswith(("mkdir", "printf"))]
    script = "\n".join(commands).replace("MQTT_PASSWORD=secret", r'MQTT_PASSWORD=50%s \n$x"')
    subprocess.run(["/bin/sh", "-ec", script], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    written = (tmp_path / ".config/claude-usage-mqtt/.env").read_text(encoding="utf-8").splitlines()
    assert written[:2] == ["MQTT_HOST=192.168.1.10", "MQTT_USERNAME=claude-usage"]
    assert written[2] == r'MQTT_PASSWORD=50%s \n$x"'


@pytest.mark.parametrize("name", ["systemd", "systemd-report"])
def test_the_last_lines_remove_what_the_lines_at_the_top_install(name: str) -> None:
    """Next to the block that installs a unit is one that removes all its files and its topics on the broker."""
    top = RECIPES[name].text().partition("\n\n")[0]
    installs, _, removes = top.partition("# To remove it")
    written = set(re.findall(r"(?:/etc|~/\.config)/[-\w./]+\.(?:service|env)", installs))
    named = set(re.findall(r"(?:/etc|~/\.config)/[-\w./]+", removes.partition("rm -r ")[2]))
    assert len(written) == 2
    assert all(named & {path, str(PurePosixPath(path).parent)} for path in written)
    (unit_name,) = re.findall(r"enable --now (\S+)", installs)
    assert f"disable --now {unit_name}\n" in removes
    assert (" remove\n" in removes) is (name == "systemd")  # a reporter's own topic ends with it


@posix
@pytest.mark.parametrize("name", ["systemd", "systemd-report", "launchd", "launchd-report"])
def test_the_command_at_the_top_prints_the_recipe_again(name: str, installed: Installed) -> None:
    """What the first lines say can be pasted: the program is found, with its whole path."""
    line = next(line for line in installed.prints(name).splitlines() if f" recipe {name} " in line)
    command = re.split(r" [|>] ", line.lstrip("# "))[0]
    ended = subprocess.run(["/bin/sh", "-c", command], cwd="/", capture_output=True, text=True, check=True)
    assert ended.stderr == "recipe in /\n"


def test_claude_code_is_found_as_in_the_shell_that_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At login the PATH is short: the reporter gets that of the shell in which `claude` works, without repeats."""
    monkeypatch.setenv("PATH", "/home/me/.local/bin:/mnt/c/Program Files:/home/me/.local/bin::/a&b:/usr/bin:/a&b")
    agent = plistlib.loads(RECIPES["launchd-report"].text().encode())
    assert agent["EnvironmentVariables"] == {"PATH": "/home/me/.local/bin:/mnt/c/Program Files:/a&b:/usr/bin"}
    service = unit("systemd-report")["Service"]
    assert service["Environment"] == ['"PATH=/home/me/.local/bin:/mnt/c/Program Files:/a&b:/usr/bin"']


@posix
def test_a_windows_task_names_the_program_that_printed_it(installed: Installed) -> None:
    """The path survives XML."""
    task = ET.fromstring(installed.prints("task-scheduler"))  # noqa: S314 - our own file
    assert task.findtext(f"{TASK}Actions/{TASK}Exec/{TASK}Command") == str(installed.path)


@pytest.mark.parametrize("suffix", COMMANDS)
def test_windows_task(suffix: str) -> None:
    """Windows starts the right command at logon, on battery too, without a time limit, and again if it fails."""
    task = ET.fromstring(RECIPES["task-scheduler" + suffix].text())  # noqa: S314 - our own file

    def text(path: str) -> str | None:
        return task.findtext("/".join(f"{TASK}{part}" for part in path.split("/")))

    assert task.tag == f"{TASK}Task"
    assert text("Actions/Exec/Command") == str(started.program())
    assert text("Actions/Exec/Arguments") == COMMANDS[suffix]
    assert text("Actions/Exec/WorkingDirectory") == r"%USERPROFILE%\.config\claude-usage-mqtt"
    assert text("Triggers/LogonTrigger/UserId") == text("Principals/Principal/UserId") == "YOU"
    assert text("Principals/Principal/RunLevel") == "LeastPrivilege"
    assert text("Settings/ExecutionTimeLimit") == "PT0S"
    assert text("Settings/DisallowStartIfOnBatteries") == text("Settings/StopIfGoingOnBatteries") == "false"
    assert text("Settings/RestartOnFailure/Interval") == "PT1M"
