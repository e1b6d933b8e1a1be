"""The parts that all other tests stand on do what they promise."""

import datetime as dt
import json
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from parts import broker, faults
from parts.broker import Broker, Mosquitto, any_broker
from parts.certificates import Authority
from parts.credentials import write_credentials, write_credentials_text
from parts.documents import make_window, plans, sample_usage
from parts.endpoint import Endpoint, Fault
from parts.proxy import FaultyProxy
from parts.watcher import Version, Watcher

BEARER = {"Authorization": "Bearer sk-ant-oat01-test", "anthropic-beta": "oauth-2025-04-20"}

needs_mosquitto = pytest.mark.skipif(not broker.available(), reason="Mosquitto is not installed")


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    """Every test here ends the threads it began."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Run an endpoint."""
    with Endpoint() as running:
        yield running


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """Open a client that sends what the endpoint wants."""
    with httpx.Client(headers=BEARER, timeout=5, trust_env=False) as client:
        yield client


def embedded_broker() -> AbstractContextManager[Broker]:
    """Make the embedded broker."""
    from claude_usage_mqtt.demo.broker import EmbeddedBroker

    return EmbeddedBroker(port=0)


# -- brokers and the watcher


@pytest.mark.parametrize("make", [any_broker, embedded_broker])
def test_watcher_sees_live_and_retained_messages(make: type[AbstractContextManager[Broker]]) -> None:
    """On every broker the watcher records in order, and a fresh connection shows what is retained."""
    with make() as running, Watcher(running.port, ("parts/#",)) as watcher:
        watcher.publish("parts/kept", '{"n": 1}', retain=True)
        watcher.publish("parts/passing", "x")
        watcher.publish("parts/gone", "x", retain=True)
        watcher.publish("parts/gone", "", retain=True)
        watcher.settle()
        topics = [message.topic for message in watcher.messages()]
        assert topics == ["parts/kept", "parts/passing", "parts/gone", "parts/gone"]
        assert watcher.json("parts/kept") == {"n": 1}
        assert watcher.retained() == {"parts/kept": '{"n": 1}'}


@needs_mosquitto
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_waiting_starts_at_the_mark_and_says_what_came(version: Version) -> None:
    """A wait counts from its mark on, and a failed one lists the messages that came instead."""
    with Mosquitto() as mosquitto, Watcher(mosquitto.port, version=version) as watcher:
        watcher.publish("a/one", "1")
        assert watcher.wait_topic("a/+").payload == "1"
        mark = watcher.mark()
        watcher.publish("a/two", "2")
        assert watcher.wait_topic("a/+", since=mark).payload == "2"
        with pytest.raises(AssertionError, match="a/two 2"):
            watcher.wait_topic("a/one", timeout=0.01, since=mark)


@needs_mosquitto
def test_mosquitto_keeps_port_and_retained_messages_over_a_restart() -> None:
    """A restart keeps the port and what is retained, a wipe loses the latter; the watcher comes back."""
    with Mosquitto() as mosquitto, Watcher(mosquitto.port) as watcher:
        port = mosquitto.port
        watcher.publish("kept", "1", retain=True)
        mosquitto.restart()
        assert mosquitto.port == port
        watcher.wait_connected()
        assert watcher.retained() == {"kept": "1"}
        mosquitto.restart(wipe=True)
        watcher.wait_connected()
        assert watcher.retained() == {}


@needs_mosquitto
def test_nobody_else_gets_the_port_of_a_stopped_mosquitto() -> None:
    """While it is down the port refuses, and stays reserved."""
    with Mosquitto() as mosquitto:
        mosquitto.kill()
        assert not mosquitto.running
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", mosquitto.port), 5)
        mosquitto.start()
        assert mosquitto.running
    assert not mosquitto.folder.exists()


@needs_mosquitto
def test_frozen_mosquitto_takes_nothing_until_thawed() -> None:
    """Frozen, it accepts connections and acknowledges nothing; and it can be stopped as it is."""
    with Mosquitto() as mosquitto, Watcher(mosquitto.port) as watcher:
        mosquitto.freeze()
        with pytest.raises(AssertionError, match="PUBACK"):
            watcher.publish("t", "x", timeout=0.1)
        mosquitto.thaw()
        assert watcher.wait_topic("t").payload == "x"
        mosquitto.freeze()


@needs_mosquitto
def test_passwords_and_acl_are_enforced() -> None:
    """Strangers are refused, and MQTT 5 reports a publish that the ACL forbids."""
    acl = "user app\ntopic readwrite app/#\nuser watch\ntopic readwrite #\n"
    with Mosquitto(users={"app": "one", "watch": "two"}, acl=acl) as mosquitto:
        with pytest.raises(ConnectionError, match="Not authorized"):
            Watcher(mosquitto.port, version="5").start()
        with Watcher(mosquitto.port, ("app/#",), username="app", password="one") as app:
            app.publish("app/x", "1")
            with pytest.raises(AssertionError, match="Not authorized"):
                app.publish("other/x", "1")
        with Watcher(mosquitto.port, username="watch", password="two") as watcher:
            watcher.settle()


@needs_mosquitto
def test_mosquitto_speaks_tls_websockets_and_unix_sockets() -> None:
    """Each kind of listener works beside the plain one."""
    with Mosquitto(tls=True, websockets=True, unix_socket=True) as mosquitto:
        assert mosquitto.authority is not None
        context = mosquitto.authority.client_context()
        with (
            Watcher(mosquitto.port) as plain,
            Watcher(mosquitto.tls_port, ssl_context=context) as secure,
            Watcher(mosquitto.websockets_port, transport="websockets") as web,
            Watcher(
                mosquitto.secure_websockets_port, transport="websockets", ssl_context=context, host="localhost"
            ) as secure_web,
            Watcher(1, transport="unix", host=str(mosquitto.socket_path)) as local,
        ):
            for watcher in (secure, web, secure_web, local):
                mark = plain.mark()
                watcher.publish("t", "x")
                plain.wait_topic("t", since=mark)


@needs_mosquitto
def test_mosquitto_asks_for_client_certificates_and_can_show_an_expired_one(tmp_path: Path) -> None:
    """Without a client certificate, or with an expired server certificate, no connection is made."""
    with Mosquitto(require_client_certificate=True) as mosquitto:
        assert mosquitto.authority is not None
        context = mosquitto.authority.client_context()
        with pytest.raises(ConnectionError):
            Watcher(mosquitto.tls_port, version="5", ssl_context=context).start()
        context.load_cert_chain(*mosquitto.client_certificate("app"))
        with Watcher(mosquitto.tls_port, version="5", ssl_context=context) as watcher:
            watcher.settle()
    authority = Authority(tmp_path)
    expired = authority.issue(not_after=dt.datetime(2024, 1, 1, tzinfo=dt.UTC))
    with (
        Mosquitto(server_certificate=expired) as mosquitto,
        socket.create_connection(("127.0.0.1", mosquitto.tls_port), 5) as raw,
        pytest.raises(ssl.SSLCertVerificationError, match="expired"),
    ):
        authority.client_context().wrap_socket(raw, server_hostname="localhost")


@needs_mosquitto
def test_oversized_messages_are_dropped() -> None:
    """With `message_size_limit` a message too large reaches nobody, though MQTT 3.1.1 acknowledges it."""
    with (
        Mosquitto(message_size_limit=100) as mosquitto,
        Watcher(mosquitto.port) as watcher,
        Watcher(mosquitto.port, version="3.1.1") as sender,
    ):
        sender.publish("t", "x" * 200)
        mosquitto.wait_for_log("Dropped too large PUBLISH")
        watcher.settle()
        assert watcher.messages() == []


# -- the endpoint


def test_endpoint_answers_like_the_usage_endpoint(endpoint: Endpoint, http: httpx.Client) -> None:
    """It serves the document on one kept connection and records what was asked."""
    endpoint.document = sample_usage(five_hour=12.5)
    assert http.get(endpoint.usage_url).json() == endpoint.document
    endpoint.document = lambda request: {"bearer": request.bearer}
    assert http.get(endpoint.usage_url).json() == {"bearer": "sk-ant-oat01-test"}
    first, second = endpoint.wait_for_requests(2)
    assert (first.order, first.path, first.method) == (0, "/api/oauth/usage", "GET")
    assert first.monotonic <= second.monotonic
    assert endpoint.count == 2


@pytest.mark.parametrize(
    ("headers", "tokens"),
    [
        ({"Authorization": "Bearer x"}, None),
        ({"anthropic-beta": "oauth-2025-04-20"}, None),
        ({"anthropic-beta": "oauth-2025-04-20", "Authorization": "Bearer"}, None),
        ({"anthropic-beta": "oauth-2025-04-20", "Authorization": "Bearer x"}, {"y"}),
    ],
)
def test_endpoint_refuses_without_beta_header_or_token(
    endpoint: Endpoint, headers: dict[str, str], tokens: set[str] | None
) -> None:
    """As the real one does: 401 with an authentication error."""
    endpoint.tokens = tokens
    answer = httpx.get(endpoint.usage_url, headers=headers, trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


WHEN = dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("fault", "status", "headers"),
    [
        (faults.rate_limited(), 429, {}),
        (faults.rate_limited(0), 429, {"retry-after": "0"}),
        (faults.rate_limited(WHEN), 429, {"retry-after": "Fri, 20 Nov 2026 16:00:00 GMT"}),
        (faults.unauthorized(), 401, {}),
        (faults.insufficient_scope(), 403, {}),
        (faults.server_error(), 500, {}),
        (faults.overloaded(), 529, {}),
    ],
)
def test_refusals_have_their_status_headers_and_body(
    endpoint: Endpoint, http: httpx.Client, fault: Fault, status: int, headers: dict[str, str]
) -> None:
    """A refusal is sent whole, for the next request alone."""
    endpoint.fault_next(fault)
    answer = http.get(endpoint.usage_url)
    assert answer.status_code == status
    assert headers.items() <= answer.headers.items()
    assert ("retry-after" in answer.headers) == ("retry-after" in headers)
    assert answer.json()["error"]["type"]
    assert http.get(endpoint.usage_url).status_code == 200


@pytest.mark.parametrize("fault", [faults.html_page(), faults.html_page(502), faults.invalid_json()])
def test_pages_and_broken_json_are_no_json(endpoint: Endpoint, http: httpx.Client, fault: Fault) -> None:
    """These bodies arrive whole and cannot be parsed."""
    endpoint.fault = fault
    with pytest.raises(ValueError, match="Expecting"):
        http.get(endpoint.usage_url).json()


@pytest.mark.parametrize("document", faults.WRONG_TYPES)
def test_wrong_json_arrives_as_it_is(endpoint: Endpoint, http: httpx.Client, document: object) -> None:
    """JSON of wrong types is still JSON."""
    endpoint.fault = faults.wrong_json(document)
    assert http.get(endpoint.usage_url).json() == document


@pytest.mark.parametrize("fault", [faults.CutBody(), faults.CloseAtOnce(), faults.CloseAtOnce(reset=True)])
def test_cut_answers_are_transport_errors(endpoint: Endpoint, http: httpx.Client, fault: Fault) -> None:
    """A cut answer never looks like a whole one, and the next request is fine."""
    endpoint.fault_next(fault)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        http.get(endpoint.usage_url)
    assert http.get(endpoint.usage_url).status_code == 200


def test_hang_lasts_until_released(endpoint: Endpoint, http: httpx.Client) -> None:
    """A hanging request is answered on release, and ends by itself when its client leaves."""
    endpoint.fault = faults.Hang()
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(http.get(endpoint.usage_url).status_code))
    asking.start()
    endpoint.wait_for_requests(1)
    assert not answers
    endpoint.release()
    asking.join(10)
    assert answers == [200]
    with pytest.raises(httpx.ReadTimeout):
        http.get(endpoint.usage_url, timeout=0.05)
    endpoint.wait_for_clients_gone(1)


def test_a_hanging_request_does_not_keep_the_endpoint_open(http: httpx.Client) -> None:
    """`close` hangs up on everybody."""
    with Endpoint() as endpoint:
        endpoint.fault = faults.Hang()
        failures: list[Exception] = []

        def ask() -> None:
            try:
                http.get(endpoint.usage_url)
            except httpx.TransportError as error:
                failures.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        endpoint.wait_for_requests(1)
    asking.join(10)
    assert len(failures) == 1


@pytest.mark.parametrize("fault", [faults.DripHeaders(0.01), faults.DripBody(0.01)])
def test_drips_go_on_below_every_read_timeout(endpoint: Endpoint, fault: Fault) -> None:
    """No read waits long, the answer has no end, and it stops when its client leaves."""
    endpoint.fault = fault
    with socket.create_connection(("127.0.0.1", endpoint.port), 2) as raw:
        raw.sendall(b"GET /api/oauth/usage HTTP/1.1\r\n\r\n")
        for _ in range(10):
            assert raw.recv(1000)
    endpoint.wait_for_clients_gone(1)


@pytest.mark.parametrize("fault", [faults.HugeBody(), faults.GzipBomb()])
def test_huge_bodies_stop_when_the_client_leaves(endpoint: Endpoint, http: httpx.Client, fault: Fault) -> None:
    """A client that stops at a megabyte is not sent the rest."""
    endpoint.fault = fault
    received = 0
    with http.stream("GET", endpoint.usage_url) as answer:
        for piece in answer.iter_bytes(64 * 1024):
            received += len(piece)
            if received > faults.MEGABYTE:
                break
    endpoint.wait_for_clients_gone(1)
    assert endpoint.bytes_sent < 50 * faults.MEGABYTE


def test_redirect_shows_whether_the_token_is_carried_along(endpoint: Endpoint, http: httpx.Client) -> None:
    """The second endpoint is another host, and records what came with the request."""
    with Endpoint() as other:
        endpoint.fault = faults.redirect(other)
        assert http.get(endpoint.usage_url).status_code == 302
        assert other.count == 0
        http.get(endpoint.usage_url, follow_redirects=True, headers={"X-Own": "1"})
        (request,) = other.wait_for_requests(1)
        assert request.headers["x-own"] == "1"
        assert request.bearer is None, "httpx strips it for another origin"


def test_endpoint_with_tls_counts_clients_that_do_not_trust_it(tmp_path: Path) -> None:
    """With a trusted certificate it answers, with an unknown one nothing is asked."""
    authority = Authority(tmp_path)
    with Endpoint(ssl_context=authority.server_context()) as endpoint:
        with httpx.Client(verify=authority.client_context(), headers=BEARER, trust_env=False) as client:
            assert client.get(endpoint.usage_url).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(endpoint.usage_url, headers=BEARER, trust_env=False)
        endpoint.wait_for_handshake_failures(1)
        assert endpoint.count == 1


def test_sample_documents_have_the_wire_form() -> None:
    """Every plan has its document; resets are microseconds beside the hour, money is in minor units."""
    documents = dict(plans(WHEN))
    assert list(documents) == ["pro", "max", "team", "enterprise", "free"]
    assert json.loads(json.dumps(documents)) == documents
    assert documents["pro"]["five_hour"] == make_window(42.0, "2026-11-20T18:59:59.388120+00:00")
    assert [limit["scope"]["model"]["display_name"] for limit in documents["max"]["limits"][2:]] == ["Fable", "Opus"]
    assert documents["team"]["spend"]["limit"] is None
    assert documents["enterprise"]["limits"] == []
    assert documents["enterprise"]["extra_usage"]["decimal_places"] == 0
    idle = sample_usage(five_hour=0, resets_at=None)
    assert idle["five_hour"] == make_window(0, None)
    assert sample_usage(limits=None, new_name={"utilization": 1})["new_name"] == {"utilization": 1}


# -- the proxy


class EchoServer:
    """A TCP server for one connection at a time that sends everything back, and counts it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.received = [0]
        self._closing = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End it; its connections are over."""
        self._closing = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self.listener.close()

    def _run(self) -> None:
        while not self._closing:
            connection, _ = self.listener.accept()
            with connection:
                self.received.append(0)
                try:
                    while data := connection.recv(65536):
                        self.received[-1] += len(data)
                        connection.sendall(data)
                except ConnectionError:
                    pass


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


def open_through(proxy: FaultyProxy) -> socket.socket:
    """Connect to the proxy."""
    return socket.create_connection(("127.0.0.1", proxy.port), 5)


def echoed(connection: socket.socket, data: bytes) -> bytes:
    """Send, and read as much again, or up to the end."""
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data) and (piece := connection.recv(65536)):
        answer += piece
    return answer


def test_proxy_passes_everything_both_ways(proxy: FaultyProxy) -> None:
    """A megabyte comes back as it went; several connections are counted."""
    data = bytes(range(256)) * 1024
    with open_through(proxy) as connection:
        assert echoed(connection, data) == data
    proxy.wait_for_open_connections(0)
    with open_through(proxy) as connection:
        assert echoed(connection, b"again") == b"again"
    assert proxy.connections == 2


def test_refusing_proxy_keeps_its_port_and_heals(proxy: FaultyProxy) -> None:
    """Refused means refused, open connections end, and the port is the same afterwards."""
    with open_through(proxy) as connection:
        assert echoed(connection, b"x") == b"x"
        proxy.refuse()
        assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        open_through(proxy)
    proxy.heal()
    with open_through(proxy) as connection:
        assert echoed(connection, b"y") == b"y"


def test_frozen_proxy_is_half_open_and_hands_on_when_healed(proxy: FaultyProxy, echo: EchoServer) -> None:
    """Nothing passes and nothing closes; after that what was sent meanwhile arrives."""
    with open_through(proxy) as connection:
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


def test_slow_proxy_keeps_to_its_rate(proxy: FaultyProxy) -> None:
    """A thousand bytes at 5000 bytes per second need 0.2 s."""
    with open_through(proxy) as connection:
        proxy.slow(5000)
        began = time.monotonic()
        assert len(echoed(connection, bytes(1000))) == 1000
        assert time.monotonic() - began > 0.15


def test_proxy_cuts_after_exactly_so_many_bytes_once(proxy: FaultyProxy, echo: EchoServer) -> None:
    """The other side gets a part of the packet and the end; the next connection is whole."""
    with open_through(proxy) as connection:
        proxy.cut_after(7)
        connection.sendall(b"0123456789")
        proxy.wait_for_open_connections(0)
    with open_through(proxy) as connection:
        assert echoed(connection, b"0123456789") == b"0123456789"
    assert echo.received[1] == 7


def test_proxy_drops_connections_and_takes_new_ones(proxy: FaultyProxy) -> None:
    """A drop ends all that is open and refuses nothing."""
    with open_through(proxy) as connection:
        assert echoed(connection, b"x") == b"x"
        proxy.drop()
        assert connection.recv(1) == b""
    with open_through(proxy) as connection:
        assert echoed(connection, b"y") == b"y"


@needs_mosquitto
def test_proxy_before_mosquitto_makes_the_will_come() -> None:
    """Dropped on the way, an MQTT client is gone for the broker, which publishes its will."""
    with Mosquitto() as mosquitto, FaultyProxy(mosquitto.port) as proxy, Watcher(mosquitto.port) as watcher:
        client = Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.will_set("status", "offline", qos=1)
        client.connect_async("127.0.0.1", proxy.port)
        client.loop_start()
        mosquitto.wait_for_log("Sending CONNACK", count=2)
        proxy.drop()
        assert watcher.wait_topic("status").payload == "offline"
        client.loop_stop()


# -- credentials


def test_credentials_have_the_form_of_claude_code(tmp_path: Path) -> None:
    """The file is private, complete, and replaced rather than rewritten."""
    path = write_credentials(tmp_path, "one", dt.timedelta(hours=1), WHEN, subscriptionType="pro")
    oauth = json.loads(path.read_text())["claudeAiOauth"]
    assert (oauth["accessToken"], oauth["subscriptionType"]) == ("one", "pro")
    assert oauth["expiresAt"] == (WHEN.timestamp() + 3600) * 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    inode = path.stat().st_ino
    write_credentials(tmp_path, "two", None)
    assert path.stat().st_ino != inode
    assert "expiresAt" not in json.loads(path.read_text())["claudeAiOauth"]
    assert write_credentials_text(tmp_path, "{").read_text() == "{"
    assert [entry.name for entry in tmp_path.iterdir()] == [".credentials.json"]


def test_requests_are_in_order(endpoint: Endpoint, http: httpx.Client) -> None:
    """The record is in the order of arrival, by a clock that never goes back."""
    for _ in range(5):
        http.get(endpoint.usage_url)
    requests = endpoint.requests
    assert [request.order for request in requests] == [0, 1, 2, 3, 4]
    assert all(a.monotonic <= b.monotonic for a, b in pairwise(requests))
