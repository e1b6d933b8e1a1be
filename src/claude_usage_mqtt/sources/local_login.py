"""A login of this machine: where Claude Code keeps it, by platform and by its own variables, and what is next to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.sources.claude_code_cache import FILE_NAME, UsageCache
from claude_usage_mqtt.sources.credentials.file import FILE_NAME as SECRETS_FILE
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.credentials.token import CredentialSource

DEFAULT_FOLDER = "~/.claude"
CONFIG_DIR, SECURE_STORAGE_DIR = "CLAUDE_CONFIG_DIR", "CLAUDE_SECURESTORAGE_CONFIG_DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLogin:
    """Where the credentials are, the `.claude.json` next to them, and Claude Code's variables for this login.

    `secrets` is the file that Claude Code rewrites when the login changes.
    """

    credentials: CredentialSource
    cache: UsageCache = field(default_factory=UsageCache)
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Path = Path(SECRETS_FILE)


def local_login(
    config_dir: str | None, secure_storage_dir: str | None = None, *, setting: str = CONFIG_DIR
) -> LocalLogin:
    """Return the login in the folders that Claude Code's variables name; raises SettingsError.

    None means a variable is not set; that of the secrets may be empty. `setting` is where `config_dir` is written.
    """
    folder = _expanded(config_dir or DEFAULT_FOLDER)
    inside, next_to_it = folder / FILE_NAME, folder.parent / FILE_NAME
    variables, cache = {CONFIG_DIR: str(folder)}, UsageCache(inside)
    # Claude Code treats its default folder differently if the variable names it; so it is named only if it was.
    if config_dir is None:
        variables, cache = {}, UsageCache(next_to_it)
    elif _is_default(folder):
        is_there = os.path.exists(inside)  # noqa: PTH110 - Path's raises on a mount that is gone
        variables, cache = variables if is_there else {}, UsageCache(inside, next_to_it)
    secrets = config_dir or None
    if secure_storage_dir is not None:
        # It goes first even if it is empty, which means the default folder.
        secrets, setting = secure_storage_dir or None, SECURE_STORAGE_DIR
        variables[SECURE_STORAGE_DIR] = str(_expanded(secrets)) if secrets else ""
    place = _expanded(secrets or DEFAULT_FOLDER)
    return LocalLogin(
        credentials=_credentials(secrets, place, setting),
        cache=cache,
        variables=variables,
        secrets=place / SECRETS_FILE,
    )


def _credentials(folder: str | None, path: Path, setting: str) -> CredentialSource:
    is_mac = sys.platform == "darwin"
    if not is_mac:
        return CredentialsFile(path, setting)
    from claude_usage_mqtt.sources.credentials.keychain import Keychain, item_names  # noqa: PLC0415 - memory

    return Keychain(path, item_names(folder, path, _expanded(DEFAULT_FOLDER)))


def _is_default(path: Path) -> bool:
    """Whether a path is that of the default folder. A user without a home, as in a container, has none."""
    try:
        return path == Path(DEFAULT_FOLDER).expanduser()
    except RuntimeError:
        return False


def _expanded(folder: str) -> Path:
    """Return the path of a folder that may begin with `~`; raises SettingsError."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        is_ours = folder == DEFAULT_FOLDER  # then perhaps nobody has written it
        remedy = f"set HOME, or {CONFIG_DIR} to the whole path of that folder" if is_ours else "write the whole path"
        raise SettingsError(f"The home folder in {folder} is not known; {remedy}.") from None
