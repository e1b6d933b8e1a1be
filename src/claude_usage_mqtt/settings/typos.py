"""Misspelled names of settings: which setting each one means, and whether it may be another program's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

SLIPS = {
    "CLAUDE_API_BASE": "CLAUDE_API_URL",
    "CLAUDE_BASE_URL": "CLAUDE_API_URL",
    "CLAUDE_TOKEN": "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_URL": "CLAUDE_API_URL",
    "HOMEASSISTANT_DISCOVERY_PREFIX": "HOMEASSISTANT_PREFIX",
    "MQTT_BROKER": "MQTT_HOST",
    "MQTT_PASS": "MQTT_PASSWORD",
    "MQTT_PASSWD": "MQTT_PASSWORD",
    "MQTT_SERVER": "MQTT_HOST",
    "MQTT_SSL": "MQTT_TLS",
    "MQTT_SSL_PORT": "MQTT_PORT",
    "MQTT_TLS_PORT": "MQTT_PORT",
    "MQTT_TOPIC": "MQTT_BASE_TOPIC",
    "MQTT_URL": "MQTT_HOST",
    "MQTT_USER": "MQTT_USERNAME",
    "MQTT_WEBSOCKETS": "MQTT_TRANSPORT",
    "MQTT_WEBSOCKET_PORT": "MQTT_PORT",
}
"""What other programs call the same thing."""

FAMILIES = ("MQTT", "HOMEASSISTANT", "CLAUDE_", "POLL", "STALE", "ALERT", "EXTRA_USAGE", "MACHINE", "USAGE", "LOG_")
"""The beginnings of our names. Names that begin differently are not reported."""

NOT_OURS = "CLAUDE_CODE"
"""Claude Code has many variables that begin like this, and more with each version: none of them is a typo."""

ALIKE = 0.75
"""How much of the rest of the name must be the same, 0 to 1: two swapped letters of four are within it."""

TYPO = 2
"""Letters that a typo changes at most. A name that differs by more is probably another program's."""


class Misspelled(NamedTuple):
    """A name that looks like that of a setting. `is_typo`: it cannot belong to another program of this environment.

    `is_set`: the setting is there too, so nothing is missing.
    """

    name: str
    meant: str
    is_typo: bool
    is_set: bool


def misspelled(given: Iterable[str], known: Iterable[str]) -> Iterator[Misspelled]:
    """Yield each given name that looks like a known one; if the known one is set too, only certain typos."""
    ours, names = frozenset(known), frozenset(given)
    missing = sorted(name for name in ours if not {name, f"{name}_FILE", name.removesuffix("_FILE")} & names)
    for name in sorted(names - ours):
        meant = _meant(name, missing) or _meant(name, sorted(ours))
        if meant is None:
            continue
        is_typo, is_set = _is_typo(name, meant), meant not in missing
        if is_typo or not is_set:
            yield Misspelled(name, meant, is_typo, is_set)


def _is_typo(name: str, meant: str) -> bool:
    import difflib  # noqa: PLC0415 - rarely needed, and start-up time counts

    if name in SLIPS:
        return False
    pair = difflib.SequenceMatcher(None, _tail(_our_spelling(name), ""), _tail(meant, ""), autojunk=False)
    return sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in pair.get_opcodes() if tag != "equal") <= TYPO


def _meant(name: str, among: list[str]) -> str | None:
    if name.startswith(NOT_OURS):
        return None
    name = _our_spelling(name)
    if name in among:
        return name
    if name in SLIPS:
        return SLIPS[name] if SLIPS[name] in among else None
    family = next((family for family in FAMILIES if name.startswith(family)), None)
    if family is None:
        return None
    import difflib  # noqa: PLC0415 - rarely needed, and start-up time counts

    tails = {_tail(ours, family): ours for ours in among if ours.startswith(family)}
    near = difflib.get_close_matches(_tail(name, family), tails, n=1, cutoff=ALIKE)
    return tails[near[0]] if near else None


def _our_spelling(name: str) -> str:
    return re.sub(r"^(HOME_ASSISTANT|HASS)(?=_)", "HOMEASSISTANT", name)


def _tail(name: str, family: str) -> str:
    return name.removeprefix(family).replace("_", "")
