"""The one recipe that is a folder: a Home Assistant app, written with the version and the image it starts."""

from __future__ import annotations

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
    template = Path(__file__).with_name("home_assistant_app")
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise SettingsError(
                f"{folder} is not empty, and nothing in it is overwritten; delete it or name another one."
            )
        for source in sorted(file for file in template.rglob("*") if file.is_file()):
            target = folder / source.relative_to(template)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = source.read_bytes()
            for mark, value in VALUES.items():
                content = content.replace(mark.encode(), value.encode())
            target.write_bytes(content)
            written.append(target)
    except OSError as error:
        raise SettingsError(f"The app cannot be written to {folder}: {error.strerror}.") from None
    return written
