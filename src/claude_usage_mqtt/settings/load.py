"""Loads the settings, from the environment and the `.env` file, and describes mistakes in both.

pydantic reads only the environment; we read the `.env` file, so that every line of it counts or is reported.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.settings.env_file import ENV_FILE, PASSWORDS, environment, read_env_file
from claude_usage_mqtt.settings.fields import Settings, variables
from claude_usage_mqtt.settings.typos import misspelled
from claude_usage_mqtt.settings.values import Shape

TIME_ZONES = ("/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo")
"""The folders that may hold the system's time zones, if TZDIR does not name it."""

RULE = r"(<[-+\w]{3,}>|[A-Za-z]{3,})[-+]?\d.*|UTC|GMT"
"""A time zone without a file: its name and its offset from UTC, for example `CET-1CEST,M3.5.0,M10.5.0/3`."""


def load_settings(*, with_env_file: bool = True) -> Settings:
    """Return the settings; raises SettingsError with one sentence per mistake, and no secret in it."""
    outside = environment()
    file, mistakes = read_env_file(variables()) if with_env_file else ({}, [])
    mistakes += [
        f"Unknown setting {found.name}; did you mean {found.meant}?"
        for found in misspelled(outside | file, variables())
        if not found.is_set and (found.is_typo or found.name in file)
    ]
    known = {name.lower(): value for name, value in file.items() if name in variables()}
    try:
        settings = Settings(**known)  # type: ignore[arg-type]
    except ValidationError as error:
        mistakes += map(_describe, error.errors(include_input=False, include_url=False))
    else:
        if not mistakes:
            return settings
    raise SettingsError(" ".join(dict.fromkeys([*mistakes, *_hints(outside, file)])))


def _describe(error: ErrorDetails) -> str:
    """Return our sentence for an error of pydantic, whose own text is for programmers."""
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"{message}."
    name = str(error["loc"][0])
    if kind != "value_error":
        message = _expected(Settings.model_fields[name], is_too_long=kind in ("too_long", "string_too_long"))
    return f"{name.upper()}: {message}."


def _expected(field: FieldInfo, *, is_too_long: bool) -> str:
    """Return what a setting should be."""
    shape = next((item for item in field.metadata if isinstance(item, Shape)), Shape())
    limits = {
        name: getattr(item, name)
        for item in field.metadata
        for name in ("ge", "le", "max_length")
        if hasattr(item, name)
    }
    kinds = [field.annotation, *get_args(field.annotation)]
    if is_too_long:
        return f"at most {limits['max_length']} {shape.unit or 'characters'}"
    if shape.words:
        return shape.words
    if bool in kinds:
        return "true or false"
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    if int in kinds:
        unit = f" of {shape.unit}" if shape.unit else ""
        return f"a whole number{unit} from {limits['ge']} to {limits['le']}"
    return "must be valid UTF-8 text"


def doubts() -> list[str]:
    """Return a sentence for each variable that may be a mistake but is not an error."""
    file, _ = read_env_file(variables())
    return list(_hints(environment(), file))


def _hints(outside: Mapping[str, str], file: Mapping[str, str]) -> Iterator[str]:
    """Yield the sentences about the variables of the environment and of the `.env` file."""
    given = {**outside, **file}
    for found in misspelled(given, variables()):
        if found.is_set:
            yield f"Unknown setting {found.name} is ignored; {found.meant} is set too."
        elif not found.is_typo and found.name not in file:  # no other program reads that file: a mistake
            yield f"{found.name} is not a setting of this program; if it is meant for it, its name is {found.meant}."
    if "MQTT_USERNAME" in given and not given.keys() & {*PASSWORDS, "MQTT_TLS_CERT"}:
        yield "MQTT_USERNAME is set without MQTT_PASSWORD; most brokers refuse a login without a password."
    # The C library reads TZ, not we: it treats an unknown name as UTC.
    if hasattr(time, "tzset"):
        if "TZ" in file:
            yield f"TZ in {ENV_FILE} has no effect; set it in the environment."
        elif not _is_time_zone(outside.get("TZ", "UTC").removeprefix(":")):
            yield "TZ is not a time zone that this system knows, so times are in UTC; a name looks like Europe/Berlin."


def _is_time_zone(name: str) -> bool:
    return (
        re.fullmatch(RULE, name) is not None
        or any(
            os.path.isfile(Path(folder, name))  # noqa: PTH113 - Path's raises for a name that is too long
            for folder in (os.environ.get("TZDIR") or TIME_ZONES[0], *TIME_ZONES[1:])
        )
    )
