"""The usage of one account followed over time: all windows and the money, each with its own age."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from claude_usage_mqtt.usage.events import BLOCKED, EXTRA_USAGE_STARTED, UNBLOCKED, Event
from claude_usage_mqtt.usage.money import ACCOUNT_EVENT_LASTS, MoneyState, next_money, no_money
from claude_usage_mqtt.usage.plausibility import is_of_another_account
from claude_usage_mqtt.usage.reading import FIVE_HOUR, SEVEN_DAY, ExtraUsage, Reading, Window
from claude_usage_mqtt.usage.standing import Standing, standing
from claude_usage_mqtt.usage.window_state import (
    WindowState,
    first_reading,
    next_reading,
    no_reading,
    shifted,
)

LONGEST_GAP = timedelta(minutes=70)
"""Of the time between two complete responses no more than this counts: of a longer gap they say nothing."""

UNSUPPORTED_AFTER = timedelta(hours=1)
"""A status line that contradicts the known resets is believed if no reading has agreed with them for this long."""

MAX_WINDOWS = 40
"""Windows beyond this many are not followed: each has a dozen entities, and responses could name new ones forever."""


@dataclass(slots=True)
class AccountUsage:
    """Everything known of one account's usage.

    Each reading updates it and returns what happened (events). `stale_after` is the age at which a number becomes
    unknown, `thresholds` are percent of a window, `extra_thresholds` percent of the limit of extra usage.
    """

    account: str
    stale_after: timedelta = timedelta(minutes=30)
    thresholds: tuple[float, ...] = ()
    extra_thresholds: tuple[float, ...] = ()
    plan: str | None = None
    tier: str | None = None
    owner: str | None = None
    """A hash of the account that the numbers belong to, if known."""
    organization: str | None = None
    windows: dict[str, WindowState] = field(default_factory=dict)
    money: MoneyState | None = None
    last_read: datetime | None = None
    last_complete: datetime | None = None
    """When the last response came that also says what does not exist; a status line's do not."""
    last_change: datetime | None = None
    foreign_at: datetime | None = None
    """When another account's status line was last ignored."""
    ignored: tuple[str, ...] = ()
    was_blocked: bool | None = None
    was_active: bool | None = None
    restored: set[datetime] = field(default_factory=set)
    """Instants that were restored from the broker: a step of this machine's clock does not concern them."""

    @property
    def is_known(self) -> bool:
        """Whether anything was ever read: there is something to publish."""
        return self.last_read is not None or bool(self.windows)

    @property
    def has_extra_usage(self) -> bool:
        """Whether extra usage has entities now."""
        return self.money is not None and self.money.has_entities

    @property
    def currency(self) -> str | None:
        """The currency of extra usage, as last reported."""
        return None if self.money is None else self.money.currency

    def identify(self, owner: str | None, organization: str | None) -> bool:
        """Note whose login is used (hashes); None says nothing, and learning the account later is not a change.

        Return whether it is another one than before: then all numbers and all memory of events are forgotten, and
        only the entities stay, as unknown.
        """
        if not self.belongs_to(owner, organization):
            self._forget_numbers()
            if self.money is not None:
                self.money = replace(self.money, money=None, peak=0.0)
            self.plan = self.tier = None
            self.owner, self.organization = owner, organization
            return True
        self.owner, self.organization = owner or self.owner, organization or self.organization
        return False

    def _forget_numbers(self) -> None:
        self.windows = {key: replace(w, present=False, blank=True, suspect=None) for key, w in self.windows.items()}
        self.was_blocked = self.was_active = None

    def belongs_to(self, owner: str | None, organization: str | None) -> bool:
        """Whether a login may be this account's: the same account if both are known, else the same organization."""
        if self.owner is not None and owner is not None:
            return self.owner == owner
        return None in (self.organization, organization) or self.organization == organization

    def update(self, reading: Reading, now: datetime) -> list[Event]:
        """Apply a reading window by window, the newer one wins; return what happened."""
        windows = list(reading)
        known = {key: window.resets_at for key, window in self.windows.items() if not window.blank}
        if is_of_another_account(known, windows, reading.read_at):
            if self._is_supported(reading.read_at):
                self.foreign_at = max(reading.read_at, self.foreign_at or reading.read_at)
                return []
            self._forget_numbers()
        events: list[Event] = []
        for window in windows:
            events += self._update_window(window, now)
        if not reading.is_partial:
            self._update_complete(reading)
        if reading.extra_usage is not None and not (reading.is_partial and self._has_complete(reading.read_at)):
            events += self._update_money(reading.extra_usage, reading.read_at, now)
        self.last_read = max(reading.read_at, self.last_read or reading.read_at)
        return events + self._account_events(now)

    def _is_supported(self, now: datetime) -> bool:
        """Whether the known resets are some source's still: lately read, or the API's, which knows whose they are."""
        newest = max((window.read_at for window in self.windows.values() if not window.blank), default=None)
        if newest is not None and now - newest < UNSUPPORTED_AFTER:
            return True
        return self.last_complete is not None and now - self.last_complete < max(UNSUPPORTED_AFTER, self.stale_after)

    def _has_complete(self, now: datetime) -> bool:
        """Whether complete responses come: they know more of the money than a status line, and its currency."""
        return self.last_complete is not None and now - self.last_complete < self.stale_after

    def saw_foreign(self, now: datetime) -> bool:
        """Whether another account's status line was ignored within the last hour."""
        return self.foreign_at is not None and now - self.foreign_at < UNSUPPORTED_AFTER

    def _update_window(self, window: Window, now: datetime) -> list[Event]:
        known = self.windows.get(window.key)
        events: list[Event] = []
        if known is None:
            if window.is_placeholder or len(self.windows) >= MAX_WINDOWS:
                return []
            state = first_reading(window)
        else:
            is_stale = not known.is_known(window.read_at, self.stale_after)
            state, events = next_reading(
                known, window, account=self.account, thresholds=self.thresholds, now=now, is_stale=is_stale
            )
        if known is None or (state.utilization, state.resets_at) != (known.utilization, known.resets_at):
            self.last_change = window.read_at
        self.windows[window.key] = state
        return events

    def _update_complete(self, reading: Reading) -> None:
        """Note what a response lacks, which counts only if it is a good one that has the session or the week."""
        last, read_at = self.last_complete, reading.read_at
        if last is not None and read_at <= last:
            return
        passed = min(read_at - last, LONGEST_GAP) if last is not None else timedelta(0)
        counts = not reading.malformed and (FIVE_HOUR in reading.windows or SEVEN_DAY in reading.windows)
        for key, state in list(self.windows.items()):
            if key in reading.windows:
                if state.seen_among != reading.ignored:
                    self.windows[key] = replace(state, seen_among=reading.ignored)
            elif counts and state.read_at < read_at:
                state = no_reading(state, passed, reading.ignored, is_kept=key in (FIVE_HOUR, SEVEN_DAY))  # noqa: PLW2901
                self.windows[key] = state
                if state.is_gone:
                    del self.windows[key]
        if counts and reading.extra_usage is None and self.money is not None:
            self.money = no_money(self.money, passed)
            if self.money.is_gone:
                self.money = None
        self.plan, self.tier = reading.plan or self.plan, reading.tier or self.tier
        self.ignored = reading.ignored
        self.last_complete = read_at

    def _update_money(self, money: ExtraUsage, read_at: datetime, now: datetime) -> list[Event]:
        known = self.money
        if known is not None and known.money is not None and read_at <= known.read_at:
            return []
        self.money, events = next_money(
            known, money, read_at, account=self.account, thresholds=self.extra_thresholds, now=now
        )
        if known is None or known.money != money:
            self.last_change = read_at
        return events

    def _account_events(self, now: datetime) -> list[Event]:
        where = self.standing(now)
        events: list[Event] = []

        def event(event_type: str) -> Event:
            tightest = where.tightest
            return Event(
                event_type=event_type,
                account=self.account,
                at=now,
                label=None if tightest is None else tightest.label,
                utilization=None if tightest is None else tightest.utilization,
                resets_at=where.blocked_until,
                expires_at=now + ACCOUNT_EVENT_LASTS,
            )

        if where.active is not None:
            if where.active and self.was_active is False:
                events.append(event(EXTRA_USAGE_STARTED))
            self.was_active = where.active
        if where.blocked is not None:
            if self.was_blocked is not None and where.blocked != self.was_blocked:
                events.append(event(BLOCKED if where.blocked else UNBLOCKED))
            self.was_blocked = where.blocked
        return events

    def known_money(self, now: datetime) -> ExtraUsage | None:
        """Return extra usage if it may be shown."""
        return None if self.money is None else self.money.known(now, self.stale_after)

    def known_windows(self, now: datetime) -> list[WindowState]:
        """Return the windows whose numbers may be shown."""
        return [window for window in self.windows.values() if window.is_known(now, self.stale_after)]

    def standing(self, now: datetime) -> Standing:
        """Return what all windows and the money mean together."""
        money = self.known_money(now)
        has_money = self.has_extra_usage and self.money is not None and self.money.enabled
        return standing(self.windows.values(), money, now, self.stale_after, has_money=has_money)

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

    def resets(self) -> list[datetime]:
        """Return the known resets, soonest first."""
        return sorted({w.resets_at for w in self.windows.values() if w.present and w.resets_at is not None})

    def changes_at(self, now: datetime) -> datetime | None:
        """Return when time alone changes more than the passing numbers: a reset, a limit reached, a number stale."""
        instants = [self.money.read_at + self.stale_after] if self.money is not None else []
        for window in self.windows.values():
            if window.present:
                instants.append(window.unknown_at(self.stale_after))
                instants += [at for at in (window.resets_at, window.limit_at) if at is not None]
        return min((instant for instant in instants if instant > now), default=None)

    def clock_stepped(self, step: timedelta) -> None:
        """Follow a clock that was set by `step`.

        After a forward step readings age by it: a machine that slept and one whose clock was set late look the same.
        After a backward one everything that this process recorded moves, and nothing that was restored.
        """
        if step >= timedelta(0):
            return
        self.windows = {
            key: window if window.read_at in self.restored else shifted(window, step)
            for key, window in self.windows.items()
        }
        if self.money is not None and self.money.read_at not in self.restored:
            self.money = replace(self.money, read_at=self.money.read_at + step)
        self.last_read = self._moved(self.last_read, step)
        self.last_complete = self._moved(self.last_complete, step)
        self.last_change = self._moved(self.last_change, step)
        self.foreign_at = self._moved(self.foreign_at, step)

    def _moved(self, instant: datetime | None, step: timedelta) -> datetime | None:
        return instant if instant is None or instant in self.restored else instant + step
