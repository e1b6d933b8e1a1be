"""What good responses lack, for how long they have lacked it, and when its entities go."""

from __future__ import annotations

from datetime import timedelta

ENTITIES_KEPT = timedelta(hours=24)
"""Entities of what good responses lack for this long are removed: shorter absences are faults of the API."""

STUB_KEPT = timedelta(hours=1)
"""How long the order to remove its entities stays on the broker, so that a Home Assistant that is just
restarting gets it too."""


def is_retired(absent_for: timedelta) -> bool:
    """Whether the entities are being removed."""
    return absent_for >= ENTITIES_KEPT


def is_gone(absent_for: timedelta) -> bool:
    """Whether nothing needs to be kept anymore."""
    return absent_for >= ENTITIES_KEPT + STUB_KEPT


def longer(absent_for: timedelta, passed: timedelta) -> timedelta:
    """Return the absence after another response; the order to remove is never skipped."""
    longest = absent_for + passed
    return longest if is_retired(absent_for) else min(longest, ENTITIES_KEPT)
