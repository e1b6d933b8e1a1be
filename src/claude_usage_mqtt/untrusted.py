"""Helpers for data from outside: what is not exactly right becomes None, and nothing here raises."""

from __future__ import annotations

import math
import re
import unicodedata

MAX_LABEL = 40
"""Characters of a label or an id that came from outside."""


def number(value: object, *, maximum: float) -> float | None:
    """Return a finite number within 0 and `maximum`, else None; a bool is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= maximum or math.isnan(value):
        return None
    return abs(float(value))  # no negative zero


def clean_text(value: object, maximum: int = MAX_LABEL) -> str | None:
    """Return printable text of at most `maximum` characters with single spaces, else None."""
    if not isinstance(value, str):
        return None
    text = "".join(c if c.isprintable() else " " for c in value[: 4 * maximum])
    return " ".join(text.split())[:maximum].strip() or None


def slug(text: str) -> str:
    """Return `text` as lower-case ASCII letters, digits and underscores; empty if nothing of it is left."""
    plain = unicodedata.normalize("NFKD", text[: 4 * MAX_LABEL]).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:MAX_LABEL].strip("_")
