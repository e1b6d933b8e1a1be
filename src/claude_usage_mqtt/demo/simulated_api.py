"""A real HTTP server that answers for a made-up subscription as Claude's usage endpoint would."""

from __future__ import annotations

import json
import socketserver
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

from claude_usage_mqtt.demo.simulated_account import SimulatedAccount

USAGE_PATH = "/api/oauth/usage"
BETA_HEADER = "oauth-2025-04-20"


class SimulatedApi(HTTPServer):
    """The usage endpoint on this machine, answering for one simulated account from its own thread.

    It listens from the moment it is made until the end of a `with`, after which its thread has ended. It requires the
    headers that the real endpoint requires, accepts any token, and keeps and logs none.
    """

    def __init__(self, account: SimulatedAccount) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.account = account
        self._thread = threading.Thread(
            target=self.serve_forever,
            kwargs={"poll_interval": 0.05},  # s: this is how long the end may take
            name="simulated-api",
            daemon=True,
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The base URL, to be used where the real one is `https://api.anthropic.com`."""
        return f"http://127.0.0.1:{self.server_port}"

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of 127.0.0.1 in the DNS, which takes seconds on some machines."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that disconnected in the middle."""

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request and closes the connection."""

    server: SimulatedApi
    timeout = 10  # s: a client that connects and sends nothing does not hold the thread forever

    def do_GET(self) -> None:
        if urlsplit(self.path).path != USAGE_PATH:
            self._refuse(HTTPStatus.NOT_FOUND, "not_found_error")
        elif not self._is_authorized():
            self._refuse(HTTPStatus.UNAUTHORIZED, "authentication_error")
        else:
            self._send(HTTPStatus.OK, self.server.account.answer())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server gives it
        """Log nothing."""

    def _is_authorized(self) -> bool:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        betas = [beta.strip() for beta in self.headers.get("anthropic-beta", "").split(",")]
        return scheme.lower() == "bearer" and bool(token.strip()) and BETA_HEADER in betas

    def _refuse(self, status: HTTPStatus, kind: str) -> None:
        self._send(status, {"type": "error", "error": {"type": kind, "message": status.phrase}})

    def _send(self, status: HTTPStatus, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
