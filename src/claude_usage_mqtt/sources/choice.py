"""Which machine to ask for an account's usage: pure rules over what the machines announced and how they answered.

Of the machines that are online and have a usable login of this account, the one that answered last is asked, then the
next. A machine that was silent, or refused, is left alone for a while, unless it announces itself again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple


class Candidate(NamedTuple):
    """A machine as it is known for one account.

    `is_usable`: it announced a login that it could ask with. `is_foreign`: that login is another account's.
    `hold_until`: before this it is not asked, because it did not answer or refused.
    """

    machine: str
    is_online: bool
    is_usable: bool
    is_foreign: bool = False
    answered_at: datetime | None = None
    hold_until: datetime | None = None

    def can_be_asked(self, now: datetime) -> bool:
        """Whether it makes sense to ask it now."""
        is_held = self.hold_until is not None and now < self.hold_until
        return self.is_online and self.is_usable and not self.is_foreign and not is_held


def order(candidates: Iterable[Candidate], now: datetime) -> list[Candidate]:
    """Return the machines to ask, the first one first."""
    askable = sorted((each for each in candidates if each.can_be_asked(now)), key=lambda each: each.machine)
    return sorted(askable, key=_last_answer, reverse=True)


def _last_answer(candidate: Candidate) -> float:
    return candidate.answered_at.timestamp() if candidate.answered_at is not None else 0.0
