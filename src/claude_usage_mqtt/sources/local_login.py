"""A login of this machine as all its users need it: its credentials, its cache, and what selects it for Claude Code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from claude_usage_mqtt.sources.claude_code_cache import FILE_NAME, UsageCache, cache_of
from claude_usage_mqtt.sources.credentials.file import FILE_NAME as SECRETS_FILE
from claude_usage_mqtt.sources.credentials.places import (
    CONFIG_DIR,
    DEFAULT_FOLDER,
    SECURE_STORAGE_DIR,
    expanded,
    find_source,
    is_default,
    secrets_folder,
)
from claude_usage_mqtt.sources.credentials.token import CredentialSource


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLogin:
    """Where the credentials are, the `.claude.json` next to them, and Claude Code's variables for this login.

    `secrets` is the file that Claude Code rewrites when the login changes.
    """

    credentials: CredentialSource
    cache: UsageCache = field(default_factory=lambda: UsageCache(()))
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Path = Path(SECRETS_FILE)


def local_login(
    config_dir: str | None, secure_storage_dir: str | None = None, *, setting: str = CONFIG_DIR
) -> LocalLogin:
    """Return the login in the folders that Claude Code's variables name; raises SettingsError.

    None is a variable that is not set; that of the secrets may be empty. `setting` is where `config_dir` is written.
    """
    variables: dict[str, str] = {}
    if config_dir is not None:
        path = expanded(config_dir)
        # Claude Code treats its default folder differently if the variable names it; so it is named only if it was.
        if not is_default(path) or (path / FILE_NAME).exists():
            variables[CONFIG_DIR] = str(path)
    if secure_storage_dir is not None:
        variables[SECURE_STORAGE_DIR] = str(expanded(secure_storage_dir)) if secure_storage_dir else ""
        setting = SECURE_STORAGE_DIR
    secrets = secrets_folder({CONFIG_DIR: config_dir, SECURE_STORAGE_DIR: secure_storage_dir})
    return LocalLogin(
        credentials=find_source(secrets, setting=setting),
        cache=cache_of(config_dir),
        variables=variables,
        secrets=expanded(secrets or DEFAULT_FOLDER) / SECRETS_FILE,
    )
