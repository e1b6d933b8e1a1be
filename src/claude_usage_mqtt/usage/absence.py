"""What good responses lack, for how long, and when its entities go."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

ENTITIES_KEPT = timedelta(hours=24)
"""Entities that good responses lack for this long are removed: shorter absences are faults of the API."""

STUB_KEPT = timedelta(hours=1)
"""How long the order to remove its entities stays on the broker, so that a Home Assistant that is just
restarting gets it too."""


class MayBeAbsent:
    """Something that good responses may lack: `absent_for` says for how long, as far as that counts.

    `seen_among` are the unknown sections that came with it when it was last seen.
    """

    __slots__ = ()

    absent_for: timedelta
    seen_among: tuple[str, ...]

    @property
    def is_retired(self) -> bool:
        """Whether its entities are being removed."""
        return self.absent_for >= ENTITIES_KEPT

    @property
    def is_gone(self) -> bool:
        """Whether it need not be kept any longer."""
        return self.absent_for >= ENTITIES_KEPT + STUB_KEPT

    def absence_after(self, passed: timedelta, ignored: Iterable[str]) -> timedelta:
        """Return `absent_for` after another response that lacks it; the order to remove its entities is never skipped.

        If one of the unknown (`ignored`) sections was not there when it was last seen, it may have been renamed.
        """
        longest = self.absent_for + (passed if set(ignored) <= set(self.seen_among) else timedelta(0))
        return longest if self.is_retired else min(longest, ENTITIES_KEPT)
