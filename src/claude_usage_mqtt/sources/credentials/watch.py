"""Notices logins that change between polls, without reading those that did not. Runs in a thread and only reports.

A thread for each account, because a check may hang on a dead mount, and must not delay another account's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from claude_usage_mqtt.errors import CredentialsError
from claude_usage_mqtt.sources.source import Login, Source

log = logging.getLogger(__name__)

CHECK_EVERY = 30.0
"""Seconds between checks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginChanged:
    """What an account's login is now, None if it cannot be used; no request was made."""

    account: str
    fingerprint: object
    login: Login | None


def watch_login(
    account: str,
    source: Source,
    known: Callable[[], object],
    report: Callable[[LoginChanged], None],
    every: float,
    stopping: threading.Event,
) -> None:
    """Check every so many real seconds until `stopping`; report when the fingerprint is not the `known` one.

    Whatever a check raises, the next one is made: an account that waits for its login has nothing else to wake it.
    """
    last_failure: str | None = None
    while not stopping.wait(every):
        try:
            fingerprint = source.fingerprint()
            if fingerprint != known():
                report(LoginChanged(account=account, fingerprint=fingerprint, login=_login(source)))
            last_failure = None
        except Exception as error:  # noqa: BLE001 - the text of an unknown error could hold outside data
            if type(error).__name__ != last_failure:
                last_failure = type(error).__name__
                log.warning("Account %s: the login cannot be checked (%s); trying again.", account, last_failure)


def _login(source: Source) -> Login | None:
    try:
        return source.login()
    except CredentialsError:
        return None
