"""Where a token may be sent: anywhere if encrypted, and only to this machine if not."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

API_URL = "https://api.anthropic.com"


def checked_url(url: str) -> str:
    """Return the URL of an API if a token may be sent there; raises ValueError that says why not."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("not a valid URL") from None
    if parts.username is not None or parts.query or parts.fragment or not parts.hostname or port == 0:
        raise ValueError("a URL may have only scheme, host, port and path")
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url)):
        return url
    raise ValueError("https only (http is allowed on loopback): the token must not travel unencrypted")


def is_loopback(url: str) -> bool:
    """Whether the URL is one on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_and_port(url: str) -> str:
    """Return where the URL leads, for people: never a login that it may contain."""
    parts = urlsplit(url)
    host = parts.hostname or "?"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
