"""The windows of one account: which ones exist, and the effect of their absence and of clock steps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from claude_usage_mqtt.usage.plausibility import Suspect
from claude_usage_mqtt.usage.reading import FIVE_HOUR, SEVEN_DAY, Reading
from claude_usage_mqtt.usage.window_state import WindowState


class Windows(dict[str, WindowState]):
    """The windows by their keys."""

    def note_absent(self, response: Reading, passed: timedelta, *, counts: bool) -> None:
        """Note which of them a response lacks, `passed` after the one before it; if it `counts`, they are unknown."""
        for key, state in list(self.items()):
            if key in response.windows:
                if state.seen_among != response.ignored:
                    self[key] = replace(state, seen_among=response.ignored)
            elif counts and state.read_at < response.read_at:
                # The entities of session and week stay.
                counted = timedelta(0) if state.present or key in (FIVE_HOUR, SEVEN_DAY) else passed
                absent_for = state.absence_after(counted, response.ignored)
                self[key] = replace(state, present=False, absent_for=absent_for, suspect=None)
                if self[key].is_gone:
                    del self[key]

    def forget_numbers(self) -> None:
        """Keep only the entities."""
        for key, state in self.items():
            self[key] = replace(state, present=False, blank=True, suspect=None)

    def known_resets(self) -> dict[str, datetime | None]:
        """Return the reset of each window that has numbers."""
        return {key: state.resets_at for key, state in self.items() if not state.blank}

    def newest(self) -> datetime | None:
        """Return when the newest numbers were read."""
        return max((state.read_at for state in self.values() if not state.blank), default=None)

    def suspects(self) -> dict[str, Suspect]:
        """Return the unlikely readings that wait for the next one."""
        return {key: state.suspect for key, state in self.items() if state.suspect is not None}

    def resets(self) -> list[datetime]:
        """Return the resets of the windows that exist, soonest first."""
        return sorted({state.resets_at for state in self.values() if state.present and state.resets_at is not None})

    def changes(self, stale_after: timedelta) -> list[datetime]:
        """Return when time alone changes something: a reset, a limit reached, a number stale."""
        instants: list[datetime | None] = []
        for state in self.values():
            if state.present:
                instants += (state.unknown_at(stale_after), state.resets_at, state.limit_at)
        return [instant for instant in instants if instant is not None]

    def clock_stepped_back(self, step: timedelta, restored: Collection[datetime]) -> None:
        """Follow a clock that was set back, except for what was restored."""
        for key, state in self.items():
            if state.read_at not in restored:
                self[key] = state.shifted(step)
