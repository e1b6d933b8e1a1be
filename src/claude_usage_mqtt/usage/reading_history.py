"""When readings of an account were last made, and whose: what they say of other sources depends on it."""

from __future__ import annotations

from datetime import datetime, timedelta

from claude_usage_mqtt.instants import moved

UNSUPPORTED_AFTER = timedelta(hours=1)
"""A status line that contradicts the known resets is believed if no reading has agreed with them for this long."""

FOREIGN_FOR = timedelta(minutes=15)
"""So long after another account's status line it is said that there is one: its next response repeats that."""


class ReadingHistory:
    """`last_complete` is when the last response came that also says what does not exist; a status line's do not.

    `ignored` are its unknown sections, `unusable` the windows that it had without a usable number. `foreign_at`
    is when another account's status line was last ignored.
    """

    def __init__(self) -> None:
        self.last_read: datetime | None = None
        self.last_complete: datetime | None = None
        self.last_change: datetime | None = None
        self.foreign_at: datetime | None = None
        self.ignored: tuple[str, ...] = ()
        self.unusable: tuple[str, ...] = ()
        self.restored: frozenset[datetime] = frozenset()
        """Instants that were restored from the broker: a step of this machine's clock does not concern them."""

    def has_complete(self, now: datetime, within: timedelta) -> bool:
        """Whether complete responses come: they know whose they are, and more of the money than a status line."""
        return self.last_complete is not None and now - self.last_complete < within

    def saw_foreign(self, now: datetime) -> bool:
        """Whether another account's status line was ignored lately."""
        return self.foreign_at is not None and now - self.foreign_at < FOREIGN_FOR

    def clock_stepped_back(self, step: timedelta) -> None:
        """Follow a clock that was set back."""
        self.last_read = moved(self.last_read, step, self.restored)
        self.last_complete = moved(self.last_complete, step, self.restored)
        self.last_change = moved(self.last_change, step, self.restored)
        self.foreign_at = moved(self.foreign_at, step, self.restored)
