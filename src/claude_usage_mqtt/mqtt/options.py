"""How to reach the broker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Transport = Literal["tcp", "websockets", "unix"]
Protocol = Literal["auto", "5", "3.1.1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """Address, login and manner of a connection; `host` is a path where `transport` is `unix`."""

    host: str
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    transport: Transport = "tcp"
    protocol: Protocol = "auto"
    client_id: str = ""
    keepalive: int = 60

    @property
    def address(self) -> str:
        """The address, for messages."""
        return self.host if self.transport == "unix" else f"{self.host}:{self.port}"
