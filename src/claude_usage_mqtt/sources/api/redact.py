"""Removes everything personal from a response, so that people can attach it to a report. Pure.

By allow-list: only the shape remains of what is not known here. Whatever the API adds, a person's name, a mail address
or an identifier cannot come out.
"""

from __future__ import annotations

import re
from typing import Any

KNOWN = frozenset(
    [
        *("amount_minor", "balance", "currency", "decimal_places", "exponent", "limit", "limit_dollars"),
        *("monthly_limit", "percent", "remaining_dollars", "unlimited", "used", "used_credits", "used_dollars"),
        *("utilization", "disabled_reason", "enabled", "group", "is_active", "is_enabled", "kind", "locked_reason"),
        *("resets_at", "severity", "status", "surface"),
    ]
)
"""Keys whose values are shown: numbers of the usage, and words of the API's own."""

MODEL_NAME = ("model", "display_name")
"""The one name that is shown, and where; elsewhere it could be a person's."""

WORDS = re.compile(r"[A-Za-z][A-Za-z0-9_ .-]{0,30}|\d{4}-\d\d-\d\dT[0-9:.+Z-]{1,24}")
"""Texts that are shown under a known key: short names and times; no address, no token."""

NAME = re.compile(r"[a-z][a-z_]{0,40}")
"""Keys that are shown; one with digits could be an identifier."""

MAX_DEPTH, MAX_ITEMS = 12, 50


def redacted(document: object) -> Any:
    """Return the document with every value that is not known to be harmless replaced by its kind."""
    return _redacted(document, ("", ""), 0)


def _redacted(value: object, path: tuple[str, str], depth: int) -> Any:
    """Return a value redacted; `path` is its key and the one above."""
    if value is None or isinstance(value, bool):
        return value
    if depth >= MAX_DEPTH:
        return "(more)"
    if isinstance(value, dict):
        items = list(value.items())[:MAX_ITEMS]
        return {_name(key): _redacted(item, (path[1], key), depth + 1) for key, item in items}
    if isinstance(value, list):
        return [_redacted(item, path, depth + 1) for item in value[:MAX_ITEMS]]
    is_known = path[1] in KNOWN or path == MODEL_NAME
    if isinstance(value, int | float):
        return value if is_known else "(number)"
    return value if is_known and isinstance(value, str) and WORDS.fullmatch(value) else "(text)"


def _name(key: object) -> str:
    return key if isinstance(key, str) and NAME.fullmatch(key) else "(key)"
