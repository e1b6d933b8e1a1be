"""The usage of one account over time: all windows and the money, each with its own age."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from claude_usage_mqtt.instants import moved
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.money import MoneyState, next_money
from claude_usage_mqtt.usage.plausibility import is_of_another_account
from claude_usage_mqtt.usage.reading import FIVE_HOUR, MAX_WINDOWS, SEVEN_DAY, ExtraUsage, Owner, Reading, Window
from claude_usage_mqtt.usage.standing import AccountEvents, Standing, standing
from claude_usage_mqtt.usage.window_changes import first_reading, next_reading
from claude_usage_mqtt.usage.window_state import WindowState
from claude_usage_mqtt.usage.windows import Windows

LONGEST_GAP = timedelta(minutes=70)
"""At most this much of the time between two complete responses counts: they say nothing about a longer gap."""

UNSUPPORTED_AFTER = timedelta(hours=1)
"""A status line that contradicts the known resets is believed if no reading has agreed with them for this long."""

FOREIGN_FOR = timedelta(minutes=15)
"""Another account's status line is reported for this long: its next response repeats the report."""


class Rules(NamedTuple):
    """What the settings say: the age at which a number becomes unknown, and when to send an event.

    `thresholds` are percent of a window, `extra_thresholds` percent of the limit of extra usage.
    """

    stale_after: timedelta = timedelta(minutes=30)
    thresholds: tuple[float, ...] = ()
    extra_thresholds: tuple[float, ...] = ()


class Plan(NamedTuple):
    """What the account pays for, as far as it is known."""

    name: str | None = None
    tier: str | None = None


class ReadingHistory:
    """`last_complete` is when the last response came that also says what does not exist; those of a status line do not.

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
        """Instants that were restored from the broker: a step of this machine's clock does not affect them."""

    def has_complete(self, now: datetime, within: timedelta) -> bool:
        """Whether complete responses come: they say whose they are, and more about the money than a status line."""
        return self.last_complete is not None and now - self.last_complete < within

    def saw_foreign(self, now: datetime) -> bool:
        """Whether another account's status line was ignored recently."""
        return self.foreign_at is not None and now - self.foreign_at < FOREIGN_FOR

    def clock_stepped_back(self, step: timedelta) -> None:
        """Follow a clock that was set back."""
        self.last_read = moved(self.last_read, step, self.restored)
        self.last_complete = moved(self.last_complete, step, self.restored)
        self.last_change = moved(self.last_change, step, self.restored)
        self.foreign_at = moved(self.foreign_at, step, self.restored)


class AccountUsage:
    """Everything known of one account's usage; each reading updates it and returns what happened (events)."""

    def __init__(self, account: str, rules: Rules | None = None) -> None:
        self.account = account
        self.rules = rules or Rules()
        self.owner = Owner()
        self.plan = Plan()
        self.windows = Windows()
        self.money: MoneyState | None = None
        self.history = ReadingHistory()
        self.events = AccountEvents()

    @property
    def is_known(self) -> bool:
        """Whether anything was ever read: there is something to publish."""
        return self.history.last_read is not None or bool(self.windows)

    @property
    def has_extra_usage(self) -> bool:
        """Whether extra usage has entities now."""
        return self.money is not None and not self.money.is_retired

    @property
    def currency(self) -> str | None:
        """The currency of extra usage, as last reported."""
        return None if self.money is None else self.money.currency

    def identify(self, owner: Owner) -> bool:
        """Note whose login is used; learning the account later is not a change.

        Return whether it has changed: then all numbers and events are forgotten, and only the entities stay, as
        unknown.
        """
        if self.owner.is_same(owner) is not False:
            self.owner = owner.completed(self.owner)
            return False
        self._forget_numbers()
        if self.money is not None:
            self.money = replace(self.money, money=None, peak=0.0)
        self.plan, self.owner = Plan(), owner
        return True

    def _forget_numbers(self) -> None:
        self.windows.forget_numbers()
        self.events = AccountEvents()

    def update(self, reading: Reading, now: datetime) -> list[Event]:
        """Apply a reading window by window, the newer one wins; return what happened."""
        history, read_at = self.history, reading.read_at
        if is_of_another_account(self.windows.known_resets(), reading, read_at):
            if self._is_supported(read_at):
                history.foreign_at = max(read_at, history.foreign_at or read_at)
                return []
            self._forget_numbers()
        events: list[Event] = []
        for window in reading:
            events += self._update_window(window, now)
        if not reading.is_partial:
            self._update_complete(reading)
        if reading.extra_usage is not None and not (
            reading.is_partial and history.has_complete(read_at, self.rules.stale_after)
        ):
            events += self._update_money(reading.extra_usage, read_at, now)
            if self.money is not None and not reading.is_partial:
                self.money = replace(self.money, seen_among=reading.ignored)
        history.last_read = max(read_at, history.last_read or read_at)
        return events + self.events.update(self._lasting(now), now)

    def _is_supported(self, now: datetime) -> bool:
        """Whether the known resets still count: read recently, or by the API, which knows whose they are."""
        newest = self.windows.newest()
        if newest is not None and now - newest < UNSUPPORTED_AFTER:
            return True
        return self.history.has_complete(now, max(UNSUPPORTED_AFTER, self.rules.stale_after))

    def _update_window(self, window: Window, now: datetime) -> list[Event]:
        known, rules = self.windows.get(window.key), self.rules
        if known is None:
            if not window.is_placeholder and len(self.windows) < MAX_WINDOWS:
                self.windows[window.key] = first_reading(window)
                self.history.last_change = window.read_at
            return []
        is_stale = not known.is_known(window.read_at, rules.stale_after)
        state, events = next_reading(known, window, thresholds=rules.thresholds, now=now, is_stale=is_stale)
        if (state.utilization, state.resets_at) != (known.utilization, known.resets_at):
            self.history.last_change = window.read_at
        self.windows[window.key] = state
        return events

    def _update_complete(self, reading: Reading) -> None:
        """Note what a response lacks; that counts only if it is a good one, with the session or the week."""
        last, read_at = self.history.last_complete, reading.read_at
        if last is not None and read_at <= last:
            return
        passed = min(read_at - last, LONGEST_GAP) if last is not None else timedelta(0)
        counts = not reading.malformed and (FIVE_HOUR in reading.windows or SEVEN_DAY in reading.windows)
        self.windows.note_absent(reading, passed, counts=counts)
        if counts and reading.extra_usage is None and self.money is not None:
            counted = passed if self.money.money is None else timedelta(0)
            absent_for = self.money.absence_after(counted, reading.ignored)
            self.money = replace(self.money, money=None, absent_for=absent_for)
            if self.money.is_gone:
                self.money = None
        self.plan = Plan(reading.plan or self.plan.name, reading.tier or self.plan.tier)
        self.history.last_complete, self.history.ignored = read_at, reading.ignored
        over = (key for key in reading.windows if key in self.windows and self.windows[key].blank)
        self.history.unusable = (*(name.removeprefix("limits.") for name in reading.malformed), *over)

    def _update_money(self, money: ExtraUsage, read_at: datetime, now: datetime) -> list[Event]:
        known = self.money
        if known is not None and known.money is not None and read_at <= known.read_at:
            return []
        self.money, events = next_money(known, money, read_at, thresholds=self.rules.extra_thresholds, now=now)
        if known is None or known.money != money:
            self.history.last_change = read_at
        return events

    def known_money(self, now: datetime) -> ExtraUsage | None:
        """Return extra usage if it may be shown."""
        return None if self.money is None else self.money.known(now, self.rules.stale_after)

    def known_windows(self, now: datetime) -> list[WindowState]:
        """Return the windows whose numbers may be shown."""
        return [window for window in self.windows.values() if window.is_known(now, self.rules.stale_after)]

    def standing(self, now: datetime) -> Standing:
        """Return what all windows and the money mean together."""
        return self._standing(self.windows.values(), now)

    def _lasting(self, now: datetime) -> Standing:
        """Return the same for events: a dip to 99 % neither ends a block nor begins one."""
        windows = self.windows.values()
        return self._standing([replace(held, locked=held.locked or held.stays_used_up) for held in windows], now)

    def _standing(self, windows: Iterable[WindowState], now: datetime) -> Standing:
        money = self.known_money(now)
        has_money = self.has_extra_usage and self.money is not None and self.money.enabled
        unusable = self.history.unusable
        return standing(windows, unusable, money, now, self.rules.stale_after, has_money=has_money)

    def is_fresh(self, now: datetime) -> bool:
        """Whether at least one window is known: the numbers may be acted on."""
        return bool(self.known_windows(now))

    def has_numbers(self, now: datetime) -> bool:
        """Whether anything may be shown."""
        return self.is_fresh(now) or self.known_money(now) is not None

    def read_times(self) -> dict[str, datetime]:
        """Return when each window, and the money under an empty key, was read."""
        times = {key: window.read_at for key, window in self.windows.items()}
        return times if self.money is None else times | {"": self.money.read_at}

    def changes_at(self, now: datetime) -> datetime | None:
        """Return when time alone changes more than the elapsed time: a reset, a limit reached, a number stale."""
        instants = self.windows.changes(self.rules.stale_after)
        if self.money is not None:
            instants.append(self.money.read_at + self.rules.stale_after)
        return min((instant for instant in instants if instant > now), default=None)

    def clock_stepped(self, step: timedelta) -> None:
        """Follow a clock that was set by `step`.

        After a forward step readings age by it: a machine that slept and one whose clock was set late look the same.
        After a backward step everything that this process recorded moves, and nothing that was restored.
        """
        if step >= timedelta(0):
            return
        self.windows.clock_stepped_back(step, self.history.restored)
        if self.money is not None and self.money.read_at not in self.history.restored:
            self.money = replace(self.money, read_at=self.money.read_at + step)
        self.history.clock_stepped_back(step)
