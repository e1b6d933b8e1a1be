"""Single values of settings as people write them: cleaned up, or refused with a reason.

Each function raises ValueError with our own text, which never holds the value.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import AfterValidator

from claude_usage_mqtt.secret_file import LONGEST_STRING
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT
from claude_usage_mqtt.untrusted import slug


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a field's type and limits do not say: its unit, or the whole description in words."""

    unit: str = ""
    words: str = ""


THRESHOLDS = "percentages above 0, for example 75,90"

RESERVED_ACCOUNTS = frozenset({"all", DEFAULT_ACCOUNT, "reporter", "status"})
SAME_TOPIC = "two account ids become the same topic; make them differ in letters or digits"
ACCOUNTS = 'not valid JSON of names and folders; write {"personal": "/claude/personal", "work": "/claude/work"}'


def plain(value: object) -> object:
    """Return a value without what surrounds it: blanks, line breaks, and quotes that compose kept."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def password(value: object) -> object:
    """Return a password as it will be sent: without line breaks around it, but otherwise unchanged."""
    if not isinstance(value, str):
        return value
    text = value.strip("\r\n")
    if text != plain(text):
        raise ValueError(
            "has blanks or quotes around it; remove them, or, if they belong to it, use MQTT_PASSWORD_FILE"
        )
    return line(text)


def expanded(path: Path) -> Path:
    """Return a path that may begin with `~`, which no shell expands in a `.env` or compose file."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("the home folder in it is not known; write the whole path") from None


def split(value: object) -> object:
    """Return the parts of a list of percentages."""
    if not isinstance(value, str):
        return value
    return [part.strip().removesuffix("%") for part in value.split(",") if part.strip()]


def matching(pattern: str, otherwise: str) -> AfterValidator:
    """Return a validator for text that matches a whole pattern; `otherwise` says what is expected."""

    def checked(value: str) -> str:
        if re.fullmatch(pattern, value):
            return value
        raise ValueError(otherwise)

    return AfterValidator(checked)


def token(value: object) -> object:
    """Return a token without what surrounds it; none has blanks or quotes in it."""
    text = plain(value)
    if isinstance(text, str) and text and not re.fullmatch(r"[!-~]+", text):
        raise ValueError("contains invalid characters; copy it again")
    return text


def line(value: str) -> str:
    """Return text that is valid and fits on one line."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8 text") from None
    if size > LONGEST_STRING:
        raise ValueError(f"longer than MQTT allows ({LONGEST_STRING} bytes)")
    if not value.isprintable():
        raise ValueError("has line breaks or control characters in it; it must be one line of text")
    return value


def host(value: str) -> str:
    """Return a name or an address, with nothing before or after it."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not re.fullmatch(r"[\w.-]{1,255}", value):  # no name in the DNS is longer
            raise ValueError("the name or address alone; the port goes into MQTT_PORT") from None
        return value
    return bare


def port(value: object) -> object:
    """Return a port as it was given, unless Kubernetes gave it."""
    if isinstance(value, str) and "://" in value:
        raise ValueError(
            "a URL, as Kubernetes sets for a service named mqtt; set MQTT_PORT yourself, rename the service, "
            "or set enableServiceLinks to false"
        )
    return value


def percentages(value: tuple[float, ...]) -> tuple[float, ...]:
    """Return percentages in ascending order, each once."""
    if not all(0 < threshold <= 1000 for threshold in value):
        raise ValueError(THRESHOLDS)
    return tuple(sorted(set(value)))


def parse_accounts(value: object) -> object:
    """Return the JSON of CLAUDE_ACCOUNTS; raises ValueError."""
    try:
        return json.loads(value, object_pairs_hook=_each_once) if isinstance(value, str) else value
    except KeyError:
        raise ValueError(SAME_TOPIC) from None
    except (ValueError, RecursionError):
        raise ValueError(ACCOUNTS) from None


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON; raises KeyError if a name appears twice, as the last would silently win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise KeyError
    return found


def distinct_accounts(folders: dict[str, str | None] | None) -> dict[str, str | None] | None:
    """Return the accounts; raises ValueError unless each name has its own id, and each folder is possible."""
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
