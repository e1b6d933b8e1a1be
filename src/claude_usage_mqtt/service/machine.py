"""One reporter's machine as the registry knows it, and what is said about it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.instants import format_instant, parse_instant
from claude_usage_mqtt.sources.reporter import FOREIGN, SILENT
from claude_usage_mqtt.sources.reporter_messages import BUSY, USABLE, AnnouncedLogin
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.untrusted import HASH, matching

ABSENT_AFTER = timedelta(minutes=10)
"""A machine that is away for less is not shown as absent: Wi-Fi and restarts."""

OFFLINE = "offline"

MAX_LISTED = 5
"""Machines named in one sentence."""

WORDS = {
    SILENT: "does not answer",
    FOREIGN: "logged in with another account",
    BUSY: "asked its limit of requests already",
    "no_credentials": "not logged in",
    "token_expired": "its token has expired",
    "unauthorized": "its login was refused",
    "insufficient_scope": "its login may not read the usage",
}


@dataclass(slots=True, kw_only=True)
class Machine:
    """One reporter. `holds` maps an account to the reason why the machine is not asked for it, and until when."""

    name: str
    online: bool
    seen_at: datetime
    accounts: dict[str, AnnouncedLogin] = field(default_factory=dict)
    answered_at: dict[str, datetime] = field(default_factory=dict)
    foreign_since: dict[str, datetime] = field(default_factory=dict)
    holds: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    def status(self, account: str, now: datetime, *, is_foreign: bool, is_patient: bool = False) -> str:
        """Return `ok`, or why it is not asked; if `is_patient`, what passes within minutes is not a reason."""
        announced = self.accounts[account]
        was_of_no_use = announced.source and not announced.is_usable
        if not self.online and (not is_patient or was_of_no_use or now - self.seen_at >= ABSENT_AFTER):
            return OFFLINE
        reason, until = self.holds.get(account, (USABLE, now))
        if is_foreign or (reason == FOREIGN and now < until):
            return FOREIGN
        if not announced.is_usable:
            return announced.status
        return reason if now < until and not (is_patient and reason == BUSY) else USABLE

    def save(self, account: str) -> dict[str, Any]:
        """Return what must survive a restart of the service, as a JSON object."""
        return {
            "seen_at": format_instant(self.seen_at),
            "answered_at": format_instant(self.answered_at.get(account)),
            **login_to_json(self.accounts[account].login),
        }

    def shift(self, step: timedelta) -> None:
        """Follow a clock that was set by `step`."""
        self.seen_at += step
        self.answered_at = {account: at + step for account, at in self.answered_at.items()}
        self.foreign_since = {account: at + step for account, at in self.foreign_since.items()}
        self.holds = {account: (reason, until + step) for account, (reason, until) in self.holds.items()}


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
        for machine, status in sorted(machines, key=lambda each: each[0].seen_at, reverse=True)[:MAX_LISTED]
    ]
    return f"No machine can be asked: {', '.join(parts)}; wake one up, or log in with Claude Code there."


def restored(name: str, account: str, entry: object, now: datetime) -> Machine | None:
    """Return a machine that was saved, untrusted; None if it is not one. It is away until it announces itself."""
    seen_at = parse_instant(entry.get("seen_at")) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or seen_at is None:
        return None
    login = AnnouncedLogin(source="", status="unknown", login=login_from_json(entry) or Login())
    machine = Machine(name=name, online=False, seen_at=min(seen_at, now), accounts={account: login})
    answered_at = parse_instant(entry.get("answered_at"))
    if answered_at is not None:
        machine.answered_at[account] = min(answered_at, now)
    return machine


def login_to_json(login: Login | None) -> dict[str, Any]:
    """Return whose login it is, as a JSON object."""
    return {"account": login.account if login else None, "organization": login.organization if login else None}


def login_from_json(section: object) -> Login | None:
    """Return whose login it is, untrusted."""
    if not isinstance(section, Mapping):
        return None
    return Login(
        account=matching(HASH, section.get("account")), organization=matching(HASH, section.get("organization"))
    )
