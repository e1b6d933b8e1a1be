"""An access token and what is known about it: read again at every poll, never written, never kept.

A problem with a login is a CredentialsError that names the place, but never what was found there.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from claude_usage_mqtt.errors import ApiError, CredentialsNotFound, CredentialsUnreadable, TokenExpired
from claude_usage_mqtt.instants import from_epoch, local_time, parse_instant
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.untrusted import clean_text
from claude_usage_mqtt.usage.json_values import names

EXPIRY_MARGIN = timedelta(minutes=5)
"""A token this close to its end is not sent: clocks differ, and an expired one is answered with a 429."""

MAX_TOKEN = 8192
QUOTES = "\"'`\u201c\u201d\u2018\u2019"

LOG_IN_AGAIN = "log in with Claude Code again"
"""What to do about a token that the API refused, unless its source knows better (`explain`)."""

BEING_WRITTEN = f"perhaps because it is being written; if it stays so, {LOG_IN_AGAIN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An access token and what is known about its login. `remark`: what else to say if it has expired."""

    token: str = field(repr=False)
    login: Login = field(default_factory=Login)
    remark: str | None = None

    def require_unexpired(self, now: datetime) -> None:
        """Raise TokenExpired if the token has expired, or will within five minutes."""
        expires_at = self.login.token_expires_at
        if expires_at is not None and now >= expires_at - EXPIRY_MARGIN:
            verb = "expired" if now >= expires_at else "expires"
            raise TokenExpired(
                f"The access token {verb} at {local_time(expires_at)}; open Claude Code once on the machine that "
                "owns it: its command-line program renews the token at its start and with each message, which the "
                "desktop app and a terminal that sits idle do not. The source claude-code keeps it renewed."
                + ("" if self.remark is None else f" {self.remark}")
            )


class CredentialSource(Protocol):
    """A place where credentials are found; `can_be_watched`: a change of them is noticed without reading them."""

    place: str
    """The place, in words, for messages."""

    @property
    def can_be_watched(self) -> bool:
        """Whether the fingerprint changes whenever the credentials do."""

    def read(self) -> Credentials:
        """Return the credentials as they are now; raises CredentialsError."""

    def fingerprint(self) -> object:
        """Return something that changes when the credentials do, cheaply and without reading them."""

    def explain(self, error: ApiError) -> ApiError:
        """Return an error that says more about a refusal of this login, or the error itself."""
        return error


def parse_credentials(text: str, place: str, invalid: str = BEING_WRITTEN) -> Credentials:
    """Return the credentials in `text`, the JSON of Claude Code's file; raises CredentialsError.

    `invalid`: why text from this place may not be JSON, and what to do then.
    """
    if not text.strip():
        raise CredentialsUnreadable(f"{place} is empty; if it stays so, log in with Claude Code again.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise CredentialsUnreadable(f"{place} is not valid JSON, {invalid}.") from None
    if not isinstance(document, dict):
        raise CredentialsUnreadable(f"{place} does not hold a JSON object; log in with Claude Code again.")
    section = document.get("claudeAiOauth")
    if section is None:
        raise CredentialsNotFound(f"{place} holds no Claude login; log in with Claude Code.")
    if not isinstance(section, dict):
        raise CredentialsUnreadable(f"claudeAiOauth in {place} is not an object; log in with Claude Code again.")
    token = section.get("accessToken")
    if token is None or token == "":
        raise CredentialsNotFound(
            f"{place} holds no access token: the login has ended, or somebody logged out; log in with Claude Code."
        )
    if not isinstance(token, str):
        raise CredentialsUnreadable(f"The access token in {place} is not text; log in with Claude Code again.")
    return Credentials(token=checked_token(token, place), login=_login(document, section, token))


def checked_token(token: str, place: str) -> str:
    """Return a token that can be sent; raises CredentialsUnreadable."""
    if token[:1] in QUOTES or token[-1:] in QUOTES:
        raise CredentialsUnreadable(f"The access token in {place} is in quotation marks; remove them.")
    if re.search(r"\s", token):
        raise CredentialsUnreadable(f"The access token in {place} contains a line break or a space; copy it again.")
    # Anything but visible ASCII would make the HTTP library quote the token in an error.
    if len(token) > MAX_TOKEN or not re.fullmatch(r"[!-~]+", token):
        raise CredentialsUnreadable(f"The access token in {place} contains invalid characters; copy it again.")
    return token


def _login(document: dict[str, Any], section: dict[str, Any], token: str) -> Login:
    # Since 2026 the account and its organization are inside; older files have them next to the section.
    account, organization = (section.get(key) or document.get(key) for key in ("accountUuid", "organizationUuid"))
    return Login(
        account=hashed(account),
        organization=hashed(organization),
        plan=clean_text(section.get("subscriptionType")),
        tier=clean_text(section.get("rateLimitTier")),
        scopes=names(section.get("scopes")),
        token_expires_at=_milliseconds(section.get("expiresAt")),
        login_expires_at=_milliseconds(section.get("refreshTokenExpiresAt")),
        mark=hash(token),
    )


def _milliseconds(value: object) -> datetime | None:
    """Return an instant in milliseconds, a number or text, or in ISO 8601; None if it is missing, zero or nonsense."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,16}", value):
        return from_epoch(int(value), 1000)
    return from_epoch(value, 1000) or parse_instant(value)


def hashed(value: object) -> str | None:
    """Return a short hash of an account's or organization's id: enough to notice a change, and nothing more."""
    if not isinstance(value, str) or not value:
        return None
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:16]
