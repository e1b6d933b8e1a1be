"""Mistakes in settings, in words: what a setting should be, and which one a misspelled name was meant for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Literal, NamedTuple, get_args, get_origin

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
"""How our names begin. Names that begin differently are not reported."""

OTHER_SPELLINGS = {"HOME_ASSISTANT": "HOMEASSISTANT", "HASS": "HOMEASSISTANT"}

NOT_OURS = "CLAUDE_CODE"
"""Claude Code has many variables that begin so, and more with each version: none of them is a slip."""

ALIKE = 0.75
"""How much of what follows the family must be the same, 0 to 1: two swapped letters of four are within it."""

TYPO = 2
"""Letters that a typo changes at most. What differs by more is probably another program's variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a field's type and limits do not say: its unit, the lower limit to show, or all of it in words."""

    unit: str = ""
    least: int | None = None
    words: str = ""


def expected(kind: object, limits: Iterable[object], *, is_too_long: bool = False) -> str:
    """Return what a setting of this type, with these limits, should be."""
    shape = next((limit for limit in limits if isinstance(limit, Shape)), Shape())
    if NoneType in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if is_too_long:
        return f"at most {_limit(limits, 'max_length')} {shape.unit or 'characters'}"
    if shape.words:
        return shape.words
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if kind is int:
        unit = f" of {shape.unit}" if shape.unit else ""
        return f"a whole number{unit} from {shape.least or _limit(limits, 'ge')} to {_limit(limits, 'le')}"
    return "must be valid UTF-8 text"


def _limit(limits: Iterable[object], name: str) -> object:
    return next((getattr(limit, name) for limit in limits if hasattr(limit, name)), None)


class Misspelled(NamedTuple):
    """A name that looks like that of a setting. `is_typo`: it cannot belong to another program of this environment.

    `is_set`: the setting is there too, so nothing is missing.
    """

    name: str
    meant: str
    is_typo: bool
    is_set: bool = False


def misspelled(given: Iterable[str], known: Iterable[str]) -> Iterator[Misspelled]:
    """Yield each given name that looks like a known one; if that one is set too, only if it must be a typo."""
    ours, names = frozenset(known), frozenset(given)
    missing = sorted(name for name in ours if not {name, f"{name}_FILE", name.removesuffix("_FILE")} & names)
    for name in sorted(names - ours):
        meant = _meant(name, missing)
        if meant is not None:
            yield Misspelled(name, meant, is_typo=_is_typo(name, meant))
            continue
        meant = _meant(name, sorted(ours))
        if meant is not None and _is_typo(name, meant):
            yield Misspelled(name, meant, is_typo=True, is_set=True)


def _is_typo(name: str, meant: str) -> bool:
    return name not in SLIPS and _letters_changed(name, meant) <= TYPO


def _meant(name: str, missing: list[str]) -> str | None:
    if name.startswith(NOT_OURS):
        return None
    name = _our_spelling(name)
    if name in missing:
        return name
    if name in SLIPS:
        return SLIPS[name] if SLIPS[name] in missing else None
    family = next((family for family in FAMILIES if name.startswith(family)), None)
    if family is None:
        return None
    import difflib  # noqa: PLC0415 - rarely needed, and start-up time counts

    tails = {_tail(ours, family): ours for ours in missing if ours.startswith(family)}
    near = difflib.get_close_matches(_tail(name, family), tails, n=1, cutoff=ALIKE)
    return tails[near[0]] if near else None


def _our_spelling(name: str) -> str:
    for other, ours in OTHER_SPELLINGS.items():
        if name.startswith(f"{other}_"):
            return ours + name.removeprefix(other)
    return name


def _letters_changed(name: str, meant: str) -> int:
    import difflib  # noqa: PLC0415 - rarely needed, and start-up time counts

    pair = difflib.SequenceMatcher(None, _tail(_our_spelling(name), ""), _tail(meant, ""), autojunk=False)
    return sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in pair.get_opcodes() if tag != "equal")


def _tail(name: str, family: str) -> str:
    return name.removeprefix(family).replace("_", "")
