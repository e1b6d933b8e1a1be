"""The log of one account: a lasting problem is logged once when it begins and once when it is over."""

from __future__ import annotations

import logging
from datetime import datetime

from claude_usage_mqtt.errors import ClaudeUsageError, NoReporter
from claude_usage_mqtt.logs import Outage
from claude_usage_mqtt.usage.plausibility import Suspect
from claude_usage_mqtt.usage.reading import Reading

log = logging.getLogger(__name__)

ANOTHER_LOGIN = (
    "Numbers of another login are ignored; name both logins in CLAUDE_ACCOUNTS here, and pass --account ID to "
    "'claude-usage-mqtt statusline' in the Claude Code settings of each."
)

MAX_SECTIONS = 200
"""Names that are remembered as logged; an API that keeps inventing names does not fill the memory."""


def unlikely_sentence(suspect: Suspect) -> str:
    """Return the sentence about a reading that is not yet believed."""
    window = suspect.window
    return f"{window.label} {window.utilization:g} % is unlikely; it is not shown until the next response confirms it."


class AccountLog:
    """Remembers what was logged."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._failure = Outage(log)
        self._staleness = Outage(log)
        self._another_login = Outage(log)
        self._clock = Outage(log)
        self._was_fresh = False  # numbers that are already old at the start are not worth a line
        self._has_answered = False
        self._sections: tuple[str, ...] = ()

    def unreadable(self, topic: str, payload: bytes | None) -> None:
        """Log that the saved state was written by another version, or is missing."""
        why = "has an unsupported format" if payload else "is missing, or this user may not read it"
        log.warning("The saved state in %s %s; only the last readings are restored.", topic, why)

    def sections(self, reading: Reading) -> None:
        """Name what is not understood in a response, each once."""
        new = [section for section in (*reading.malformed, *reading.ignored) if section not in self._sections]
        if new:
            self._sections = (*self._sections, *new)[-MAX_SECTIONS:]
            names = ", ".join(new)
            log.debug("Account %s: sections of the response that are not understood: %s", self._account, names)

    def numbers(self, reading: Reading) -> None:
        """Log what a poll brought; the first time at level info."""
        known = ", ".join(f"{window.label} {window.utilization:g} %" for window in reading) or "no windows"
        log.log(logging.DEBUG if self._has_answered else logging.INFO, "Account %s: %s", self._account, known)
        self._has_answered = True
        self._failure.up(f"Account {self._account}: the usage is known again.")

    def unlikely(self, suspect: Suspect) -> None:
        """Log a reading that is not yet believed."""
        log.info("Account %s: %s", self._account, unlikely_sentence(suspect))

    def another_login(self, *, is_seen: bool) -> None:
        """Log when another login's status line is ignored, and when none has come for a while."""
        if is_seen:
            self._another_login.down("foreign", f"Account {self._account}: {ANOTHER_LOGIN}")
        else:
            self._another_login.up(f"Account {self._account}: numbers of another login no longer arrive.")

    def wrong_clock(self, sentence: str) -> None:
        """Log, once, that the clock of a machine is wrong."""
        self._clock.down("clock", f"Account {self._account}: {sentence}")

    def failed(self, error: ClaudeUsageError) -> None:
        """Log each poll that failed, at level debug."""
        log.debug("Account %s: the poll failed: %s", self._account, error)

    def down(self, error: ClaudeUsageError) -> None:
        """Log what is wrong; for reporters again if the advice, the end of the sentence, changes."""
        helps = str(error).rpartition("; ")[2] if isinstance(error, NoReporter) else ""
        self._failure.down(error.status + helps, f"Account {self._account}: {error}")

    def switched(self) -> None:
        """Log that another account's login is used."""
        log.info("Account %s: credentials now belong to another organization; readings were reset.", self._account)

    def freshness(self, *, is_fresh: bool, last_success: datetime | None) -> None:
        """Log when the numbers become too old to be shown, and when they are back."""
        if is_fresh:
            self._staleness.up(f"Account {self._account}: the numbers are current again.")
        elif self._was_fresh and last_success is not None:
            read_at = last_success.astimezone().strftime("%H:%M")
            self._staleness.down(
                "stale", f"Account {self._account}: the numbers, read at {read_at}, are no longer shown."
            )
        self._was_fresh = is_fresh
