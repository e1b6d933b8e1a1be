"""The contract's constants: topic names, account ids, bounds, and how a document becomes a payload."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULT_ACCOUNT = "default"
"""The id of the account if CLAUDE_ACCOUNTS is not set."""

ACCOUNT_ID = re.compile(r"[a-z0-9_]{1,40}")

SHORTEST_INTERVAL, LONGEST_INTERVAL = 180, 3600
"""Seconds; the bounds of the poll interval, by setting and by command."""

ONLINE, OFFLINE = b"online", b"offline"
"""The payloads of the status topic."""

STARTING, OK, PAUSED = "starting", "ok", "paused"
NO_PROBLEM = (STARTING, OK, PAUSED)

FIXED_BY_A_PERSON = (
    "no_credentials",
    "credentials_unreadable",
    "token_expired",
    "unauthorized",
    "insufficient_scope",
    "no_status_line",
)
"""These are a problem at once."""

FIXED_BY_TIME = ("rate_limited", "network_error", "server_error", "invalid_response")
"""These are a problem after `FAILURES_TOLERATED` failures in a row."""

FAILURES_TOLERATED = 3

ASLEEP = ("no_reporter",)
"""These are a problem after `ASLEEP_TOLERATED` seconds without numbers: machines sleep at night. They are a problem at
once if a person must fix the login of every machine."""

ASLEEP_TOLERATED = 86400

STATUSES = (*NO_PROBLEM, *FIXED_BY_A_PERSON, *FIXED_BY_TIME, *ASLEEP)
"""The values of `status`; those of errors are the `status` of the error's class."""


class Topics(NamedTuple):
    """The topics of one account under a base topic."""

    base: str
    account: str
    prefix: str = "homeassistant"

    @property
    def status(self) -> str:
        """Availability of the service; also the last will."""
        return f"{self.base}/status"

    @property
    def state(self) -> str:
        """The numbers."""
        return f"{self.base}/{self.account}/state"

    @property
    def health(self) -> str:
        """How polling is going."""
        return f"{self.base}/{self.account}/health"

    @property
    def memory(self) -> str:
        """What our own next start needs; not for others."""
        return f"{self.base}/{self.account}/memory"

    @property
    def statusline(self) -> str:
        """Usage as the status line saw it, incoming."""
        return f"{self.base}/{self.account}/statusline"

    @property
    def device(self) -> str:
        """The device's identifier."""
        return f"claude_usage_{self.account}"

    @property
    def config(self) -> str:
        """The device-discovery message."""
        return f"{self.prefix}/device/{self.device}/config"

    def event(self, window: str) -> str:
        """Return the topic of a window's events."""
        return f"{self.base}/{self.account}/event/{window}"

    def command(self, name: str) -> str:
        """Return the topic of a command, incoming."""
        return f"{self.base}/{self.account}/command/{name}"


class ReporterTopics(NamedTuple):
    """The topics of one reporter under a base topic."""

    base: str
    machine: str

    @property
    def presence(self) -> str:
        """Whether the reporter is online, and which accounts it has a login for; also its last will."""
        return f"{self.base}/reporter/{self.machine}"

    @property
    def ask(self) -> str:
        """Requests for a reading."""
        return f"{self.presence}/ask"

    @property
    def answer(self) -> str:
        """The reporter's answers."""
        return f"{self.presence}/answer"


def encode(document: Mapping[str, Any]) -> bytes:
    """Return compact JSON."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")  # a setting can contain invalid characters
