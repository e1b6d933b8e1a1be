"""A login that cannot be read because its place does not answer, such as a dead network mount, or a pipe."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from claude_usage_mqtt.errors import CredentialsUnreadable

PATIENCE = 15.0
"""Seconds; the Keychain is given up after 10."""


def answers(read: Callable[[], object]) -> bool:
    """Whether reading something ends, well or not. What hangs is left to a thread that ends with the program.

    Only what can be watched may be read for that: a pipe can be read once.
    """
    has_ended = threading.Event()

    def look() -> None:
        with contextlib.suppress(Exception):
            read()
        has_ended.set()

    threading.Thread(target=look, name="login-look", daemon=True).start()
    return has_ended.wait(PATIENCE)


def hangs(place: str) -> CredentialsUnreadable:
    """Return the error of a place that does not answer."""
    return CredentialsUnreadable(f"{place} cannot be read: reading it hangs.")
