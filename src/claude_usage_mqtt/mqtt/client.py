"""One connection to the broker: made, refused or lost, with the sentence that says why."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from claude_usage_mqtt.errors import BrokerError, BrokerRefused, BrokerUnreachable, SettingsError
from claude_usage_mqtt.mqtt.options import BrokerOptions

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

CONNECT_TIMEOUT = 5.0
"""Seconds for the TCP connection, and again for the TLS handshake."""

MAX_INCOMING = 1024 * 1024
"""Bytes of a packet we take; asked of the broker where MQTT 5 lets us ask."""

MAX_QUEUED = 2000
"""Messages that may wait for the broker; beyond that it is slower than we speak, and gets the newest later."""

MAX_IN_FLIGHT = 10
"""Messages sent and not yet acknowledged: paho does not look at what an MQTT 5 broker says it can take."""

V5, V3 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311

# CONNACK reasons by their names, which paho gives alike for both protocols.
WRONG_PROTOCOL = frozenset({"Unsupported protocol version"})
BAD_LOGIN = frozenset({"Bad user name or password", "Not authorized", "Bad authentication method"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message: a topic, its payload, and whether the broker keeps (or had kept) it."""

    topic: str
    payload: bytes
    retain: bool = False


class Client(paho.Client):
    """A paho client whose network thread, however it ends, says so: `ended` is set."""

    ended: threading.Event

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:  # noqa: FBT001, FBT002 - the signature is paho's
        """Run the network loop; called by the thread that `loop_start` makes."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception:  # noqa: BLE001 - a packet that paho cannot read must end the connection, not go unseen
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        finally:
            connection = self.socket()
            if connection is not None:  # after an exception paho would leave it open
                with contextlib.suppress(OSError):
                    connection.close()
            self.ended.set()

    def _create_unix_socket_connection(self) -> socket.socket:
        """Open a unix socket, as paho does, but with a limit to the wait, and closed where it leads nowhere."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.settimeout(self.connect_timeout)
            channel.connect(self.host)
        except BaseException:
            channel.close()
            raise
        return channel

    def close(self, patience: float) -> None:
        """Say goodbye, wait `patience` seconds for the network thread to end, then cut the connection."""
        self.disconnect()
        if not self.ended.wait(patience):
            with contextlib.suppress(OSError, AttributeError):
                self.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            self.ended.wait(patience)


class TlsSocket(ssl.SSLSocket):
    """A TLS socket that is closed where its handshake fails: paho leaves it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature is the library's
        """Shake hands."""
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def unique_client_id() -> str:
    """Return a new id of at most 23 characters, which every broker must take.

    Two clients with one id would throw each other out for ever.
    """
    return f"claude-usage-{secrets.token_hex(5)}"


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
    context.sslsocket_class = TlsSocket
    if options.tls_cert is not None:
        try:
            # an encrypted key would ask on the terminal: nobody is there
            context.load_cert_chain(options.tls_cert, options.tls_key, password="")
        except (OSError, ValueError):
            raise SettingsError(
                f"MQTT_TLS_CERT ({options.tls_cert}) and MQTT_TLS_KEY ({options.tls_key or 'in the same file'}) cannot "
                "be read as a certificate and its unencrypted key in PEM form; check paths and permissions."
            ) from None
    return context


def make_client(
    options: BrokerOptions,
    protocol: MQTTProtocolVersion,
    *,
    will: Message | None = None,
    tls: ssl.SSLContext | None = None,
) -> Client:
    """Return a client that is not connected yet and never reconnects by itself."""
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=options.client_id or unique_client_id(),
        clean_session=True if protocol == V3 else None,
        protocol=protocol,
        transport=options.transport,
        reconnect_on_failure=False,
    )
    client.ended = threading.Event()
    client.connect_timeout = CONNECT_TIMEOUT
    client.max_queued_messages_set(MAX_QUEUED)
    client.max_inflight_messages_set(MAX_IN_FLIGHT)
    if options.username is not None:
        client.username_pw_set(options.username, options.password)
    if tls is not None:
        client.tls_set_context(tls)
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
    return client


def connect(client: Client, options: BrokerOptions) -> None:
    """Open the connection, send CONNECT and start the network thread; the answer comes to the callback.

    Raises BrokerError.
    """
    properties = None
    if client.protocol == V5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_INCOMING
    try:
        client.connect(options.host, options.port or 1883, keepalive=options.keepalive, properties=properties)
    except (OSError, ValueError, paho.WebsocketConnectionError) as error:
        raise explain_failure(error, options) from None
    _send_at_once(client)
    client.loop_start()


def _send_at_once(client: Client) -> None:
    """Let no small packet wait for the acknowledgement of the one before it: that would cost 40 ms, at times twice."""
    connection = client.socket()
    if connection is None:
        return
    # a duplicate, because not all that paho calls a socket can set options; they belong to the connection
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def explain_failure(error: Exception, options: BrokerOptions) -> BrokerError:
    """Return what a failed attempt to connect means."""
    where = f"the broker at {options.address}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerRefused(f"The certificate of {where} is not trusted ({error.verify_message}); check MQTT_TLS_CA.")
    if isinstance(error, ssl.SSLError):
        kind = BrokerUnreachable if isinstance(error, ssl.SSLEOFError) else BrokerRefused
        return kind(
            f"TLS with {where} failed ({error.reason or 'no reason given'}); "
            "check MQTT_TLS, MQTT_PORT and the client certificate."
        )
    if isinstance(error, paho.WebsocketConnectionError):
        return BrokerRefused(
            f"The broker at {options.address} speaks no websockets; check MQTT_TRANSPORT and MQTT_PORT."
        )
    if isinstance(error, socket.gaierror):
        return BrokerUnreachable(f"The name {options.host} cannot be looked up; check MQTT_HOST and the DNS.")
    if isinstance(error, TimeoutError):
        return BrokerUnreachable(f"No answer from {where}; check MQTT_HOST, MQTT_PORT and the network.")
    reason = (error.strerror if isinstance(error, OSError) else None) or "connection failed"
    settings = "MQTT_HOST, MQTT_PORT, MQTT_TLS" if options.tls else "MQTT_HOST, MQTT_PORT"
    if options.transport == "unix":
        settings = "the path in MQTT_HOST"
    return BrokerUnreachable(f"No connection to {where} ({reason}); check {settings} and the broker.")


def explain_refusal(reason: ReasonCode, options: BrokerOptions) -> BrokerError:
    """Return what the broker's refusal of the connection means."""
    name = reason.getName()
    if name in BAD_LOGIN:
        return BrokerRefused(
            f"The broker at {options.address} refused the login ({name}); check MQTT_USERNAME and MQTT_PASSWORD."
        )
    return BrokerRefused(f"The broker at {options.address} refused the connection ({name}).")


def explain_loss(options: BrokerOptions, *, accepted: bool, reason: str | None) -> BrokerError:
    """Return what the end of a connection means, before or after the broker had accepted it."""
    why = f" ({reason})" if reason and reason not in ("Unspecified error", "Success", "Normal disconnection") else ""
    if accepted:
        twin = "; where that repeats, another program may have the same MQTT_CLIENT_ID" if options.client_id else ""
        return BrokerUnreachable(f"The connection to the broker at {options.address} was lost{why}{twin}.")
    return BrokerRefused(
        f"The broker at {options.address} closed the connection without a word{why}; "
        "check MQTT_PORT, MQTT_TLS and MQTT_TRANSPORT, and whether it wants a client certificate."
    )
