"""Home Assistant's Supervisor on loopback: the one request that an app makes of it, answered like the real one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from parts.net import LOOPBACK

GOOD_TOKEN = "supervisor-canary-3f9a"
PASSWORD = "made-by-the-supervisor"


class Supervisor:
    """Knows no broker until `install_broker`; a context manager. `requests` are (path, authorization) as they came."""

    def __init__(self) -> None:
        """Listen; nothing is served before `with`."""
        self.broker: dict[str, Any] | None = None
        self.requests: list[tuple[str, str]] = []
        self.asked = threading.Event()
        supervisor = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            def do_GET(self) -> None:
                """Answer it."""
                authorization = self.headers.get("Authorization", "")
                supervisor.requests.append((self.path, authorization))
                status, body = supervisor.answer(self.path, authorization)
                content = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                supervisor.asked.set()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def install_broker(self, port: int) -> None:
        """Provide the Mosquitto app from now on, on loopback."""
        self.broker = {
            "addon": "core_mosquitto",
            "host": LOOPBACK,
            "password": PASSWORD,
            "port": port,
            "protocol": "3.1.1",
            "ssl": False,
            "username": "addons",
        }

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any] | str]:
        """Return what the Supervisor answers."""
        if authorization != f"Bearer {GOOD_TOKEN}":
            return 401, "401: Unauthorized"
        if path != "/services/mqtt":
            return 403, "403: Forbidden"
        if self.broker is None:
            return 400, {"result": "error", "message": "Service not enabled"}
        return 200, {"result": "ok", "data": self.broker}

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
