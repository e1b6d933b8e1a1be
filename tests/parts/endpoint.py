"""A real HTTP server on loopback that answers like the usage endpoint, and fails on request.

It has just enough HTTP/1.1 to control every byte: a fault decides what goes over the wire, and when.
"""

import contextlib
import http.client
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, BinaryIO, Final, Protocol, Self

from claude_usage_mqtt.sources.api.client import UsageApi
from parts.documents import Document, sample_usage
from parts.net import LOOPBACK, Acceptor, HeldPort, Server, hang_up
from parts.waiting import REASONABLE

USAGE_PATH: Final = "/api/oauth/usage"
BETA: Final = "oauth-2025-04-20"
REMEMBERED_REQUESTS: Final = 5000


Connect = Callable[..., UsageApi]
"""Makes a client of a test's endpoint, or of another URL, with another deadline."""


class ClientGone(Exception):  # noqa: N818 - an event, not an error of ours
    """The client closed the connection, or the endpoint is closing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def bearer(self) -> str | None:
        """Return the bearer token: empty if an empty one was sent, `None` if none was."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None


class Fault(Protocol):
    """A way to answer. The connection is kept only after a complete answer (`Exchange.answer`)."""

    def serve(self, exchange: "Exchange") -> None:
        """Answer, or do not answer."""


class Exchange:
    """One request and the wire to answer it on; every method raises `ClientGone` once the client is gone."""

    def __init__(
        self, request: Request, connection: socket.socket, gate: socket.socket, usual: Callable[["Exchange"], None]
    ) -> None:
        self.request = request
        self.keep = False
        self.sent = 0
        self._connection = connection
        self._gate = gate
        self._usual = usual

    def send(self, data: bytes) -> None:
        """Send these bytes as they are."""
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise ClientGone from error
        self.sent += len(data)

    def head(self, status: int, headers: Mapping[str, str]) -> bytes:
        """Make a status line and headers, with the empty line that ends them."""
        reason = http.client.responses.get(status, "Overloaded")
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a complete answer; the connection may carry the next request."""
        self.send(self.head(status, {**headers, "Content-Length": str(len(body))}) + body)
        self.keep = True

    def answer_json(self, status: int, document: Any) -> None:
        """Send a complete JSON answer."""
        self.answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def usual(self) -> None:
        """Answer as without a fault."""
        self._usual(self)

    def pause(self, seconds: float) -> None:
        """Return after this time."""
        self._stay(self._connection, timeout=seconds)

    def hold(self) -> None:
        """Return when `Endpoint.release` is called."""
        self._stay(self._connection, self._gate, timeout=None)

    def reset(self) -> None:
        """Make the next close an abrupt one (RST)."""
        linger_none = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)

    def _stay(self, *ends: socket.socket, timeout: float | None) -> None:
        if self._connection in wait(ends, timeout):
            raise ClientGone


class Endpoint(Server):
    """The server; a context manager. Its settings may be changed at any time and apply from the next request on.

    - `document`: what it answers, or a function of the `Request` that returns it
    - `fault`: how it answers all requests, `None` for as usual; `fault_next` is for the next ones alone
    - `tokens`: the bearer tokens it knows, `None` for any
    """

    def __init__(
        self,
        document: Document | Callable[[Request], Document] | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.document: Any = sample_usage() if document is None else document
        self.fault: Fault | None = None
        self.tokens: set[str] | None = None
        self._context = ssl_context
        self._changed = threading.Condition()
        self._requests: deque[Request] = deque(maxlen=REMEMBERED_REQUESTS)
        self._count = 0
        self._gone = 0
        self._bytes_sent = 0
        self._next_faults: deque[Fault] = deque()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._gates: list[socket.socket] = []
        self._gate, self._opener = socket.socketpair()
        self._port = HeldPort()
        self._acceptor = Acceptor(self._port.listen(), self._accepted)

    def start(self) -> Self:
        """Begin to answer."""
        self._acceptor.start()
        return self

    def close(self) -> None:
        """Disconnect all clients and end all threads."""
        self._acceptor.close()
        with self._changed:
            self._closing = True
            for connection in self._connections:
                hang_up(connection)
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        for end in (self._opener, self._gate, *self._gates):
            end.close()
        self._port.close()

    # -- where it is

    @property
    def port(self) -> int:
        """Return its TCP port."""
        return self._port.number

    @property
    def url(self) -> str:
        """Return what `CLAUDE_API_URL` takes."""
        return f"{'https' if self._context else 'http'}://{LOOPBACK}:{self.port}"

    @property
    def usage_url(self) -> str:
        """Return the whole URL of the usage document."""
        return self.url + USAGE_PATH

    # -- what it saw

    @property
    def requests(self) -> list[Request]:
        """Return the remembered requests, oldest first."""
        with self._changed:
            return list(self._requests)

    @property
    def count(self) -> int:
        """Return how many requests came in all."""
        with self._changed:
            return self._count

    @property
    def bytes_sent(self) -> int:
        """Return how many bytes all ended exchanges put on the wire, headers included."""
        with self._changed:
            return self._bytes_sent

    def wait_for_requests(self, count: int, timeout: float = REASONABLE) -> list[Request]:
        """Wait until that many requests came in all, and return those that are remembered."""
        self._wait_until(lambda: self._count >= count, timeout, f"{count} requests")
        return self.requests

    def wait_for_clients_gone(self, count: int) -> None:
        """Wait until that many clients left before their answer was complete."""
        self._wait_until(lambda: self._gone >= count, REASONABLE, f"{count} clients to leave")

    # -- what it should do

    def fault_next(self, *faults: Fault) -> None:
        """Answer the next requests with these faults, one each, before `fault` counts again."""
        with self._changed:
            self._next_faults.extend(faults)

    def release(self) -> None:
        """Answer all requests that hang now; later ones hang again."""
        with self._changed:
            self._opener.close()  # those who hang see its other end become readable
            self._gates.append(self._gate)
            self._gate, self._opener = socket.socketpair()

    # -- inside

    def _wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                came = f"there were {self._count} requests, and {self._gone} clients that left"
                raise AssertionError(f"waited {timeout} s for {what}; {came}")

    def _accepted(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            try:
                connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError:  # gone before it began
                connection.close()
                return
        thread = threading.Thread(target=self._serve, args=(connection,), name="endpoint")
        with self._changed:
            self._connections.add(connection)
            self._threads = [*(old for old in self._threads if old.is_alive()), thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self._shook_hands(connection):
                    with connection.makefile("rb") as reader:
                        while self._served_one(connection, reader):
                            pass
            finally:
                with self._changed:
                    self._connections.discard(connection)

    def _shook_hands(self, connection: socket.socket) -> bool:
        if not isinstance(connection, ssl.SSLSocket):
            return True
        try:
            connection.do_handshake()
        except OSError:
            return False
        return True

    def _served_one(self, connection: socket.socket, reader: BinaryIO) -> bool:
        read = _read_request(reader)
        if read is None:
            return False
        exchange, fault = self._recorded(connection, *read)
        gone = False
        try:
            if fault is None:
                self._answer(exchange)
            else:
                fault.serve(exchange)
        except ClientGone:
            gone = True
        with self._changed:
            self._bytes_sent += exchange.sent
            self._gone += gone
            self._changed.notify_all()
            return exchange.keep and not gone and not self._closing

    def _recorded(
        self, connection: socket.socket, method: str, path: str, headers: Mapping[str, str]
    ) -> tuple[Exchange, Fault | None]:
        with self._changed:
            request = Request(method=method, path=path, headers=headers)
            exchange = Exchange(request, connection, self._gate, self._answer)
            fault = self._next_faults.popleft() if self._next_faults else self.fault
            self._requests.append(request)
            self._count += 1
            self._changed.notify_all()
        return exchange, fault

    def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        betas = [beta.strip() for beta in request.headers.get("anthropic-beta", "").split(",")]
        known = bool(request.bearer) and (self.tokens is None or request.bearer in self.tokens)
        if request.path.partition("?")[0] != USAGE_PATH:
            exchange.answer_json(404, error_body("not_found_error", "Not found"))
        elif request.method != "GET":
            exchange.answer_json(405, error_body("invalid_request_error", "Method not allowed"))
        elif BETA not in betas:
            refusal = error_body("authentication_error", "OAuth authentication is currently not supported.")
            exchange.answer_json(401, refusal)
        elif not known:
            exchange.answer_json(401, error_body("authentication_error", "Invalid bearer token"))
        else:
            document = self.document
            exchange.answer_json(200, document(request) if callable(document) else document)


def error_body(kind: str, message: str, *, outer_type: bool = True) -> Document:
    """Build the body of a refusal; at times the real ones lack the outer `type`."""
    body: Document = {"error": {"type": kind, "message": message}}
    return {"type": "error", **body} if outer_type else body


def _read_request(reader: BinaryIO) -> tuple[str, str, dict[str, str]] | None:
    """Read a request and drop its body; `None` at the end of the connection and for anything but HTTP."""
    try:
        words = reader.readline(65536).decode("latin-1").split()
        if len(words) != 3:
            return None
        headers = {name.lower(): value for name, value in http.client.parse_headers(reader).items()}
        reader.read(int(headers.get("content-length", 0)))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return words[0], words[1], headers
