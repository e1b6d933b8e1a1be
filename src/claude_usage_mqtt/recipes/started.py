"""What a file that starts the program must know about this machine: where the program is and whose login it reads.

Each kind of file has its own quoting; what is printed works unchanged.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from claude_usage_mqtt.settings.machine import is_container

NAME = "claude-usage-mqtt"

HIDDEN = ("/home", "/root", "/run/user")
"""What systemd's `ProtectHome=tmpfs` hides."""


def program() -> Path:
    """Return the absolute path of the program, as it was installed: in a venv, by uv or pipx, or with `pip --user`."""
    name = f"{NAME}.exe" if os.name == "nt" else NAME
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    places = [Path(sysconfig.get_path("scripts", scheme), name) for scheme in schemes]
    return next((place for place in places if place.is_file()), places[0])


def warning() -> str | None:
    """Return why the file may not work where it is used; None if it will."""
    if is_container():
        return "Printed in a container: if it is used outside, install the program there, and print it there."
    return None if program().is_file() else f"There is no {program()}; install the program, and print it again."


def for_systemd(command: str) -> Mapping[str, str]:
    """Return the values of a unit."""
    login = os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude"
    seen = [f"-{_absolute(login)}", *hidden(needed())]
    return {
        "@PROGRAM@": shlex.quote(str(program())),
        "@START@": f"{quoted_for_systemd(str(program()))} {command}",
        "@USER@": _user(),
        "@LOGIN@": quoted_for_systemd(f"CLAUDE_CONFIG_DIR={_absolute(login)}"),
        "@SEEN@": " ".join(quoted_for_systemd(folder) for folder in seen),
        "@PATH@": quoted_for_systemd(f"PATH={_path()}"),
        "@MACHINE@": " MACHINE_NAME=laptop" if is_container() else "",
    }


def for_launchd(command: str) -> Mapping[str, str]:
    """Return the values of an agent for macOS."""
    path = shlex.quote(str(program()))
    return {
        **_names(command, "launchd"),
        "@PROGRAM@": path.replace("--", "-'-'"),  # the same to a shell; two hyphens would end an XML comment
        "@START@": escape(path, quote=False),
        "@PATH@": escape(_path(), quote=False),
    }


def for_windows(command: str) -> Mapping[str, str]:
    """Return the values of a task."""
    quoted = re.sub(r'([`$"])', r"`\1", str(program())).replace("--", "-`-")
    return {
        **_names(command, "task-scheduler"),
        "@PROGRAM@": f'& "{quoted}"',
        "@START@": escape(str(program()), quote=False),
    }


def _names(command: str, kind: str) -> dict[str, str]:
    """Return what differs between the two recipes of a file."""
    what, recipe = ("The publisher", kind) if command == "run" else ("The reporter", f"{kind}-{command}")
    return {"@WHAT@": what, "@RECIPE@": recipe, "@COMMAND@": command}


def _path() -> str:
    """Return where this shell finds programs, each folder once."""
    return ":".join(dict.fromkeys(filter(None, os.environ.get("PATH", os.defpath).split(":"))))


def _user() -> str:
    try:
        import pwd  # noqa: PLC0415 - not on Windows

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return "claude"


def quoted_for_systemd(text: str) -> str:
    """Return a word as systemd reads it back."""
    text = text.replace("%", "%%")
    if re.fullmatch(r"[-\w./%@+=,~]+", text):
        return text
    return '"{}"'.format(text.replace("\\", r"\\").replace('"', r"\""))


def _absolute(path: str | Path) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - links stay


def needed() -> set[str]:
    """Return the folders that are read when the program starts: its own, its package's, and Python's, link by link."""
    files = [str(program()), sys.executable]
    while Path(files[-1]).is_symlink():
        files.append(_absolute(Path(files[-1]).parent / Path(files[-1]).readlink()))
    folders = {str(Path(file).parent.parent) for file in files}
    return folders | {sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])}


def hidden(folders: Iterable[str]) -> list[str]:
    """Return those that `ProtectHome` would hide, without what is in another one."""
    found = {Path(folder) for folder in folders if any(Path(folder).is_relative_to(place) for place in HIDDEN)}
    return sorted(str(folder) for folder in found if found.isdisjoint(folder.parents))
