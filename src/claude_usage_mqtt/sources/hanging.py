"""A login that cannot be read because its place does not answer, such as a dead network mount, or a pipe."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from claude_usage_mqtt.errors import CredentialsUnreadable
from claude_usage_mqtt.sources.credentials.token import CredentialSource
from claude_usage_mqtt.sources.source import PolledSource

PATIENCE = 15.0
"""Seconds; the Keychain is given up after 10."""


def require_answer(login: PolledSource | CredentialSource, read: Callable[[], object]) -> None:
    """Read a login beforehand, well or not; raises CredentialsUnreadable if that does not end.

    What hangs is left to a thread that ends with the program; looking whether it can be watched may hang as well. Only
    what can be watched is read: a pipe can be read once.
    """
    has_ended = threading.Event()

    def look() -> None:
        with contextlib.suppress(Exception):
            if login.can_be_watched:
                read()
        has_ended.set()

    threading.Thread(target=look, name="login-look", daemon=True).start()
    if not has_ended.wait(PATIENCE):
        raise hangs(login.place)


def hangs(place: str) -> CredentialsUnreadable:
    """Return the error of a place that does not answer."""
    return CredentialsUnreadable(f"{place} cannot be read: reading it hangs.")
