"""What a reporter and the service say to each other over the broker, encoded as JSON, and parsed as untrusted input.

A presence is retained: whether the reporter is there, and what logins it has. An ask wants one reading, an answer
holds it, or an error. None of them ever holds a token or an e-mail address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from claude_usage_mqtt import __version__
from claude_usage_mqtt.errors import ApiError, CredentialsError
from claude_usage_mqtt.instants import format_instant, parse_instant
from claude_usage_mqtt.sources.reading_json import error_from_json, error_to_json, reading_from_json, reading_to_json
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.topics import ACCOUNT_ID, encode
from claude_usage_mqtt.untrusted import HASH, clean_text, json_object, matching, number
from claude_usage_mqtt.usage.reading import OAUTH, SOURCES, Reading

MAX_PRESENCE = 192 * 1024
MAX_ANSWER = 64 * 1024
MAX_ASK = 1024
"""Bytes; a presence with one account has about 400, an answer about 2,000, an ask about 60."""

MAX_ACCOUNTS = 500
"""As many as the settings allow."""

MAX_REQUESTS = 2
"""One answer needs at most this many: a second one if the login was renewed in between."""

MACHINE = re.compile(r"[a-z0-9](?:[a-z0-9_]{0,38}[a-z0-9])?")
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")

USABLE = "ok"


class AnnouncedLogin(NamedTuple):
    """A login as its reporter announced it; `status` is `ok`, or why it cannot be used now."""

    source: str
    status: str
    login: Login

    @property
    def is_usable(self) -> bool:
        """Whether the reporter could ask with it."""
        return self.status == USABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a reporter says about itself; `instance` distinguishes processes of the same name."""

    online: bool
    instance: str | None = None
    accounts: Mapping[str, AnnouncedLogin] = field(default_factory=dict)


class Ask(NamedTuple):
    """A request for a reading of an account; without an account it only asks whether anybody is there."""

    id: str
    account: str | None


class Answer(NamedTuple):
    """The answer to an ask: a reading, or why there is none, and how many requests to the API that took."""

    id: str
    account: str | None = None
    requests: int = 0
    login: Login | None = None
    reading: Reading | None = None
    error: ApiError | CredentialsError | None = None


OFFLINE = encode({"online": False})
"""The last will."""


def encode_presence(presence: Presence) -> bytes:
    """Return the payload of a presence."""
    return encode(
        {
            "online": presence.online,
            "instance": presence.instance,
            "version": __version__,
            "accounts": {
                account: {"source": each.source, "status": each.status, "usable": each.is_usable, **_login(each.login)}
                for account, each in presence.accounts.items()
            },
        }
    )


def parse_presence(payload: bytes) -> Presence | None:
    """Return what a reporter announced, None if it is not a presence; never raises."""
    document = json_object(payload, MAX_PRESENCE)
    if not isinstance(document.get("online"), bool):
        return None
    accounts = document.get("accounts")
    entries = accounts.items() if isinstance(accounts, dict) and len(accounts) <= MAX_ACCOUNTS else ()
    return Presence(
        online=document["online"],
        instance=matching(IDENTIFIER, document.get("instance")),
        accounts={
            account: AnnouncedLogin(
                source=section["source"] if section.get("source") in SOURCES else OAUTH,
                status=matching(ACCOUNT_ID, section.get("status")) or "unknown",
                login=_parse_login(section),
            )
            for account, section in entries
            if ACCOUNT_ID.fullmatch(account) and isinstance(section, dict)
        },
    )


def encode_ask(ask: Ask) -> bytes:
    """Return the payload of an ask."""
    return encode({"id": ask.id, "account": ask.account})


def parse_ask(payload: bytes) -> Ask | None:
    """Return an ask, None if it is not one; never raises."""
    document = json_object(payload, MAX_ASK)
    identifier = matching(IDENTIFIER, document.get("id"))
    if identifier is None:
        return None
    account = matching(ACCOUNT_ID, document.get("account"))
    return None if account is None and document.get("account") is not None else Ask(id=identifier, account=account)


def encode_answer(answer: Answer, now: datetime) -> bytes:
    """Return the payload of an answer."""
    document: dict[str, Any] = {"id": answer.id, "account": answer.account, "requests": answer.requests}
    if answer.reading is not None:
        document["login"] = _login(answer.login or Login())
        document["reading"] = reading_to_json(answer.reading, now)
    elif answer.error is not None:
        document["error"] = error_to_json(answer.error)
    return encode(document)


def parse_answer(payload: bytes, now: datetime, machine: str) -> Answer | None:
    """Return an answer that `machine` sent, None if it is not one; never raises.

    One that has neither a readable reading nor a readable error holds InvalidResponse.
    """
    document = json_object(payload, MAX_ANSWER)
    identifier = matching(IDENTIFIER, document.get("id"))
    if identifier is None:
        return None
    requests = number(document.get("requests"), maximum=MAX_REQUESTS)
    login = document.get("login")
    reading: Reading | None = None
    error: ApiError | CredentialsError | None = None
    if document.get("reading") is not None:
        try:
            reading = reading_from_json(document["reading"], now, machine)
        except ApiError as unreadable:
            error = unreadable
    else:
        error = error_from_json(document.get("error"), machine)
    return Answer(
        id=identifier,
        account=matching(ACCOUNT_ID, document.get("account")),
        requests=MAX_REQUESTS if requests is None else int(requests),
        login=_parse_login(login) if isinstance(login, dict) else None,
        reading=reading,
        error=error,
    )


def _login(login: Login) -> dict[str, Any]:
    return {
        "account": login.account,
        "organization": login.organization,
        "plan": login.plan,
        "tier": login.tier,
        "token_expires_at": format_instant(login.token_expires_at),
        "login_expires_at": format_instant(login.login_expires_at),
    }


def _parse_login(section: Mapping[str, Any]) -> Login:
    return Login(
        account=matching(HASH, section.get("account")),
        organization=matching(HASH, section.get("organization")),
        plan=clean_text(section.get("plan")),
        tier=clean_text(section.get("tier")),
        token_expires_at=parse_instant(section.get("token_expires_at")),
        login_expires_at=parse_instant(section.get("login_expires_at")),
    )
