"""Whether a reading of a window is likely enough to be believed at once: one pure rule.

An unlikely reading changes nothing and fires nothing; the next independent reading decides. The numbers and the
faults behind them come from public reports of the usage endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from claude_usage_mqtt.instants import SAME_INSTANT
from claude_usage_mqtt.usage.reading import STATUSLINE, Window

STEEP_RISE = 40.0
"""Points. About 100 % was reported right after sleep or idleness and was gone one poll later; nobody's real use was
seen to rise this much between two polls."""

REFILL = 10.0
"""Points. A refill, a plan upgrade or a claimed reset drops far more; rounding and corrections drop less."""

ABOUT_FULL = 95.0
"""Percent. In a window whose beginning was not seen, this counts as such a 100 %, however high the last reading was."""

OLD_NUMBER = 50.0
"""Percent. The first response after a reset was seen with the old number under the new reset; a window that just
began cannot have reached this much."""

SAME_NUMBER = 5.0
"""Points by which the old number may differ from the last reading at any time."""

JUST_BEGUN = timedelta(minutes=15)
"""For this long after a window began, a number above the old one also counts as the old one: the old window continued
after its last reading."""

SETTLED_AFTER = timedelta(seconds=90)
"""For this long after a window began, two responses in a row may have the old number: they confirm nothing."""


class Suspect(NamedTuple):
    """An unlikely reading that waits for the next one; `baseline` is the utilization it departs from."""

    window: Window
    baseline: float

    def is_confirmed_by(self, new: Window) -> bool:
        """Whether a later reading is nearer to the suspect than to the baseline, or beyond it.

        A rise must be in the same window, and nobody uses that much in its first moments. After a drop the reset may
        still be moving: it is null until the window is used again.
        """
        suspect, baseline = self.window.utilization, self.baseline
        is_rise = suspect > baseline
        if is_rise and (not same_reset(self.window.resets_at, new.resets_at) or _is_younger(new, SETTLED_AFTER)):
            return False
        is_beyond = new.utilization >= suspect if is_rise else new.utilization <= suspect
        return is_beyond or abs(new.utilization - suspect) < abs(new.utilization - baseline)


def same_reset(one: datetime | None, other: datetime | None) -> bool:
    """Whether two resets mean the same instant; two unknown ones also do."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= SAME_INSTANT


def doubt(utilization: float, resets_at: datetime | None, new: Window) -> Suspect | None:
    """Return `new` as a suspect if it is an unlikely successor of what is known, else None.

    `utilization` and `resets_at` are the known ones; `new.resets_at` is the one that would be published.
    """
    change = new.utilization - utilization
    is_same = same_reset(resets_at, new.resets_at)
    if resets_at is not None and not is_same and new.read_at >= resets_at - SAME_INSTANT:
        is_old_number = abs(change) <= SAME_NUMBER or (change > 0 and _is_younger(new, JUST_BEGUN))
        if (new.utilization >= OLD_NUMBER and is_old_number) or new.utilization >= ABOUT_FULL:
            return Suspect(new, 0.0)
    # A window ends with its reset, not seconds before it.
    is_running = is_same or (new.is_idle if resets_at is None else new.read_at < resets_at)
    if -change >= REFILL and is_running:
        return Suspect(new, utilization)
    return Suspect(new, utilization) if change >= STEEP_RISE else None


def _is_younger(window: Window, age: timedelta) -> bool:
    if window.resets_at is None or window.duration is None:
        return False
    return window.read_at - (window.resets_at - window.duration) < age


def is_of_another_account(known: Mapping[str, datetime | None], windows: Iterable[Window], now: datetime) -> bool:
    """Whether a status line contradicts every known reset that has not passed: it belongs to another login.

    `known` maps a window's key to its known reset. A window without one that is running contradicts nothing: when the
    session is over, only the week says whose it is.
    """
    resets = [(known.get(window.key), window.resets_at) for window in windows if window.source == STATUSLINE]
    running = [(old, new) for old, new in resets if old is not None and new is not None and now < old]
    return bool(running) and not any(same_reset(old, new) for old, new in running)
