"""Possible mistakes in the settings that are not errors: a sentence for each."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from claude_usage_mqtt.settings.env_file import ENV_FILE, PASSWORDS
from claude_usage_mqtt.settings.typos import misspelled

TIME_ZONES = ("/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo")
"""The folders that may hold the system's time zones, if TZDIR does not name it."""

RULE = r"(<[-+\w]{3,}>|[A-Za-z]{3,})[-+]?\d.*|UTC|GMT"
"""A time zone without a file: its name and its distance from UTC, for example `CET-1CEST,M3.5.0,M10.5.0/3`."""


def hints(environment: Mapping[str, str], file: Mapping[str, str], known: Collection[str]) -> Iterator[str]:
    """Yield the sentences about the variables of the environment and of the `.env` file."""
    given = {**environment, **file}
    for found in misspelled(given, known):
        if found.is_set:
            yield f"Unknown setting {found.name} is ignored; {found.meant} is set too."
        elif not found.is_typo and found.name not in file:  # there, nobody else reads it: a mistake
            yield f"{found.name} is not a setting of this program; if it is meant for it, its name is {found.meant}."
    if "MQTT_USERNAME" in given and not given.keys() & {*PASSWORDS, "MQTT_TLS_CERT"}:
        yield "MQTT_USERNAME is set without MQTT_PASSWORD; most brokers refuse a login without a password."
    yield from _about_time_zone(environment.get("TZ"), file.get("TZ"))


def _about_time_zone(effective: str | None, in_file: str | None) -> Iterator[str]:
    """Yield what is wrong with TZ, which the C library reads and not we: it takes a name unknown to it for UTC."""
    if not hasattr(time, "tzset"):
        return
    if effective is None and in_file is not None:
        yield f"TZ in {ENV_FILE} has no effect; set it in the environment."
    elif effective is not None and not _is_time_zone(effective.removeprefix(":")):
        yield "TZ is not a time zone that this system knows, so times are in UTC; a name looks like Europe/Berlin."


def _is_time_zone(name: str) -> bool:
    return re.fullmatch(RULE, name) is not None or any(
        Path(folder, name).is_file() for folder in (os.environ.get("TZDIR") or TIME_ZONES[0], *TIME_ZONES[1:])
    )
