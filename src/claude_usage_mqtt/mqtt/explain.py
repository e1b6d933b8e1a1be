"""Sentences about what went wrong with the broker, and what to do."""

from __future__ import annotations

import re
import socket
import ssl

from paho.mqtt.reasoncodes import ReasonCode

from claude_usage_mqtt.errors import NO_THREADS, BrokerError, BrokerRefused, BrokerUnreachable, is_lack_of_threads
from claude_usage_mqtt.mqtt.options import BrokerOptions

# CONNACK reasons by their names, which paho uses for both protocol versions.
WRONG_PROTOCOL = frozenset({"Unsupported protocol version"})
BAD_LOGIN = frozenset({"Bad user name or password", "Not authorized", "Bad authentication method"})
UNINFORMATIVE = frozenset({"Unspecified error", "Success", "Normal disconnection"})

CERTIFICATE_HINTS = {
    9: "check the clock of this machine, which may be behind",
    10: "renew the broker's certificate, or check the clock of this machine, which may be ahead",
    62: "set MQTT_HOST to a name that the certificate is for",
    64: "set MQTT_HOST to a name that the certificate is for",
}
"""By OpenSSL's X509_V_ERR codes: not yet valid, expired, another name, another address."""

OWN_AUTHORITY = "if the authority is your own, set MQTT_TLS_CA to its certificate"

DERIVED_ID = re.compile(r"(.+)-claude-usage-[0-9a-f]{10}")
"""The client id of a command next to the service; it begins with the service's id."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class UpgradeRefused(Exception):  # noqa: N818 - named by what happened
    """A server answered a WebSocket request, but not with an upgrade; `status` is None if it was not HTTP."""

    def __init__(self, first_bytes: bytes) -> None:
        found = re.match(rb"HTTP/\d(?:\.\d)? (\d{3})\b", first_bytes)
        self.status = int(found[1]) if found else None


def failed_attempt(error: Exception, options: BrokerOptions) -> BrokerError:  # noqa: PLR0911 - one for each cause
    """Return what a failed attempt to connect means."""
    where = f"the broker at {options.address}"
    match error:
        case ssl.SSLCertVerificationError():
            own = "check MQTT_TLS_CA" if options.tls_ca else OWN_AUTHORITY
            hint = CERTIFICATE_HINTS.get(error.verify_code, own)
            reason = error.verify_message.rstrip(".")
            return BrokerRefused(f"The certificate of {where} is not trusted ({reason}); {hint}.")
        case ssl.SSLError():
            kind = BrokerUnreachable if isinstance(error, ssl.SSLEOFError) else BrokerRefused
            reason = error.reason or "no reason given"
            return kind(f"TLS with {where} failed ({reason}); check MQTT_TLS, MQTT_PORT and the client certificate.")
        case UpgradeRefused():
            return _refused_upgrade(error.status, options)
        case socket.gaierror():
            hint = _about_host(options.host)
            if ":" in options.host:  # no name: an address is not looked up
                return _unusable_address(options.host)
            return BrokerUnreachable(f"The name {options.host} cannot be resolved; check MQTT_HOST and the DNS{hint}.")
        case TimeoutError():
            return BrokerUnreachable(f"No response from {where}; check MQTT_HOST, MQTT_PORT and the network.")
        case OSError() | ValueError():
            return _no_connection(error, options)
        case _ if is_lack_of_threads(error):
            return BrokerUnreachable(NO_THREADS)
        case _:
            return BrokerUnreachable(f"Connecting to {where} failed ({type(error).__name__}).")


def _no_connection(error: Exception, options: BrokerOptions) -> BrokerError:
    reason = (error.strerror if isinstance(error, OSError) else None) or "connection failed"
    settings = "MQTT_HOST, MQTT_PORT, MQTT_TLS" if options.tls else "MQTT_HOST, MQTT_PORT"
    hint = _about_host(options.host)
    if options.transport == "unix":
        settings, hint = "the path in MQTT_HOST", ""
    return BrokerUnreachable(
        f"No connection to the broker at {options.address} ({reason}); check {settings} and the broker{hint}."
    )


def _unusable_address(host: str) -> BrokerError:
    interface = host.partition("%")[2]
    remedy = f"there may be no network interface {interface}" if interface else "there may be no IPv6"
    return BrokerUnreachable(f"The address {host} cannot be used on this machine; check MQTT_HOST, as {remedy}.")


def _about_host(host: str) -> str:
    if host.lower().rstrip(".").endswith(".local"):
        return "; names that end in .local are often unknown in a container, an IP address always works"
    if host.lower().startswith("fe80:") and "%" not in host:
        return f"; an address that begins with fe80: needs the network interface behind it, as in {host}%eth0"
    if host.lower() in LOOPBACK_NAMES:
        return f"; in a container, {host} is the container itself"
    return ""


def _refused_upgrade(status: int | None, options: BrokerOptions) -> BrokerError:
    where = f"The server at {options.address}"
    match status:
        case None:
            return BrokerRefused(f"{where} does not accept WebSocket connections; check MQTT_TRANSPORT and MQTT_PORT.")
        case 301 | 302 | 303 | 307 | 308:
            hint = (
                "redirects are not followed: set MQTT_HOST, MQTT_PORT, MQTT_TLS and MQTT_WEBSOCKET_PATH to its target"
            )
        case 401 | 403 | 407:
            hint = "allow this path without a login: MQTT_USERNAME and MQTT_PASSWORD are for the broker behind it"
        case 404:
            hint = "check MQTT_WEBSOCKET_PATH (Mosquitto: /mqtt, RabbitMQ: /ws)"
        case _ if status >= 500:
            return BrokerUnreachable(f"{where} cannot reach the broker behind it (HTTP {status}); check the broker.")
        case _:
            hint = "check MQTT_TRANSPORT, MQTT_PORT and MQTT_WEBSOCKET_PATH"
    return BrokerRefused(f"{where} refused the WebSocket connection (HTTP {status}); {hint}.")


def refusal(reason: ReasonCode, options: BrokerOptions) -> BrokerError:
    """Return what the broker's refusal of the connection means."""
    name, where = reason.getName(), f"The broker at {options.address}"
    if name not in BAD_LOGIN:
        hint = "; check MQTT_CLIENT_ID" if name == "Client identifier not valid" else ""
        return BrokerRefused(f"{where} refused the connection ({name}){hint}.")
    if options.username is None:
        return BrokerRefused(f"{where} requires a login ({name}); set MQTT_USERNAME and MQTT_PASSWORD.")
    hint = _about_client_id(options.client_id)
    return BrokerRefused(f"{where} refused the login ({name}); check MQTT_USERNAME and MQTT_PASSWORD{hint}.")


def _about_client_id(used: str) -> str:
    derived = DERIVED_ID.fullmatch(used)
    if derived is None:
        return ""
    return f"; or the broker accepts this login only with the client id {derived[1]}, which is left to the service"


def loss(options: BrokerOptions, *, accepted: bool, reason: str | None) -> BrokerError:
    """Return what the end of a connection means, before or after the broker had accepted it."""
    why = f" ({reason})" if reason and reason not in UNINFORMATIVE else ""
    if accepted:
        twin = "; if that repeats, another program may have the same MQTT_CLIENT_ID" if options.client_id else ""
        return BrokerUnreachable(f"The connection to the broker at {options.address} was lost{why}{twin}.")
    return BrokerRefused(
        f"The broker at {options.address} closed the connection without giving a reason{why}; "
        "check MQTT_PORT, MQTT_TLS and MQTT_TRANSPORT, and whether it requires a client certificate."
    )
