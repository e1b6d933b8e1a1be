"""Faults that a test would not miss if they were none: the proxy's, and a broker's and an endpoint's refusals."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from parts.broker import Mosquitto, needs_mosquitto
from parts.endpoint import Endpoint
from parts.net import LOOPBACK
from parts.proxy import FaultyProxy
from parts.watcher import Watcher


class EchoServer:
    """A TCP server for one connection at a time that sends everything back, and counts it."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = [0]
        self._closing = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End it; its connections are over."""
        self._closing = True
        socket.create_connection((LOOPBACK, self.port)).close()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._closing:
            connection, _ = self._listener.accept()
            with connection:
                self.received.append(0)
                with contextlib.suppress(ConnectionError):
                    while data := connection.recv(65536):
                        self.received[-1] += len(data)
                        connection.sendall(data)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """Run an echo server."""
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[FaultyProxy]:
    """Run a proxy before the echo server."""
    with FaultyProxy(echo.port) as running:
        yield running


def echoed(connection: socket.socket, data: bytes) -> bytes:
    """Send, and read as much again, or up to the end."""
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data) and (piece := connection.recv(65536)):
        answer += piece
    return answer


def test_a_frozen_proxy_is_half_open(proxy: FaultyProxy, echo: EchoServer) -> None:
    """Nothing passes and nothing closes; after that what was sent meanwhile arrives."""
    with socket.create_connection((LOOPBACK, proxy.port), 5) as connection:
        assert echoed(connection, b"x") == b"x"
        proxy.freeze()
        connection.sendall(b"later")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert echo.received[-1] == 1
        proxy.heal()
        connection.settimeout(5)
        assert connection.recv(1) == b"l"


def test_a_slow_proxy_forwards_a_piece_at_a_time(proxy: FaultyProxy) -> None:
    """At a byte in a thousand seconds only the first one of two arrives; the rest comes when the proxy is fast."""
    with socket.create_connection((LOOPBACK, proxy.port), 5) as connection:
        proxy.slow(0.001)
        connection.sendall(b"12")
        assert connection.recv(2) == b"1"
        proxy.heal()
        assert connection.recv(2) == b"2"


def test_a_proxy_cuts_after_exactly_so_many_bytes(proxy: FaultyProxy, echo: EchoServer) -> None:
    """The other side gets a part of the packet and the end; the next connection is whole."""
    with socket.create_connection((LOOPBACK, proxy.port), 5) as connection:
        proxy.cut_after(7)
        with contextlib.suppress(ConnectionError):
            echoed(connection, b"0123456789")
    with socket.create_connection((LOOPBACK, proxy.port), 5) as connection:
        assert echoed(connection, b"0123456789") == b"0123456789"
    assert echo.received[1] == 7


@needs_mosquitto
def test_a_broker_enforces_its_rules() -> None:
    """Strangers are refused, and MQTT 5 reports what a user may not publish."""
    rules = "user app\ntopic readwrite app/#\n"
    with Mosquitto(users={"app": "one"}, acl=rules) as mosquitto:
        with pytest.raises(ConnectionError, match="Not authorized"):
            Watcher(mosquitto.port, version="5").start()
        with Watcher(mosquitto.port, ("app/#",), username="app", password="one") as app:
            app.publish("app/x", "1")
            with pytest.raises(AssertionError, match="Not authorized"):
                app.publish("other/x", "1")


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer x"}, {"anthropic-beta": "oauth-2025-04-20", "Authorization": "Bearer y"}]
)
def test_an_endpoint_wants_the_beta_header_and_a_token_that_it_knows(headers: dict[str, str]) -> None:
    """As the real one does."""
    with Endpoint() as endpoint:
        endpoint.tokens = {"x"}
        assert httpx.get(endpoint.usage_url, headers=headers, trust_env=False).status_code == 401
