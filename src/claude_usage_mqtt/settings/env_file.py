"""The `.env` file: every line is a setting or is reported.

It is in the folder in which the program is started, which may be somebody else's. It never decides where a secret from
the environment goes, nor which program runs.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.secret_file import decode, why_unreadable

ENV_FILE = ".env"

FROM_ENVIRONMENT_ONLY = frozenset({"CLAUDE_API_URL", "CLAUDE_CODE_COMMAND", "CLAUDE_USER_AGENT"})
"""Settings that decide where a token goes, as whose request, and which program runs."""

NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""Names of variables, also those of other programs: `$env:NAME`, `"NAME"` or `;NAME` would not count as anybody's."""

PASSWORDS = ("MQTT_PASSWORD", "MQTT_PASSWORD_FILE")


def read_env_file(known: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return what the file in the working folder sets, and a sentence for each mistake; names are in capitals.

    Empty values, and settings of the environment, are left out. Raises SettingsError if the file cannot be read.
    """
    try:
        text = decode(Path(ENV_FILE).read_bytes())
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        remedy = "let that user read it" if isinstance(error, PermissionError) else "correct"
        raise SettingsError(f"The file {ENV_FILE} {why_unreadable(error)}; {remedy} or remove it.") from None
    except ValueError:
        raise SettingsError(f"The file {ENV_FILE} is not valid UTF-8 text; correct or remove it.") from None
    values: dict[str, str] = {}
    mistakes: list[str] = []
    lines: dict[str, int] = {}
    for binding in parse_stream(io.StringIO(text)):
        line = _line(binding)
        mistakes += [f"Line {line} of {ENV_FILE}: {mistake}." for mistake in _mistakes(binding, known)]
        if binding.key is None or binding.value is None or not NAME.fullmatch(binding.key):
            continue
        name = binding.key.upper()
        if name in known and lines.setdefault(name, line) != line:
            mistakes.append(f"{name} is on lines {lines[name]} and {line} of {ENV_FILE}; remove one of them.")
        values[name] = binding.value
    outside = environment()
    values = {name: value for name, value in values.items() if value and name not in outside}
    if "MQTT_HOST" in values:
        mistakes += [
            f"{name} is set in the environment, but MQTT_HOST in {ENV_FILE}; set both in the same place."
            for name in PASSWORDS
            if name in outside
        ]
    return values, mistakes


def _line(binding: Binding) -> int:
    """Return the number of a binding's line; the parser includes the empty lines before it."""
    text = binding.original.string
    before = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", before))


def _mistakes(binding: Binding, known: Collection[str]) -> Iterator[str]:
    if binding.error or (binding.key is not None and (binding.value is None or not NAME.fullmatch(binding.key))):
        yield "not understood; write NAME=value, and put a value with quotes or several lines in quotes"
        return
    name = (binding.key or "").upper()
    if name in FROM_ENVIRONMENT_ONLY and binding.value:
        yield f"{name} is read from the environment only; set it there"
    elif name in known and re.match(r"[^=]*=(?!\s*['\"])[^\r\n]*\s#", binding.original.string.lstrip()):
        yield f"a # in the value of {name}; move the comment to its own line, or put the value in quotes"
    elif name == "MQTT_PASSWORD_FILE" and binding.value and not _is_next_to_it(Path(binding.value)):
        yield f"{name} is outside the folder of {ENV_FILE}; set it in the environment"


def _is_next_to_it(path: Path) -> bool:
    """Whether a path leads into the working folder: else the file could have any of our files sent to its own host."""
    try:
        return path.expanduser().resolve().is_relative_to(Path.cwd().resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def environment() -> dict[str, str]:
    """Return the variables of the environment that are not empty, by their names in capitals."""
    return {name.upper(): value for name, value in os.environ.items() if value}
