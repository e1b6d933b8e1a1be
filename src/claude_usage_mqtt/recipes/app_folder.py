"""The one recipe that is a folder: a Home Assistant app, written with the version and the image it starts."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from claude_usage_mqtt import __version__
from claude_usage_mqtt.errors import SettingsError

NAME = "home-assistant-app"
ABOUT = "a Home Assistant app; add the folder to write it to"
URL = "https://github.com/claude-usage-mqtt/claude-usage-mqtt"
IMAGE = "ghcr.io/claude-usage-mqtt/claude-usage-mqtt"
"""Where the release workflow puts the image; it refuses to release from a repository of another name."""

VALUES = {"@VERSION@": __version__, "@URL@": URL, "@IMAGE@": IMAGE}


def write(folder: Path) -> list[Path]:
    """Write the app into `folder`, new or empty, and return its files; raises SettingsError if that is impossible."""
    written = []
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise SettingsError(
                f"{folder} is not empty, and nothing in it is overwritten; delete it or name another one."
            )
        for name, source in _files(files(__package__).joinpath("home_assistant_app")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = source.read_bytes()
            target.write_bytes(content if target.suffix == ".png" else _filled(content))
            written.append(target)
    except OSError as error:
        raise SettingsError(f"The app cannot be written to {folder}: {error.strerror}.") from None
    return written


def _files(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}{each.name}"
        found += _files(each, f"{name}/") if each.is_dir() else [(name, each)]
    return found


def _filled(content: bytes) -> bytes:
    text = content.decode("utf-8")
    for mark, value in VALUES.items():
        text = text.replace(mark, value)
    return text.encode("utf-8")
