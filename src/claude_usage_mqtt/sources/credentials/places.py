"""Where Claude Code keeps a login, by platform and by its own variables."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.credentials.token import CredentialSource

DEFAULT_FOLDER = "~/.claude"
CONFIG_DIR, SECURE_STORAGE_DIR = "CLAUDE_CONFIG_DIR", "CLAUDE_SECURESTORAGE_CONFIG_DIR"


def find_source(folder: str | None, platform: str | None = None, setting: str = CONFIG_DIR) -> CredentialSource:
    """Return where Claude Code keeps the credentials of a folder, named as a person wrote it; None is the default one.

    Raises SettingsError if the home folder is needed and not known.
    """
    path = expanded(folder or DEFAULT_FOLDER)
    if (platform or sys.platform) == "darwin":
        from claude_usage_mqtt.sources.credentials.keychain import Keychain, item_names  # noqa: PLC0415 - memory

        return Keychain(path, item_names(folder or None, path, expanded(DEFAULT_FOLDER)))
    return CredentialsFile(path, setting)


def secrets_folder(variables: Mapping[str, str | None]) -> str | None:
    """Return the folder of the secrets that Claude Code's own variables name; None is the default one.

    The variable for secrets alone goes first even if it is empty, which means the default folder.
    """
    given = variables.get(SECURE_STORAGE_DIR)
    return (variables.get(CONFIG_DIR) if given is None else given) or None


def is_default(path: Path) -> bool:
    """Whether a path is that of the default folder. A user without a home, as in a container, has none."""
    try:
        return path == Path(DEFAULT_FOLDER).expanduser()
    except RuntimeError:
        return False


def expanded(folder: str) -> Path:
    """Return the path of a folder that may begin with `~`; raises SettingsError."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        is_ours = folder == DEFAULT_FOLDER  # then nobody may have written it
        remedy = f"set HOME, or {CONFIG_DIR} to the whole path of that folder" if is_ours else "write the whole path"
        raise SettingsError(f"The home folder in {folder} is not known; {remedy}.") from None
