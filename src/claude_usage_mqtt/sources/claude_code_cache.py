"""The usage that Claude Code keeps in `.claude.json`: complete, dated, with its owner, and readable without a token.

The same file holds an e-mail address and what people typed: only usage and hashes leave this module.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from claude_usage_mqtt.errors import CredentialsError, InvalidResponse
from claude_usage_mqtt.instants import from_epoch
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.sources.credentials.file import identity, read_text
from claude_usage_mqtt.sources.credentials.token import hashed
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.usage.reading import CLAUDE_CODE, Reading

FILE_NAME = ".claude.json"
MAX_FILE = 16 * 1024 * 1024
"""Bytes; years of prompts are in it."""

AHEAD = timedelta(seconds=5)
"""How far a fetch may be ahead of our clock, which is the same machine's: more means that a clock was wrong."""


class CachedUsage(NamedTuple):
    """A response of the endpoint that Claude Code kept: when it was fetched, and its body."""

    fetched_at: datetime
    body: object

    def is_believable(self, now: datetime) -> bool:
        """Whether it was not fetched in the future."""
        return self.fetched_at <= now + AHEAD


_Content = tuple[Login | None, CachedUsage | None]
"""Whose account Claude Code is logged in to, and what it keeps for that account."""


class UsageCache:
    """The file of one account, the first of these that is there; safe to use from several threads."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen: tuple[object, _Content] = (None, (None, None))

    @property
    def login(self) -> Login | None:
        """Whose account Claude Code is logged in to, None if that is not known."""
        return self._content()[0]

    @property
    def usage(self) -> CachedUsage | None:
        """What Claude Code keeps for that account, None if there is nothing."""
        return self._content()[1]

    def newest(self, now: datetime) -> Reading | None:
        """Return what Claude Code keeps as a reading, None if there is nothing believable; never raises."""
        usage = self.usage
        if usage is None or not usage.is_believable(now):
            return None
        try:
            return parse_usage(usage.body, usage.fetched_at, source=CLAUDE_CODE)
        except InvalidResponse:
            return None

    def _content(self) -> _Content:
        """Return what the file says; it is parsed only if it has changed."""
        for path in self._paths:
            found = identity(path)
            if found is not None:
                if found != self._seen[0]:
                    self._seen = found, _read(path)
                return self._seen[1]
        return None, None


def _read(path: Path) -> _Content:
    try:
        document = json.loads(read_text(path, FILE_NAME, MAX_FILE))
    except (CredentialsError, OSError, ValueError, RecursionError):
        return None, None
    known = document if isinstance(document, dict) else {}
    account, cached = known.get("oauthAccount"), known.get("cachedUsageUtilization")
    if not isinstance(account, dict) or not isinstance(account.get("accountUuid"), str):
        return None, None
    login = Login(account=hashed(account["accountUuid"]), organization=hashed(account.get("organizationUuid")))
    if not isinstance(cached, dict) or cached.get("accountUuid") != account["accountUuid"]:
        return login, None
    fetched_at = from_epoch(cached.get("fetchedAtMs"), 1000)
    return login, None if fetched_at is None else CachedUsage(fetched_at, cached.get("utilization"))
