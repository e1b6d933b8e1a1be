"""The registry of reporters: what they announced, when each was last heard, and whose login each has.

Everything in it came over the broker from anybody who may publish there: it is parsed, bounded, and never believed
further than it must be. Safe from any thread: the loop feeds it, workers read it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.service.machine import ABSENT_AFTER, Machine, login_from_json, login_to_json, restored, sentence
from claude_usage_mqtt.sources.choice import Candidate, is_same_login
from claude_usage_mqtt.sources.reporter import FOREIGN, SILENT
from claude_usage_mqtt.sources.reporter_messages import (
    MACHINE,
    AnnouncedLogin,
    Presence,
    parse_answer,
    parse_presence,
)
from claude_usage_mqtt.sources.source import Login

log = logging.getLogger(__name__)

MAX_MACHINES = 50
"""More machines than one person has; when it is full, those that never answered make room."""

MAX_UNASKED = 40
"""Requests counted at once that we did not ask for: anybody can claim them, and more than the budget means nothing."""

FORGOTTEN_AFTER = timedelta(days=7)
"""A machine that was not seen for longer is not listed anymore, and its login no longer counts as the account's."""

REPLACED_AFTER = timedelta(minutes=10)
"""A login of another account replaces the known one only if it was there for this long and no machine has the known one
anymore: after a restart the machines appear one by one."""


class Reporters:
    """All reporters under a base topic, for the accounts of this service."""

    def __init__(self, accounts: Iterable[str]) -> None:
        self._accounts = frozenset(accounts)
        self._machines: dict[str, Machine] = {}
        self._logins: dict[str, Login] = {}  # account -> whose numbers it shows
        self._local: dict[str, datetime] = {}  # account -> when a login on this machine was last used for it
        self._unasked: dict[str, int] = {}  # account -> requests that somebody else asked for
        self._is_connected = False
        self._mentioned: set[tuple[str, str]] = set()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    # What arrives

    def presence(self, name: str, payload: bytes, now: datetime, *, is_replayed: bool) -> set[str]:
        """Take in what a reporter announced, or its last will; return the accounts whose machines changed.

        `is_replayed`: the broker had retained it, so it does not mean that the machine was there just now.
        """
        if not MACHINE.fullmatch(name):
            return set()
        presence = parse_presence(payload) if payload else Presence(online=False)
        if presence is None:
            return set()
        with self._changed:
            self._changed.notify_all()
            machine = self._machines.get(name)
            if presence.online:
                return self._arrived(name, machine, presence, now, is_replayed=is_replayed)
            if machine is None or not machine.online:
                return set()
            machine.online, machine.seen_at = False, now
            return set(machine.accounts)

    def _arrived(
        self, name: str, machine: Machine | None, presence: Presence, now: datetime, *, is_replayed: bool
    ) -> set[str]:
        accounts = {key: value for key, value in presence.accounts.items() if key in self._accounts}
        if not accounts:
            self._mention(name, "", sentence([], [name], self._accounts))
        if machine is None:
            if not accounts or not self._make_room(now):
                return set()
            machine = self._machines[name] = Machine(name=name, online=True, seen_at=now)
        changed = accounts.keys() | machine.accounts.keys()
        self._announced(machine, accounts, now, is_replayed=is_replayed)
        return set(changed)

    def _announced(
        self, machine: Machine, accounts: dict[str, AnnouncedLogin], now: datetime, *, is_replayed: bool
    ) -> None:
        was_online, before = machine.online, machine.accounts
        machine.online, machine.seen_at, machine.accounts = True, now, accounts
        for account, (reason, _) in list(machine.holds.items()):
            is_other_login = before.get(account) != accounts.get(account)
            is_awake = reason == SILENT and not (was_online and is_replayed)
            if is_other_login or is_awake:
                del machine.holds[account]
        for account in [*machine.foreign_since]:
            if account not in accounts:
                del machine.foreign_since[account]
        for account, announced in accounts.items():
            self._compare(machine, account, announced.login, now)

    def _make_room(self, now: datetime) -> bool:
        self._forget(now)
        if len(self._machines) < MAX_MACHINES:
            return True
        idle = [each for each in self._machines.values() if not each.answered_at]
        if not idle:
            self._mention("", "full", f"More than {MAX_MACHINES} reporters announced themselves; the rest is ignored.")
            return False
        del self._machines[min(idle, key=lambda each: (each.online, each.seen_at)).name]
        return True

    def _forget(self, now: datetime) -> None:
        for machine in list(self._machines.values()):
            if not machine.online and now - machine.seen_at > FORGOTTEN_AFTER:
                del self._machines[machine.name]

    def _compare(self, machine: Machine, account: str, login: Login | None, now: datetime) -> None:
        if is_same_login(self._logins.get(account), login) is False:
            machine.foreign_since.setdefault(account, now)
        else:
            machine.foreign_since.pop(account, None)

    # What a poll learns

    def candidates(self, account: str, now: datetime) -> list[Candidate]:
        """Return the machines that are known for an account."""
        with self._lock:
            return [
                Candidate(
                    machine=machine.name,
                    is_online=machine.online,
                    is_usable=announced.is_usable,
                    is_foreign=self.is_foreign(machine.name, account, announced.login, now),
                    answered_at=machine.answered_at.get(account),
                    hold_until=machine.holds[account][1] if account in machine.holds else None,
                )
                for machine in self._machines.values()
                for announced in [machine.accounts.get(account)]
                if announced is not None
            ]

    def is_foreign(self, machine: str, account: str, login: Login | None, now: datetime) -> bool:
        """Whether a login is not the account's, and may not replace it either."""
        with self._lock:
            known = self._logins.get(account)
            if is_same_login(known, login) is not False:
                return False
            entry = self._machines.get(machine)
            since = entry.foreign_since.get(account) if entry else None
            if since is None or now - since < REPLACED_AFTER:
                return True
            used_here = self._local.get(account)
            if used_here is not None and now - used_here < FORGOTTEN_AFTER:
                return True
            return any(
                is_same_login(known, announced.login)
                for each in self._machines.values()
                if each.name != machine and (each.online or now - each.seen_at < FORGOTTEN_AFTER)
                for announced in [each.accounts.get(account)]
                if announced is not None
            )

    def accepted(self, machine: str, account: str, login: Login | None, now: datetime) -> None:
        """Note that a machine's reading was taken; its login is the account's from now on."""
        with self._lock:
            entry = self._machines.get(machine)
            if entry is not None:
                entry.seen_at = entry.answered_at[account] = now
                entry.holds.pop(account, None)
                self._mentioned = {each for each in self._mentioned if each[0] != machine}
            self._learn(account, login)

    def used_here(self, account: str, login: Login | None, now: datetime) -> None:
        """Note that a login on this machine delivered: no reporter may replace it."""
        if login is not None and (login.account or login.organization):
            with self._lock:
                self._local[account] = now
                self._learn(account, login)

    def somebody_asked(self, machine: str, payload: bytes, now: datetime) -> set[str]:
        """Note the requests of an answer that is not for us; return its account, if it is one of ours."""
        answer = parse_answer(payload, now, machine)
        with self._lock:
            known = self._machines.get(machine)
            if answer is None or not answer.requests or known is None or answer.account not in known.accounts:
                return set()
            self._unasked[answer.account] = min(self._unasked.get(answer.account, 0) + answer.requests, MAX_UNASKED)
            return {answer.account}

    def take_unasked(self, account: str) -> int:
        """Return how many requests were made for somebody else since the last call."""
        with self._lock:
            return self._unasked.pop(account, 0)

    def _learn(self, account: str, login: Login | None) -> None:
        known = self._logins.get(account)
        if login is None or (login.account is None and login.organization is None):
            return
        if known is not None and is_same_login(known, login) is not False:
            login = Login(account=login.account or known.account, organization=login.organization or known.organization)
        self._logins[account] = Login(account=login.account, organization=login.organization)
        for machine in self._machines.values():
            announced = machine.accounts.get(account)
            if announced is not None and is_same_login(self._logins[account], announced.login) is not False:
                machine.foreign_since.pop(account, None)

    def rejected(self, machine: str, account: str, status: str, asked_at: datetime, hold_until: datetime) -> None:
        """Note why a machine had no reading, and until when it is not asked again.

        If it has announced itself since it was asked, the reason is gone, or the request was lost.
        """
        with self._lock:
            entry = self._machines.get(machine)
            if entry is not None and (not entry.online or entry.seen_at <= asked_at):
                entry.holds[account] = status, hold_until

    def is_somebody_elses(self, machine: str, account: str, login: Login | None, now: datetime) -> None:
        """Note that a machine's reading was rejected, because it was made with another account's login."""
        with self._lock:
            entry = self._machines.get(machine)
            announced = entry.accounts.get(account) if entry else None
            if entry is None or announced is None:
                return
            # The login that made the request is newer than the one that was announced.
            entry.accounts[account] = replace(announced, login=login or announced.login)
            entry.foreign_since.setdefault(account, now)
            entry.holds[account] = FOREIGN, now + REPLACED_AFTER
            self._mention(
                machine,
                account,
                f"Account {account}: the reading of {machine} is rejected: its login "
                "belongs to a different account than that of the other machines.",
            )

    def _mention(self, machine: str, kind: str, sentence: str) -> None:
        if (machine, kind) not in self._mentioned and len(self._mentioned) < 2 * MAX_MACHINES:
            self._mentioned.add((machine, kind))
            log.warning("%s", sentence)

    # What the service shows and does

    def can_be_asked(self, account: str, now: datetime) -> bool:
        """Whether any machine can be asked for an account."""
        with self._lock:
            return self._is_connected and any(each.can_be_asked(now) for each in self.candidates(account, now))

    def wait_for_one(self, account: str, now: datetime, within: float) -> bool:
        """Wait until a machine can be asked for an account, at most so many real seconds; return whether one can."""
        with self._changed:
            return self._changed.wait_for(lambda: self.can_be_asked(account, now), within)

    def connected(self, *, is_connected: bool) -> None:
        """Note whether we are connected to the broker: nobody is silent because we are."""
        with self._lock:
            self._is_connected = is_connected

    def is_online(self, machine: str) -> bool:
        """Whether a machine is there, as far as is known."""
        with self._lock:
            return machine in self._machines and self._machines[machine].online

    def names(self) -> list[str]:
        """Return the known machines."""
        with self._lock:
            return sorted(self._machines)

    def wake_at(self, now: datetime) -> datetime | None:
        """Return when time alone changes what can be asked or what is shown."""
        with self._lock:
            moments = [each.seen_at + ABSENT_AFTER for each in self._machines.values() if not each.online]
            for machine in self._machines.values():
                moments += [until for _, until in machine.holds.values()]
                moments += [since + REPLACED_AFTER for since in machine.foreign_since.values()]
        return min((moment for moment in moments if moment > now), default=None)

    def documents(self, account: str, now: datetime) -> list[dict[str, Any]]:
        """Return `health.reporters`: a machine that is away for less than ten minutes still has its last status."""
        with self._lock:
            self._forget(now)
            return [
                {
                    "machine": machine.name,
                    "status": self._status(machine, account, now, is_patient=True),
                    "seen_at": format_instant(machine.seen_at),
                }
                for machine in sorted(self._machines.values(), key=lambda each: each.name)
                if account in machine.accounts
            ]

    def why_none(self, account: str, now: datetime) -> str | None:
        """Return the sentence that lists the machines and why none can be asked; None if it is we who are away."""
        with self._lock:
            if not self._is_connected:
                return None
            machines = [each for each in self._machines.values() if account in each.accounts]
            known = [(each, self._status(each, account, now, is_patient=False)) for each in machines]
            return sentence(known, [name for name, kind in self._mentioned if not kind], self._accounts)

    def _status(self, machine: Machine, account: str, now: datetime, *, is_patient: bool) -> str:
        is_foreign = self.is_foreign(machine.name, account, machine.accounts[account].login, now)
        return machine.status(account, now, is_foreign=is_foreign, is_patient=is_patient)

    # Across restarts and clock steps

    def save(self, account: str) -> dict[str, Any]:
        """Return what must survive a restart for an account, as a JSON object."""
        with self._lock:
            machines = [each for each in self._machines.values() if account in each.accounts]
            return {
                "login": login_to_json(self._logins.get(account)),
                "machines": {machine.name: machine.save(account) for machine in machines},
            }

    def restore(self, account: str, document: object, now: datetime) -> None:
        """Take in what an earlier run saved, untrusted: machines are away until they announce themselves."""
        if not isinstance(document, dict):
            return
        machines = document.get("machines")
        with self._lock:
            self._learn(account, login_from_json(document.get("login")))
            for name, entry in list(machines.items())[:MAX_MACHINES] if isinstance(machines, dict) else ():
                found = restored(name, account, entry, now) if MACHINE.fullmatch(name) else None
                if found is None or now - found.seen_at > FORGOTTEN_AFTER:
                    continue
                known = self._machines.get(name)
                if known is not None:
                    known.accounts.setdefault(account, found.accounts[account])
                    known.answered_at = found.answered_at | known.answered_at
                elif self._make_room(now):
                    self._machines[name] = found

    def shift(self, step: timedelta) -> None:
        """Follow a clock that was set by `step`."""
        with self._lock:
            self._local = {account: at + step for account, at in self._local.items()}
            for machine in self._machines.values():
                machine.shift(step)
