"""Paho's client, adapted: certificates are verified, every wait is bounded, and its end is always noticed."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from claude_usage_mqtt.errors import BrokerRefused, SettingsError
from claude_usage_mqtt.mqtt import explain
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.secret_file import read_secret

CONNECT_TIMEOUT = 5.0
"""Seconds for the TCP connection, and again for the TLS handshake."""

MAX_INCOMING = 1024 * 1024
"""The largest packet that we accept, in bytes; MQTT 5 announces this to the broker."""

MAX_QUEUED = 2000
"""Messages that may wait for the broker; if there are more, it is slower than we publish, and gets the newest later."""

MAX_IN_FLIGHT = 10
"""Messages sent and not yet acknowledged: paho ignores the limit that an MQTT 5 broker announces."""

LONGEST_PATIENCE = 15.0
"""Seconds between checks of the keepalive: with paho's one second an idle machine wakes up sixty times a minute."""

STATUS_LENGTH = 16
"""The first bytes of an HTTP response, which contain its status."""

V5, V3 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


class Message(NamedTuple):
    """A message: a topic, its payload, and whether the broker retains it (or had it retained)."""

    topic: str
    payload: bytes
    retain: bool = False


class _FirstBytes:
    """Keeps the first bytes that a socket receives: paho does not report which HTTP status refused an upgrade."""

    first_bytes = b""

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:
        received: bytes = super().recv(size, flags)  # type: ignore[misc]
        if len(self.first_bytes) < STATUS_LENGTH:
            self.first_bytes += received
        return received


class PlainSocket(_FirstBytes, socket.socket):
    """The socket of a TCP connection."""


class TlsSocket(_FirstBytes, ssl.SSLSocket):
    """The socket over it, with TLS."""


class Client(paho.Client):
    """A paho client that sets `ended` and calls `on_end` when its network thread ends, for whatever reason."""

    ended: threading.Event
    on_end: Callable[[], None] | None = None
    _opened: socket.socket | None = None

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:  # noqa: FBT001, FBT002 - the signature is paho's
        """Run the network loop; called by the thread that `loop_start` makes."""
        try:
            patience = max(timeout, min(LONGEST_PATIENCE, self.keepalive / 4))
            return super().loop_forever(patience, retry_first_connection)
        except Exception:  # noqa: BLE001 - a packet that paho cannot read must end the connection, not go unseen
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        finally:
            connection = self.socket()
            if connection is not None:  # after an exception paho would leave it open
                with contextlib.suppress(OSError):
                    connection.close()
            self.ended.set()
            if self.on_end is not None:
                self.on_end()

    def _create_unix_socket_connection(self) -> socket.socket:
        """Open a unix socket, as paho does, but with a timeout."""
        self._opened = channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(self.connect_timeout)
        channel.connect(self.host)
        return channel

    def _create_socket_connection(self) -> socket.socket:
        self._opened = opened = PlainSocket(fileno=super()._create_socket_connection().detach())
        # Otherwise a small packet waits for the acknowledgment of the one before it: that costs 40 ms, sometimes twice.
        with contextlib.suppress(OSError):  # macOS refuses it if the other side has closed the connection already
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        self._opened = wrapped = self._ssl_context.wrap_socket(  # type: ignore[union-attr]
            tcp_sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        wrapped.settimeout(self.connect_timeout)
        wrapped.do_handshake()
        return wrapped

    def _create_socket(self) -> paho.SocketLike:
        """Open the connection, and close everything if that fails: paho leaves it to the garbage collector.

        Raises UpgradeRefused for a refused WebSocket.
        """
        try:
            return super()._create_socket()
        except BaseException as error:
            if self._opened is not None:
                self._opened.close()
            if isinstance(error, paho.WebsocketConnectionError):
                raise explain.UpgradeRefused(getattr(self._opened, "first_bytes", b"")) from None
            raise
        finally:
            self._opened = None

    def send(self, message: Message) -> paho.MQTTMessageInfo:
        """Publish a message: all of ours go through here except the last will, which the broker publishes."""
        return self.publish(message.topic, message.payload, qos=1, retain=message.retain)

    def close(self, patience: float) -> None:
        """Disconnect, wait `patience` seconds for the network thread to end, then cut the connection."""
        self.on_socket_close = lambda _client, _data, connection: _read_to_the_end(connection, patience)
        self.disconnect()
        if not self.ended.wait(patience):
            with contextlib.suppress(OSError, AttributeError):
                self.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            self.ended.wait(patience)


def _read_to_the_end(connection: paho.SocketLike, patience: float) -> None:
    """Read until the broker has closed the connection, as it must after our DISCONNECT, for at most this many seconds.

    Closing a socket with something unread resets the connection. A broker (amqtt) may then lose the DISCONNECT, and
    publish the last will. Another one (Mosquitto with WebSockets over TLS) waits for our end before it closes.
    """
    ends = time.monotonic() + patience
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as rest:  # below any TLS
        rest.shutdown(socket.SHUT_WR)
        while (remaining := ends - time.monotonic()) > 0:
            rest.settimeout(remaining)
            if not rest.recv(MAX_INCOMING):
                return


def unique_client_id() -> str:
    """Return a new id of at most 23 characters, which every broker must accept.

    Two clients with one id would disconnect each other forever.
    """
    return f"claude-usage-{secrets.token_hex(5)}"


def with_own_id(options: BrokerOptions) -> BrokerOptions:
    """Return the options of a client next to the service, which would disconnect the service if it had the same id."""
    # A broker may require a prefix of ids, and the service's id begins with it.
    return replace(options, client_id=f"{options.client_id}-{unique_client_id()}".removeprefix("-"))


def require_readable(options: BrokerOptions) -> None:
    """Raise SettingsError if certificates or the password's file cannot be used."""
    read_password(options)
    make_tls_context(options)


def read_password(options: BrokerOptions) -> str | None:
    """Return the password as it is now; raises SettingsError."""
    file = options.password_file
    return options.password if file is None else read_secret(file, "MQTT_PASSWORD_FILE")


def make_tls_context(options: BrokerOptions) -> ssl.SSLContext | None:
    """Return the context for TLS, which always verifies; None without TLS. Raises SettingsError."""
    if not options.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
    except (OSError, ValueError):
        raise SettingsError(
            f"MQTT_TLS_CA ({options.tls_ca}) cannot be read as certificates in PEM form; check path and permissions."
        ) from None
    # Python 3.13 and later also demand extensions that a private authority made with plain openssl (mosquitto-tls(7))
    # does not have. The chain, the dates and the name are still verified.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # They also trust certificates in the file without their authority: an intermediate one, the broker's own.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.sslsocket_class = TlsSocket
    if options.tls_cert is not None:
        try:
            # an encrypted key would ask for its password on the terminal
            context.load_cert_chain(options.tls_cert, options.tls_key, password="")
        except (OSError, ValueError):
            raise SettingsError(
                f"MQTT_TLS_CERT ({options.tls_cert}) and MQTT_TLS_KEY ({options.tls_key or 'in the same file'}) cannot "
                "be read as a certificate and its unencrypted key in PEM form; check paths and permissions."
            ) from None
    return context


def make_client(options: BrokerOptions, protocol: MQTTProtocolVersion, *, will: Message | None = None) -> Client:
    """Return a client that is not connected yet and never reconnects by itself."""
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=options.client_id or unique_client_id(),
        clean_session=True if protocol == V3 else None,
        protocol=protocol,
        transport=options.transport,
        reconnect_on_failure=False,
    )
    if options.transport == "websockets":
        client.ws_set_options(options.websocket_path, _host_headers(options))
    client.ended = threading.Event()
    client.connect_timeout = CONNECT_TIMEOUT
    client.max_queued_messages_set(MAX_QUEUED)
    client.max_inflight_messages_set(MAX_IN_FLIGHT)
    if will is not None:
        # Without a delay: that needs a session that outlives the connection, with a client id that stays, and the will
        # of the one before could still come after our own "online".
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
    return client


def _host_headers(options: BrokerOptions) -> dict[str, str] | None:
    """Return the headers that paho would send without the brackets of an IPv6 address."""
    if ":" not in options.host:
        return None
    host = f"[{options.host}]:{options.port}"
    return {"Host": host, "Origin": f"{'https' if options.tls else 'http'}://{host}"}


def connect(client: Client, options: BrokerOptions) -> None:
    """Open the connection, send CONNECT and start the network thread; the answer comes to the callback.

    Raises BrokerError.
    """
    try:
        if options.username is not None:
            client.username_pw_set(options.username, read_password(options))
        if (tls := make_tls_context(options)) is not None:
            client.tls_set_context(tls)
    except SettingsError as error:  # of a file that was usable when we started
        raise BrokerRefused(str(error)) from None
    properties = None
    if client.protocol == V5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_INCOMING
    try:
        client.connect(options.host, options.port or 1883, keepalive=options.keepalive, properties=properties)
        client.loop_start()
    except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt must follow
        raise explain.failed_attempt(error, options) from None
