"""How to reach the broker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Transport = Literal["tcp", "websockets", "unix"]
Protocol = Literal["auto", "5", "3.1.1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """Address, login and transport of a connection; with transport `unix`, `host` is a path.

    Files are read again for each connection: a renewed certificate or password needs no restart.
    """

    host: str
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    transport: Transport = "tcp"
    websocket_path: str = "/mqtt"
    protocol: Protocol = "auto"
    client_id: str = ""
    keepalive: int = 60

    @property
    def address(self) -> str:
        """The address, for messages."""
        if self.transport == "unix":
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = self.websocket_path if self.transport == "websockets" else ""
        return f"{host}:{self.port}{path}"
