"""Helpers for data from outside: anything that is not exactly right becomes None, and nothing here raises."""

from __future__ import annotations

import json
import math
import re
import unicodedata

TYPE_CHECKING = False  # the status line imports this module, and typing takes time

if TYPE_CHECKING:
    from typing import Any

HASH = re.compile(r"[0-9a-f]{8,64}")
CURRENCY = re.compile(r"[A-Z]{3}")

MAX_LABEL = 40
"""Characters of a label or an id that came from outside."""


def number(value: object, *, maximum: float) -> float | None:
    """Return a finite number within 0 and `maximum`, else None; a bool is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= maximum or math.isnan(value):
        return None
    return abs(float(value))  # no negative zero


def json_object(payload: bytes | None, longest: int = 1_000_000) -> dict[str, Any]:
    """Return the JSON object of a payload of at most this many bytes; empty if it is not one."""
    try:
        document = json.loads(payload) if payload and len(payload) <= longest else None
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def matching(pattern: re.Pattern[str], value: object) -> str | None:
    """Return text that matches the whole pattern, else None."""
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def clean_text(value: object, maximum: int = MAX_LABEL) -> str | None:
    """Return printable text of at most `maximum` characters with single spaces, else None."""
    if not isinstance(value, str):
        return None
    text = "".join(c if c.isprintable() else " " for c in value[: 4 * maximum])
    return " ".join(text.split())[:maximum].strip() or None


def slug(text: str) -> str:
    """Return `text` as lower-case ASCII letters, digits and underscores; empty if nothing is left."""
    plain = unicodedata.normalize("NFKD", text[: 4 * MAX_LABEL]).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:MAX_LABEL].strip("_")
