"""Whether another reporter has our name: before anything is announced, an ask is sent that nobody may answer. No I/O.

Instants are seconds of one steady clock.
"""

from __future__ import annotations

import secrets

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.sources.reporter_messages import Ask

NAME_CHECK = 2.0
"""Real seconds in which another reporter of the same name would answer."""

MOST_LOST = 2
"""Connections that may end during the name check before it is left out: our login may not be allowed to write there."""


def same_name(machine: str) -> str:
    """Return what to do if two reporters have one name."""
    return (
        f"Another reporter named {machine} is running; "
        "set MACHINE_NAME to a different name here, or stop the other one."
    )


class NameCheck:
    """The check of one name; it begins again with each connection until it `is_passed`."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._ask: str | None = None
        self._lost = 0
        self.ends_at: float | None = None
        """When nobody has answered for long enough; None if nothing is waited for."""
        self.is_passed = False

    def connected(self, now: float) -> Ask | None:
        """Begin; return the ask to send, if there is one."""
        if self.is_passed:
            return None
        self._ask, self.ends_at = secrets.token_hex(8), now + NAME_CHECK
        return Ask(id=self._ask, account=None) if self._lost < MOST_LOST else None

    def disconnected(self) -> None:
        """Note the end of a connection: some brokers disconnect whoever sends what is not allowed."""
        self._lost += not self.is_passed

    def answered(self, identifier: str | None) -> None:
        """Note an answer under our name; raises SettingsError if it is to our ask."""
        if identifier is not None and identifier == self._ask and not self.is_passed:
            raise SettingsError(same_name(self._machine))

    def passes(self, now: float, *, is_connected: bool) -> bool:
        """Whether the name is ours from now on; true once."""
        if self.ends_at is None or now < self.ends_at:
            return False
        self.ends_at = None  # without a connection it begins again with the next one
        self.is_passed = is_connected
        return is_connected
