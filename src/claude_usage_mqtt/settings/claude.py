"""The accounts that the settings describe: ids, labels, and where Claude Code keeps the login of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from claude_usage_mqtt.sources.local_login import LocalLogin, local_login
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT
from claude_usage_mqtt.untrusted import slug

RESERVED_ACCOUNTS = frozenset({"all", DEFAULT_ACCOUNT, "reporter", "status"})
SAME_TOPIC = "two account ids become the same topic; make them differ in letters or digits"
ACCOUNTS = 'not valid JSON of names and folders; write {"personal": "/claude/personal", "work": "/claude/work"}'


class Account(NamedTuple):
    """One configured account: its id (a slug), the label a person gave it, its login.

    `login` is None if it is not on this machine: reporters or status lines supply it.
    """

    id: str
    label: str | None
    login: LocalLogin | None


def parse_accounts(value: object) -> object:
    """Return the JSON of CLAUDE_ACCOUNTS; raises ValueError."""
    try:
        return json.loads(value, object_pairs_hook=_each_once) if isinstance(value, str) else value
    except KeyError:
        raise ValueError(SAME_TOPIC) from None
    except (ValueError, RecursionError):
        raise ValueError(ACCOUNTS) from None


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON; raises KeyError if a name is there twice, of which the last would silently win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise KeyError
    return found


def distinct(folders: dict[str, str | None] | None) -> dict[str, str | None] | None:
    """Return the accounts; raises ValueError unless each name makes its own id, and each folder could be one."""
    seen: set[str] = set()
    for name, folder in (folders or {}).items():
        identifier = slug(name)
        if not identifier or identifier in RESERVED_ACCOUNTS:
            raise ValueError(
                "each account's id needs letters or digits; all, default, reporter and status are reserved"
            )
        if identifier in seen:
            raise ValueError(SAME_TOPIC)
        if folder is not None and not folder.strip():
            raise ValueError("each account needs the folder of its credentials, or null if another machine has it")
        seen.add(identifier)
    return folders


def named_accounts(folders: Mapping[str, str | None]) -> tuple[Account, ...]:
    """Return the accounts of CLAUDE_ACCOUNTS; raises SettingsError.

    Each names the folder of its secrets: Claude Code's own variables name one folder, and cannot mean all of them.
    """
    return tuple(
        Account(
            id=slug(name), label=name, login=None if folder is None else local_login(folder, setting="CLAUDE_ACCOUNTS")
        )
        for name, folder in folders.items()
    )
