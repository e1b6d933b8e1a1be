"""What a response of the usage endpoint means: its JSON document, or an error with its sentence. No I/O."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from claude_usage_mqtt.errors import (
    ApiError,
    InsufficientScope,
    InvalidResponse,
    NetworkError,
    RateLimited,
    ServerError,
    Unauthorized,
)
from claude_usage_mqtt.sources.credentials.token import LOG_IN_AGAIN
from claude_usage_mqtt.untrusted import clean_text

AGAIN = "try again in a few minutes (the service does so automatically)"

LONGEST_RETRY = timedelta(hours=24)
"""A longer Retry-After is cut to this: nothing seen so far asked for more than an hour."""

MAX_BRACKETS = 2_000
"""Opening brackets in a body; a real response has a hundred. Without this bound one broken response costs memory
permanently: Python 3.13 parses a nesting of 10,000 levels, and keeps the 1.5 MB that this takes.
"""

SCOPE_REFUSED = "oauth_scope_insufficient"
"""`details.error_code` of a 403 whose message need not name the scope."""


class Refusal(NamedTuple):
    """What the body of an error says, as far as it is understood; empty texts otherwise."""

    type: str = ""
    message: str = ""
    code: str = ""

    @property
    def is_about_scope(self) -> bool:
        """Whether the token is good, but not for the usage."""
        return self.code == SCOPE_REFUSED or "user:profile" in self.message

    @property
    def is_about_organization(self) -> bool:
        """Whether no login of this organization would be accepted."""
        text = self.message.lower()
        return "organization" in text and any(word in text for word in ("not allowed", "disabled"))


def interpret(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Any:
    """Return the JSON document of a good response; raises the matching ApiError for any other."""
    document = _json(body)
    if status == 200:
        if document is None and body.lstrip()[:1] == b"<":
            raise ServerError(
                "The API returned an HTML page, perhaps the login page of a proxy or network in between; "
                f"check those, or {AGAIN}."
            )
        if document is None:
            raise InvalidResponse(f"The API's response is not valid JSON; {AGAIN}.")
        return document
    raise _error(status, headers, _refusal(document), now)


def _error(status: int, headers: Mapping[str, str], refusal: Refusal, now: datetime) -> ApiError:
    if status == 429:
        # A date is by the API's clock, and ours may be hours off.
        wait = parse_retry_after(headers.get("Retry-After"), _http_date(headers.get("Date")) or now)
        return RateLimited(_explain_wait(wait), retry_after=wait)
    if status >= 500 or status == 408:
        return ServerError(f"The API returned a server error (HTTP {status}); {AGAIN}.")
    if status == 407:
        return NetworkError("The proxy asks for a login (HTTP 407); put it into HTTPS_PROXY.")
    return _refused(status, refusal)


def _refused(status: int, refusal: Refusal) -> ApiError:
    if refusal.is_about_scope:
        return InsufficientScope(
            "The token may not read the usage: it lacks the scope user:profile, as those of 'claude setup-token' do; "
            "use the credentials of a login with Claude Code instead."
        )
    if refusal.is_about_organization:
        return Unauthorized(
            f"This organization may not use its subscription with Claude Code (HTTP {status}); "
            "its administrator can allow it, or use the login of another subscription."
        )
    if status == 401 or refusal.type == "authentication_error":
        return Unauthorized(f"The API does not accept the token (HTTP {status}); {LOG_IN_AGAIN}.")
    if status in (403, 451):
        return _forbidden(status, refusal)
    where = "redirects elsewhere, which is not followed" if 300 <= status < 400 else "gave an unexpected response"
    return InvalidResponse(f"The API {where} (HTTP {status}); check the URL of the API, or update this program.")


def _forbidden(status: int, refusal: Refusal) -> ApiError:
    if refusal == Refusal() or refusal.type == "forbidden" or "request not allowed" in refusal.message.lower():
        # A page of the API's firewall, or its refusal of a region, a VPN or a proxy: the token is not at fault.
        return NetworkError(
            f"The API refuses requests from this network (HTTP {status}: region, VPN or proxy); "
            "check those if it lasts (the service tries again automatically)."
        )
    return Unauthorized(
        f"The API refuses the usage to this account (HTTP {status}); {LOG_IN_AGAIN}, "
        "or this plan does not report usage."
    )


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return how long a Retry-After header (seconds or an HTTP date) asks to wait; None for none, zero or nonsense.

    Of several numbers, which is how repeated headers arrive, the longest counts.
    """
    text = (value or "").strip()[:64]
    numbers = [part.strip() for part in text.split(",")]
    if all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", part) for part in numbers):
        wait = timedelta(seconds=min(max(map(float, numbers)), LONGEST_RETRY.total_seconds()))
    else:
        until = _http_date(text)
        wait = timedelta(0) if until is None else min(until - now, LONGEST_RETRY)
    return wait if wait > timedelta(0) else None


def _http_date(text: str | None) -> datetime | None:
    try:
        instant = parsedate_to_datetime((text or "")[:64])
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _explain_wait(wait: timedelta | None) -> str:
    if wait is None:
        return f"Rate limited (HTTP 429); the API gave no Retry-After; {AGAIN}."
    minutes = math.ceil(wait.total_seconds() / 60)
    unit = "minute" if minutes == 1 else "minutes"
    return f"Rate limited (HTTP 429) for {minutes} {unit}; asking again sooner makes it longer."


def _json(body: bytes) -> Any:
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _refusal(document: object) -> Refusal:
    """Return what an error body says, at times without its outer object."""
    inner = document.get("error", document) if isinstance(document, dict) else None
    if not isinstance(inner, dict):
        return Refusal()
    details = inner.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    return Refusal(
        type=clean_text(inner.get("type")) or "",
        message=clean_text(inner.get("message"), 500) or "",
        code=clean_text(code) or "",
    )
