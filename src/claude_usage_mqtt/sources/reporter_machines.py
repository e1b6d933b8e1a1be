"""The machines that have reporters: which ones there are, what is known of each, and the sentences about them.

What they announce came over the broker from anybody who may publish there, so their number is bounded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from claude_usage_mqtt.instants import format_instant, moved, parse_instant
from claude_usage_mqtt.sources.reading_json import Busy
from claude_usage_mqtt.sources.reporter_messages import USABLE, AnnouncedLogin
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.untrusted import HASH, matching
from claude_usage_mqtt.usage.reading import Owner

log = logging.getLogger(__name__)

MAX_MACHINES = 50
"""More machines than one person has; when it is full, those that never answered make room."""

ABSENT_AFTER = timedelta(minutes=10)
"""A machine that is away for less is not called offline: Wi-Fi and restarts."""

SEEN_WITHIN = timedelta(minutes=1)
"""After a restart of the service a machine that was there has announced itself by then, whatever the broker replays."""

FORGOTTEN_AFTER = timedelta(days=7)
"""A machine that was not seen for longer is no longer listed, and its login no longer counts as the account's."""

SILENT, FOREIGN, AWAY, OFFLINE = "silent", "other_account", "away", "offline"

MAX_LISTED = 5
"""Machines named in one sentence."""

WORDS = {
    SILENT: "does not answer",
    FOREIGN: "logged in with another account",
    Busy.status: "has reached its request limit",
    "no_credentials": "not logged in",
    "token_expired": "its token has expired",
    "unauthorized": "its login was refused",
    "insufficient_scope": "its login may not read the usage",
}

LOG_IN = "log in with Claude Code there"
ADVICE = {
    SILENT: "wake one up",
    AWAY: "wake one up",
    OFFLINE: "wake one up",
    FOREIGN: LOG_IN,
    "no_credentials": LOG_IN,
    "credentials_unreadable": "run 'claude-usage-mqtt check' there",
    "token_expired": "start Claude Code there once",
    "unauthorized": LOG_IN,
    "insufficient_scope": LOG_IN,
}
"""What helps a machine with a status; anything else passes by itself."""


class Hold(NamedTuple):
    """Why a machine is not asked, and until when."""

    reason: str
    until: datetime


class MachineLogin:
    """A machine's login of one account: `announced` is None if it no longer has one."""

    def __init__(self) -> None:
        self.announced: AnnouncedLogin | None = None
        self.answered_at: datetime | None = None
        self.foreign_since: datetime | None = None
        self.hold: Hold | None = None

    @property
    def owner(self) -> Owner:
        """Whose login it is, as far as it was announced."""
        return Owner() if self.announced is None else self.announced.login.owner

    def announce(self, announced: AnnouncedLogin | None, *, is_awake: bool) -> None:
        """Process an announcement; `is_awake` says that the machine is surely online now."""
        if announced != self.announced or (is_awake and self.hold is not None and self.hold.reason == SILENT):
            self.hold = None
        self.announced = announced


class Machine:
    """One reporter's machine, with its logins by their accounts.

    `seen_at` is its last own sign of life, `away_since` when the broker said that it is gone, None while it is online.
    """

    def __init__(self, name: str, seen_at: datetime, away_since: datetime | None = None) -> None:
        self.name = name
        self.seen_at = seen_at
        self.away_since = away_since
        self.logins: dict[str, MachineLogin] = {}

    @property
    def online(self) -> bool:
        """Whether it is online, as far as the broker knows."""
        return self.away_since is None

    @property
    def accounts(self) -> set[str]:
        """The accounts that it announced."""
        return {account for account, login in self.logins.items() if login.announced is not None}

    def login(self, account: str) -> MachineLogin:
        """Return its login of an account, a new one if there was none."""
        return self.logins.setdefault(account, MachineLogin())

    @property
    def has_answered(self) -> bool:
        """Whether it ever sent a reading."""
        return any(login.answered_at is not None for login in self.logins.values())

    def was_there(self, now: datetime, within: timedelta) -> bool:
        """Whether it is online, or was recently."""
        return self.away_since is None or now - self.away_since < within

    def status(self, login: MachineLogin, now: datetime, *, is_foreign: bool) -> str:
        """Return `ok`, or why it is not asked."""
        if not self.online:
            return AWAY if self.was_there(now, ABSENT_AFTER) else OFFLINE
        reason = login.hold.reason if login.hold is not None and now < login.hold.until else USABLE
        if is_foreign or reason == FOREIGN:
            return FOREIGN
        if login.announced is not None and not login.announced.is_usable:
            return login.announced.status
        return reason

    def save(self, login: MachineLogin) -> dict[str, Any]:
        """Return what must survive a restart of the service, as a JSON object."""
        return {
            "seen_at": format_instant(self.seen_at),
            "away_since": format_instant(self.away_since),
            "answered_at": format_instant(login.answered_at),
            **login.owner._asdict(),
        }

    def clock_stepped(self, step: timedelta) -> None:
        """Follow a clock that was set."""
        self.seen_at, self.away_since = self.seen_at + step, moved(self.away_since, step)
        for login in self.logins.values():
            login.answered_at, login.foreign_since = moved(login.answered_at, step), moved(login.foreign_since, step)
            login.hold = None if login.hold is None else Hold(login.hold.reason, login.hold.until + step)


class MachineRegistry:
    """All machines by their names, for our `accounts`; callers that read or change anything hold `changed`."""

    def __init__(self, accounts: Iterable[str]) -> None:
        self.accounts = frozenset(accounts)
        self.is_connected = False
        """Whether we are connected to the broker: if not, a machine's silence means nothing."""
        self.changed = threading.Condition()
        self.machines: dict[str, Machine] = {}
        self._mentioned: set[tuple[str, str]] = set()

    def logins(self, account: str) -> list[tuple[Machine, MachineLogin]]:
        """Return the machines that announced an account, with their logins."""
        return [(machine, machine.logins[account]) for machine in self.machines.values() if account in machine.accounts]

    def add(self, machine: Machine, now: datetime) -> bool:
        """Add a machine, if there is room."""
        self.forget_old(now)
        if len(self.machines) >= MAX_MACHINES:
            idle = [known for known in self.machines.values() if not known.has_answered]
            if not idle:
                self.mention(
                    "", "full", f"More than {MAX_MACHINES} reporters announced themselves; the rest are ignored."
                )
                return False
            del self.machines[min(idle, key=lambda known: (known.online, known.seen_at)).name]
        self.machines[machine.name] = machine
        return True

    def forget_old(self, now: datetime) -> None:
        """Forget machines that have not been seen for a long time."""
        machines = self.machines.items()
        self.machines = {name: machine for name, machine in machines if machine.was_there(now, FORGOTTEN_AFTER)}

    def mention(self, machine: str, kind: str, sentence: str) -> None:
        """Log something about a machine once; its `kind` is an account, or empty if the machine has none of ours."""
        if (machine, kind) not in self._mentioned and len(self._mentioned) < 2 * MAX_MACHINES:
            self._mentioned.add((machine, kind))
            log.warning("%s", sentence)

    def is_well(self, machine: str) -> None:
        """Note that a machine is fine again: its next problem is logged."""
        self._mentioned = {(name, kind) for name, kind in self._mentioned if name != machine}

    def strangers(self) -> list[str]:
        """Return the machines that have none of our accounts."""
        return [name for name, kind in self._mentioned if not kind]


def sentence(machines: list[tuple[Machine, str]], strangers: Collection[str], accounts: Iterable[str]) -> str:
    """Return the sentence that lists machines with their statuses, why none can be asked, and what to do.

    `strangers` are machines that have none of our `accounts`.
    """
    if not machines and strangers:
        ours = ", ".join(sorted(accounts)[:5])
        return (
            f"The reporter on {min(strangers)} has none of this service's accounts ({ours}); "
            "use the same names in CLAUDE_ACCOUNTS there."
        )
    if not machines:
        return (
            "No reporter has announced itself; run 'claude-usage-mqtt report' on a machine where Claude Code is used."
        )
    parts = [
        f"{machine.name} ({WORDS.get(status, status.replace('_', ' '))}, last seen {machine.seen_at:%b %d %H:%M} UTC)"
        for machine, status in sorted(machines, key=lambda pair: pair[0].seen_at, reverse=True)[:MAX_LISTED]
    ]
    return f"No machine can be asked: {', '.join(parts)}; {advice(status for _, status in machines)}."


def advice(statuses: Iterable[str]) -> str:
    """Return what helps machines with these statuses."""
    found = dict.fromkeys(ADVICE[status] for status in statuses if status in ADVICE)
    return ", or ".join(found) or "it will be tried again automatically"


def restored(name: str, account: str, entry: object, now: datetime) -> Machine | None:
    """Return a machine that was saved, untrusted; None if it is not one, or was gone for too long.

    It is away until it announces itself.
    """
    saved = entry if isinstance(entry, dict) else {}
    seen_at, away_since = parse_instant(saved.get("seen_at")), parse_instant(saved.get("away_since"))
    if seen_at is None:
        return None
    seen_at, answered_at = min(seen_at, now), parse_instant(saved.get("answered_at"))
    if now - (away_since or seen_at) >= FORGOTTEN_AFTER:
        return None
    away_since = away_since or max(seen_at, now - ABSENT_AFTER + SEEN_WITHIN)
    machine = Machine(name, seen_at, away_since=min(away_since, now))
    login = machine.login(account)
    login.announced = AnnouncedLogin(source="", status="unknown", login=Login(**restored_owner(entry)._asdict()))
    login.answered_at = None if answered_at is None else min(answered_at, now)
    return machine


def restored_owner(section: object) -> Owner:
    """Return whose a login is, untrusted."""
    known = section if isinstance(section, dict) else {}
    return Owner(matching(HASH, known.get("account")), matching(HASH, known.get("organization")))
