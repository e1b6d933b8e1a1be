"""Whether those who listen to events are connected: they return seconds after the broker, or after their own start."""

from __future__ import annotations

SETTLED_AFTER = 15.0
"""Seconds from a connection, or from Home Assistant's birth message, until an event finds its listeners: Node-RED was
seen to subscribe one second after the broker was back, Home Assistant six."""


class Listeners:
    """What is known of those who listen. Home Assistant counts as away until its birth message; instants are real."""

    def __init__(self, settled_after: float = SETTLED_AFTER) -> None:
        self._settled_after = settled_after
        self.settled_at: float | None = None
        """When the wait for them ends; None if nothing is waited for."""
        self.is_home_assistant_online = False

    def connected(self, now: float) -> None:
        """Note a new connection to the broker."""
        self.is_home_assistant_online = False
        self.settled_at = now + self._settled_after

    def home_assistant(self, now: float, *, is_online: bool) -> None:
        """Note Home Assistant's birth message or its last will."""
        self.is_home_assistant_online = is_online
        if is_online:
            self.settled_at = now + self._settled_after

    def have_settled(self, now: float) -> bool:
        """Whether the wait ends now; true once for each wait."""
        if self.settled_at is None or now < self.settled_at:
            return False
        self.settled_at = None
        return True
