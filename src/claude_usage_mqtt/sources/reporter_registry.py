"""The machines that have reporters: which there are, and what was said about them. Safe from any thread.

What they announce came over the broker from anybody who may publish there, so their number is bounded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from datetime import datetime

from claude_usage_mqtt.sources.reporter_machine import FORGOTTEN_AFTER, Machine, MachineLogin

log = logging.getLogger(__name__)

MAX_MACHINES = 50
"""More machines than one person has; when it is full, those that never answered make room."""


class MachineRegistry:
    """By their names, for our `accounts`; whoever reads or changes anything in it holds `changed`."""

    def __init__(self, accounts: Iterable[str]) -> None:
        self.accounts = frozenset(accounts)
        self.is_connected = False
        """Whether we are connected to the broker: nobody is silent because we are."""
        self.changed = threading.Condition()
        self.machines: dict[str, Machine] = {}
        self._mentioned: set[tuple[str, str]] = set()

    def logins(self, account: str) -> list[tuple[Machine, MachineLogin]]:
        """Return the machines that announced an account, with their logins."""
        return [(each, each.logins[account]) for each in self.machines.values() if account in each.accounts]

    def add(self, machine: Machine, now: datetime) -> bool:
        """Add a machine, if there is room."""
        self.forget_old(now)
        if len(self.machines) >= MAX_MACHINES:
            idle = [each for each in self.machines.values() if not each.has_answered]
            if not idle:
                self.mention(
                    "", "full", f"More than {MAX_MACHINES} reporters announced themselves; the rest are ignored."
                )
                return False
            del self.machines[min(idle, key=lambda each: (each.online, each.seen_at)).name]
        self.machines[machine.name] = machine
        return True

    def forget_old(self, now: datetime) -> None:
        """Forget those that were not seen for long."""
        for machine in list(self.machines.values()):
            if not machine.was_there(now, FORGOTTEN_AFTER):
                del self.machines[machine.name]

    def mention(self, machine: str, kind: str, sentence: str) -> None:
        """Log something about a machine once; its `kind` is an account, or empty if the machine has none of ours."""
        if (machine, kind) not in self._mentioned and len(self._mentioned) < 2 * MAX_MACHINES:
            self._mentioned.add((machine, kind))
            log.warning("%s", sentence)

    def is_well(self, machine: str) -> None:
        """Note that there is nothing to say about a machine anymore."""
        self._mentioned = {each for each in self._mentioned if each[0] != machine}

    def strangers(self) -> list[str]:
        """Return the machines that have none of our accounts."""
        return [name for name, kind in self._mentioned if not kind]
