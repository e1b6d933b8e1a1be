"""What the endpoint can do instead of answering: refusals, broken answers, slow ones, and none at all."""

import datetime as dt
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import format_datetime
from typing import Any, Final

from parts.endpoint import Endpoint, Exchange, error_body

MEGABYTE: Final = 1024 * 1024
JSON_HEADERS: Final = {"Content-Type": "application/json"}

WRONG_TYPES: Final[tuple[Any, ...]] = (
    None,
    [],
    "usage",
    42,
    {"five_hour": []},
    {"five_hour": {"utilization": "42", "resets_at": 5}, "limits": {}},
    {"five_hour": {"utilization": None, "resets_at": "soon"}, "seven_day": True},
    {"five_hour": {"utilization": [1], "resets_at": {}}, "limits": [None, 5, {"kind": 7, "percent": "x"}]},
    {"extra_usage": {"is_enabled": "yes", "monthly_limit": "a lot", "currency": 1, "decimal_places": "two"}},
    {"extra_usage": [], "spend": "none", "limits": "none"},
)
"""Valid JSON that is not a usage document, or one with values of the wrong kind."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A complete answer of any kind: a page, bytes that are not JSON, JSON that is not a document."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def serve(self, exchange: Exchange) -> None:
        """Answer."""
        exchange.answer(self.status, self.body, self.headers)


def refusal(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None, *, outer_type: bool = True
) -> Answer:
    """Refuse with a JSON error."""
    body = json.dumps(error_body(kind, message, outer_type=outer_type)).encode()
    return Answer(status=status, body=body, headers={**JSON_HEADERS, **(headers or {})})


def rate_limited(retry_after: float | dt.datetime | str | None = None) -> Answer:
    """429 with `Retry-After` in seconds, as an HTTP date, as any text, or without it."""
    if isinstance(retry_after, dt.datetime):
        retry_after = format_datetime(retry_after.astimezone(dt.UTC), usegmt=True)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return refusal(429, "rate_limit_error", "Rate limited. Please try again later.", headers)


def unauthorized() -> Answer:
    """401: the token is not, or no longer, known."""
    return refusal(401, "authentication_error", "Invalid bearer token")


def insufficient_scope() -> Answer:
    """403: a token of `claude setup-token`."""
    return refusal(
        403, "permission_error", "OAuth token does not meet scope requirement user:profile", outer_type=False
    )


def server_error(status: int = 500) -> Answer:
    """5xx with a JSON body."""
    return refusal(status, "api_error", "Internal server error")


def overloaded() -> Answer:
    """529."""
    return refusal(529, "overloaded_error", "Overloaded")


def html_page(status: int = 200) -> Answer:
    """Answer as a login page or a proxy's error page does."""
    page = b"<!DOCTYPE html><html><head><title>Just a moment</title></head><body><p>...</p></body></html>"
    return Answer(status=status, body=page, headers={"Content-Type": "text/html; charset=utf-8"})


def invalid_json(body: bytes = b'{"five_hour": {"utilization": 4') -> Answer:
    """200 with a JSON content type, and a body that is not JSON."""
    return Answer(body=body, headers=JSON_HEADERS)


def deep_json(depth: int = 100_000) -> Answer:
    """200 whose nesting overflows a recursive parser."""
    return invalid_json(b"[" * depth + b"]" * depth)


def wrong_json(document: Any) -> Answer:
    """200 with this JSON, for instance one of `WRONG_TYPES`."""
    return Answer(body=json.dumps(document).encode(), headers=JSON_HEADERS)


@dataclass(frozen=True)
class Hang:
    """Say nothing until `Endpoint.release`, then answer as usual."""

    def serve(self, exchange: Exchange) -> None:
        """Answer when released."""
        exchange.hold()
        exchange.usual()


@dataclass(frozen=True)
class DripHeaders:
    """Send a status line and headers without end, one byte per interval."""

    interval: float = 0.1

    def serve(self, exchange: Exchange) -> None:
        """Drip until the client is gone."""
        head = exchange.head(200, JSON_HEADERS)[:-2]
        while True:
            for byte in head:
                exchange.send(bytes([byte]))
                exchange.pause(self.interval)
            head = b"X-Drip: drip\r\n"


@dataclass(frozen=True)
class DripBody:
    """Send headers at once, then a body of spaces, one byte per interval, for `size` bytes."""

    interval: float = 0.1
    size: int = MEGABYTE

    def serve(self, exchange: Exchange) -> None:
        """Drip until the client is gone or everything is sent."""
        exchange.send(exchange.head(200, {**JSON_HEADERS, "Content-Length": str(self.size)}))
        for _ in range(self.size):
            exchange.send(b" ")
            exchange.pause(self.interval)


@dataclass(frozen=True)
class HugeBody:
    """Send a body of `size` bytes, chunked, so that no header announces it."""

    size: int = 100 * MEGABYTE

    def serve(self, exchange: Exchange) -> None:
        """Send until the client is gone or everything is sent."""
        exchange.send(exchange.head(200, {**JSON_HEADERS, "Transfer-Encoding": "chunked"}))
        piece = b" " * (64 * 1024)
        for _ in range(self.size // len(piece)):
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.send(b"0\r\n\r\n")


@dataclass(frozen=True)
class GzipBomb:
    """Send `size` bytes of spaces, compressed about a thousand times."""

    size: int = 1024 * MEGABYTE

    def serve(self, exchange: Exchange) -> None:
        """Send until the client is gone or everything is sent."""
        headers = {**JSON_HEADERS, "Content-Encoding": "gzip", "Connection": "close"}
        exchange.send(exchange.head(200, headers))
        gzip = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        piece = b" " * MEGABYTE
        for _ in range(self.size // len(piece)):
            exchange.send(gzip.compress(piece) + gzip.flush(zlib.Z_SYNC_FLUSH))
        exchange.send(gzip.flush())


@dataclass(frozen=True)
class CutBody:
    """Announce a whole body, send the first `kept` bytes of it, and close."""

    kept: int = 20

    def serve(self, exchange: Exchange) -> None:
        """Cut."""
        body = json.dumps({"five_hour": {"utilization": 42.0, "resets_at": None}}).encode()
        headers = {**JSON_HEADERS, "Content-Length": str(len(body))}
        exchange.send(exchange.head(200, headers) + body[: self.kept])


@dataclass(frozen=True)
class CloseAtOnce:
    """Close without a byte, or with a reset."""

    reset: bool = False

    def serve(self, exchange: Exchange) -> None:
        """Close."""
        if self.reset:
            exchange.reset()


def redirect(to: Endpoint, status: int = 302) -> Answer:
    """Send the client elsewhere; that endpoint's requests show what it sent there."""
    return Answer(status=status, headers={"Location": to.usage_url})
