"""The reporters of one account: which of them to ask, and whose numbers the account shows.

Of the machines that are online and have a usable login of this account, the one that answered last is asked, then the
next. One that was silent, or refused, is left alone for a while, unless it announces itself again. A login of another
account replaces the known one only after it has been there long enough and no machine has the known one.
Safe from any thread: the loop feeds it, workers read it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import InvalidResponse, NetworkError
from claude_usage_mqtt.instants import format_instant, moved
from claude_usage_mqtt.sources.reading_json import Busy
from claude_usage_mqtt.sources.reporter_machines import (
    ABSENT_AFTER,
    FOREIGN,
    FORGOTTEN_AFTER,
    MAX_MACHINES,
    Hold,
    Machine,
    MachineLogin,
    MachineRegistry,
    restored,
    restored_owner,
    sentence,
)
from claude_usage_mqtt.sources.reporter_messages import MACHINE, USABLE
from claude_usage_mqtt.sources.source import Login, PollResult
from claude_usage_mqtt.usage.reading import REPORTER, Owner

FAULTS = frozenset({NetworkError.status, InvalidResponse.status})
"""Reasons that may not apply to another machine; only a poll can show whether they are gone."""

MOMENT = timedelta(minutes=1)
"""A machine that may ask again within this time is not missing: it has just asked."""

REPLACED_AFTER = timedelta(minutes=10)
"""After a restart the machines appear one by one."""


class AccountReporters:
    """`owner` is whose numbers the account shows, `used_here_at` when a login on this machine was last used for it.

    `unasked` counts requests that somebody else asked for.
    """

    def __init__(self, account: str, registry: MachineRegistry) -> None:
        self._account = account
        self._registry = registry
        self._owner = Owner()
        self._used_here_at: datetime | None = None
        self.unasked = 0
        self._was_askable = False

    # What a poll learns

    def to_ask(self, now: datetime) -> list[str]:
        """Return the machines that can be asked, the one that answered last first."""
        with self._registry.changed:
            askable = [
                (-login.answered_at.timestamp() if login.answered_at is not None else 0.0, machine.name)
                for machine, login, status in self._statuses(now)
                if status == USABLE and self._registry.is_connected
            ]
            return [name for _, name in sorted(askable)]

    def _is_foreign(self, machine: Machine, owner: Owner, now: datetime) -> bool:
        """Whether a login that a machine has or used is not the account's and may not replace it."""
        if self._owner.is_same(owner) is not False:
            return False
        since = machine.login(self._account).foreign_since
        if since is None or now - since < REPLACED_AFTER:
            return True
        if self._used_here_at is not None and now - self._used_here_at < FORGOTTEN_AFTER:
            return True
        return any(
            self._owner.is_same(login.owner)
            for other, login in self._registry.logins(self._account)
            if other is not machine and other.was_there(now, FORGOTTEN_AFTER)
        )

    def accepts(self, name: str, login: Login, now: datetime) -> bool:
        """Whether to accept a machine's reading; if so, the login that made it is the account's from now on."""
        with self._registry.changed:
            machine = self._registry.machines.get(name) or Machine(name, now)
            entry = machine.login(self._account)
            if not self._is_foreign(machine, login.owner, now):
                machine.seen_at = entry.answered_at = now
                entry.hold = None
                self._registry.is_well(name)
                self._learn(login.owner)
                return True
            if entry.announced is not None:
                # The login that made the request is newer than the one that was announced.
                entry.announced = entry.announced._replace(login=login)
                entry.foreign_since = entry.foreign_since or now
                entry.hold = Hold(FOREIGN, now + REPLACED_AFTER)
                self._registry.mention(
                    name,
                    self._account,
                    f"Account {self._account}: the reading of {name} is rejected: its login "
                    "belongs to a different account than that of the other machines.",
                )
            return False

    def delivered(self, result: PollResult, now: datetime) -> None:
        """Note which source delivered: if it has a login on this machine, no reporter may replace that."""
        if result.source != REPORTER and result.login is not None and result.login.owner != Owner():
            with self._registry.changed:
                self._used_here_at = now
                self._learn(result.login.owner)

    def _learn(self, owner: Owner) -> None:
        if owner == Owner():
            return
        self._owner = owner if self._owner.is_same(owner) is False else owner.completed(self._owner)
        for _, login in self._registry.logins(self._account):
            if self._owner.is_same(login.owner) is not False:
                login.foreign_since = None

    def rejected(self, name: str, hold: Hold, asked_at: datetime) -> None:
        """Note why a machine had no reading, and until when it is not asked again.

        If it has announced itself since it was asked, the reason is gone, or the request was lost.
        """
        with self._registry.changed:
            machine = self._registry.machines.get(name)
            if machine is not None and (not machine.online or machine.seen_at <= asked_at):
                machine.login(self._account).hold = hold

    # What arrives

    def compare(self, login: MachineLogin, now: datetime) -> None:
        """Note since when the login that a machine announced, if any, has not been the account's."""
        is_foreign = self._owner.is_same(login.owner) is False
        login.foreign_since = (login.foreign_since or now) if is_foreign else None

    def take_unasked(self) -> int:
        """Return how many requests were made for somebody else since the last call."""
        with self._registry.changed:
            unasked, self.unasked = self.unasked, 0
            return unasked

    # What the service shows and does

    def can_be_asked(self, now: datetime) -> bool:
        """Whether any machine can be asked."""
        return bool(self.to_ask(now))

    def has_become_askable(self, now: datetime) -> bool:
        """Whether a machine can be asked now, if none could at the last call or a login has failed since then."""
        is_askable = self.can_be_asked(now)
        if not is_askable and (self.is_waiting(now) or self._is_held(now, FAULTS)):
            return False  # when its turn comes, nothing will have changed
        was_askable, self._was_askable = self._was_askable, is_askable
        return is_askable and not was_askable

    def login_failed(self) -> None:
        """Note that a poll failed for lack of a login: a machine that can be asked is worth another poll."""
        self._was_askable = False

    def wait_for_one(self, now: datetime, within: float) -> bool:
        """Wait until a machine can be asked, at most this many real seconds; return whether one can."""
        with self._registry.changed:
            return self._registry.changed.wait_for(lambda: self.can_be_asked(now), within)

    def wake_at(self, now: datetime) -> datetime | None:
        """Return when time alone changes what can be asked or what is shown."""
        moments: list[datetime | None] = []
        with self._registry.changed:
            for machine, login in self._registry.logins(self._account):
                moments += moved(machine.away_since, ABSENT_AFTER), moved(login.foreign_since, REPLACED_AFTER)
                moments.append(None if login.hold is None else login.hold.until)
        return min((moment for moment in moments if moment is not None and moment > now), default=None)

    def documents(self, now: datetime) -> list[dict[str, Any]]:
        """Return `health.reporters`; that a machine has just asked is not shown as a reason."""
        with self._registry.changed:
            self._registry.forget_old(now)
            return [
                {
                    "machine": machine.name,
                    "status": USABLE if status == Busy.status else status,
                    "seen_at": format_instant(machine.seen_at),
                }
                for machine, _, status in sorted(self._statuses(now), key=lambda pair: pair[0].name)
            ]

    def is_waiting(self, now: datetime) -> bool:
        """Whether a machine is waiting only because it has just asked."""
        return self._is_held(now, {Busy.status}, MOMENT)

    def _is_held(self, now: datetime, reasons: Collection[str], at_most: timedelta = timedelta.max) -> bool:
        """Whether one of these reasons keeps a machine from being asked, for at most this long."""
        with self._registry.changed:
            return self._registry.is_connected and any(
                login.hold is not None and login.hold.until - now <= at_most and status in reasons
                for _, login, status in self._statuses(now)
            )

    def all_have(self, status: str, now: datetime) -> bool:
        """Whether this status, and nothing else, keeps all machines that are there from being asked."""
        with self._registry.changed:
            statuses = {each for machine, _, each in self._statuses(now) if machine.online}
            return self._registry.is_connected and statuses == {status}

    def why_none(self, now: datetime) -> str | None:
        """Return the sentence that lists the machines and why none can be asked; None if we are away."""
        with self._registry.changed:
            if not self._registry.is_connected:
                return None
            statuses = [(machine, status) for machine, _, status in self._statuses(now)]
            return sentence(statuses, self._registry.strangers(), self._registry.accounts)

    def _statuses(self, now: datetime) -> list[tuple[Machine, MachineLogin, str]]:
        """Return the machines that announced the account, each with its login and its status."""
        return [
            (machine, login, machine.status(login, now, is_foreign=self._is_foreign(machine, login.owner, now)))
            for machine, login in self._registry.logins(self._account)
        ]

    # Across restarts and clock steps

    def save(self) -> dict[str, Any]:
        """Return what must survive a restart, as a JSON object."""
        with self._registry.changed:
            return {
                "login": self._owner._asdict(),
                "machines": {each.name: each.save(login) for each, login in self._registry.logins(self._account)},
            }

    def restore(self, document: object, now: datetime) -> None:
        """Restore what an earlier run saved, untrusted: machines are away until they announce themselves."""
        if not isinstance(document, dict):
            return
        machines = document.get("machines")
        with self._registry.changed:
            self._learn(restored_owner(document.get("login")))
            for name, entry in list(machines.items())[:MAX_MACHINES] if isinstance(machines, dict) else ():
                found = restored(name, self._account, entry, now) if MACHINE.fullmatch(name) else None
                if found is None:
                    continue
                known, saved = self._registry.machines.get(name), found.logins[self._account]
                if known is None:
                    self._registry.add(found, now)
                else:  # it has another account of ours, or has announced itself already
                    known.logins.setdefault(self._account, saved).answered_at = saved.answered_at

    def clock_stepped(self, step: timedelta) -> None:
        """Follow a clock that was set."""
        self._used_here_at = moved(self._used_here_at, step)
