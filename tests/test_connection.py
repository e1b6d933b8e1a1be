"""Whatever is between us and the broker, it works or the error helps."""

import datetime as dt
import os
import re
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.errors import BrokerError, BrokerRefused, BrokerUnreachable
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.session import Session, publish_once
from parts import faults
from parts.broker import Mosquitto, needs_mosquitto
from parts.certificates import Authority, KeyPair
from parts.endpoint import Endpoint
from parts.net import LOOPBACK

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def why_not(options: BrokerOptions, within: float = 10) -> BrokerError:
    """Return why no connection could be made."""
    with pytest.raises(BrokerError) as caught, Session(options, within):
        pass
    return caught.value


def secure(port: int, ca: Path | None, **more: Any) -> BrokerOptions:
    """Return the options for a broker over TLS that trust only this authority."""
    options = {"host": "localhost", "port": port, "tls": True, "tls_ca": None if ca is None else str(ca)}
    return BrokerOptions(**options | more)


# Certificates


def openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in a folder, with a configuration that has no more than Debian's."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def private_authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, KeyPair]:
    """Make an authority and a server's certificate with the commands of mosquitto-tls(7).

    The authority has neither keyUsage nor a critical basicConstraints, and the server's certificate names neither
    its authority's key nor a subjectAltName.
    """
    folder = tmp_path_factory.mktemp("openssl")
    (folder / "openssl.cnf").write_text(
        "[req]\ndistinguished_name = names\n[names]\n[v3_ca]\nsubjectKeyIdentifier = hash\nbasicConstraints = CA:true\n"
    )
    new = ("req", "-new", "-config", "openssl.cnf")
    authority = ("-x509", "-days", "30", "-extensions", "v3_ca", "-nodes", "-keyout", "ca.key", "-out", "ca.crt")
    openssl(folder, *new, *authority, "-subj", "/CN=authority of my own")
    openssl(folder, "genrsa", "-out", "server.key", "2048")
    openssl(folder, *new, "-out", "server.csr", "-key", "server.key", "-subj", "/CN=localhost")
    signed_by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
    openssl(folder, "x509", "-req", "-in", "server.csr", *signed_by, "-out", "server.crt", "-days", "30")
    for key in folder.glob("*.key"):
        key.chmod(0o600)
    return folder / "ca.crt", KeyPair(folder / "server.crt", folder / "server.key")


@pytest.fixture
def _like_python_3_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make contexts as Python 3.13 and later do, so that older ones are tested the same way."""
    really = ssl.create_default_context

    def create(*arguments: object, **named: object) -> ssl.SSLContext:
        context = really(*arguments, **named)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    monkeypatch.setattr(ssl, "create_default_context", create)


@needs_mosquitto
@needs_openssl
@pytest.mark.usefixtures("_like_python_3_13")
def test_an_authority_as_the_manual_of_mosquitto_makes_it(private_authority: tuple[Path, KeyPair]) -> None:
    """A private authority made by the manual is accepted on every Python; another one and another name are not."""
    ca, pair = private_authority
    with Mosquitto(server_certificate=pair) as mosquitto:
        port, unused = mosquitto.tls_port, mosquitto.ca_path
        publish_once(secure(port, ca), Message(topic="t", payload=b"1"))
        assert "check MQTT_TLS_CA" in str(why_not(secure(port, unused)))
        by_address = str(why_not(secure(port, ca, host=LOOPBACK)))
        assert "for '127.0.0.1'); set MQTT_HOST to a name that the certificate is for" in by_address
        without = str(why_not(secure(port, None)))
        assert "if the authority is your own, set MQTT_TLS_CA to its certificate" in without


@needs_mosquitto
@needs_openssl
def test_the_brokers_own_certificate_may_be_trusted(private_authority: tuple[Path, KeyPair]) -> None:
    """The broker's own certificate may be named alone, on every Python; its name is still verified."""
    _, pair = private_authority
    with Mosquitto(server_certificate=pair) as mosquitto:
        publish_once(secure(mosquitto.tls_port, pair.certificate), Message(topic="t", payload=b"1"))
        assert "set MQTT_HOST to a name" in str(why_not(secure(mosquitto.tls_port, pair.certificate, host=LOOPBACK)))


@needs_mosquitto
@pytest.mark.parametrize(("starts", "word"), [(1, "which may be behind"), (-40, "which may be ahead")])
def test_a_wrong_clock_is_suspected(tmp_path: Path, starts: int, word: str) -> None:
    """A box that starts with a wrong clock sees certificates from the future: the clock is named, not the authority."""
    authority = Authority(tmp_path)
    first = dt.datetime.now(dt.UTC) + dt.timedelta(days=starts)
    pair = authority.issue(not_before=first, not_after=first + dt.timedelta(days=30))
    with Mosquitto(server_certificate=pair) as mosquitto:
        said = str(why_not(secure(mosquitto.tls_port, authority.ca_path)))
    assert "clock" in said
    assert word in said
    assert "MQTT_TLS_CA" not in said


# WebSockets


REFUSALS = {
    301: (BrokerRefused, "redirects are not followed"),
    302: (BrokerRefused, "redirects are not followed"),
    401: (BrokerRefused, "without a login"),
    403: (BrokerRefused, "without a login"),
    404: (BrokerRefused, "check MQTT_WEBSOCKET_PATH"),
    502: (BrokerUnreachable, "cannot reach the broker behind it"),
    503: (BrokerUnreachable, "cannot reach the broker behind it"),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_what_a_proxy_answers_instead_of_a_websocket(endpoint: Endpoint, status: int) -> None:
    """The status from a proxy in front of the broker is shown and explained; 5xx may pass by themselves."""
    kind, words = REFUSALS[status]
    endpoint.fault = faults.Answer(status=status, headers={"Location": "https://elsewhere.example/mqtt"})
    place = f"{LOOPBACK}:{endpoint.port}"
    error = why_not(BrokerOptions(host=LOOPBACK, port=endpoint.port, transport="websockets", websocket_path="/a/ws"))
    assert (type(error), words in str(error)) == (kind, True), error
    assert f"(HTTP {status})" in str(error)
    assert f"{place}/a/ws" in str(error)
    assert {(request.path, request.headers["host"]) for request in endpoint.requests} == {("/a/ws", place)}


def test_the_same_under_tls(tmp_path: Path) -> None:
    """Under TLS the proxy's status is shown too."""
    authority = Authority(tmp_path)
    with Endpoint(ssl_context=authority.server_context()) as proxy:
        proxy.fault = faults.Answer(status=503)
        assert "(HTTP 503)" in str(why_not(secure(proxy.port, authority.ca_path, transport="websockets")))


@pytest.mark.real_parts
@pytest.mark.skipif("RABBITMQ_WEBSOCKETS" not in os.environ, reason="RABBITMQ_WEBSOCKETS is not set")
def test_the_path_of_rabbitmq() -> None:
    """RabbitMQ serves WebSockets under /ws: with the path set it is used, without it the path is named.

    `RABBITMQ_WEBSOCKETS` is the port of its Web MQTT plugin on loopback, without a login.
    """
    port = int(os.environ["RABBITMQ_WEBSOCKETS"])
    options = BrokerOptions(host=LOOPBACK, port=port, transport="websockets", websocket_path="/ws")
    publish_once(options, Message(topic="t", payload=b"1"))
    assert "check MQTT_WEBSOCKET_PATH" in str(why_not(BrokerOptions(host=LOOPBACK, port=port, transport="websockets")))


# Addresses


@pytest.mark.parametrize(
    ("host", "address"), [("::1", "[::1]:1883"), ("fe80::1%eth0", "[fe80::1%eth0]:1883"), ("broker", "broker:1883")]
)
def test_an_ipv6_address_is_printed_in_brackets(host: str, address: str) -> None:
    """The port can be separated from the address."""
    assert BrokerOptions(host=host).address == address


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("fe80::1%x", "The address fe80::1%x cannot be used on this machine; check MQTT_HOST"),
        ("fe80::1", "an address that begins with fe80: needs the network interface behind it, as in fe80::1%eth0"),
    ],
)
def test_an_address_of_another_network(host: str, words: str) -> None:
    """An address is not looked up, so the DNS is not blamed; its network interface is missing."""
    said = str(why_not(BrokerOptions(host=host)))
    assert words in said
    assert "DNS" not in said


def test_a_name_that_only_the_local_network_knows() -> None:
    """A `.local` name that a container cannot resolve is explained."""
    error = why_not(BrokerOptions(host="no-such-host-here.local"), within=30)
    if "No response from" in str(error):
        pytest.skip("the name service of this machine is too slow")
    assert re.search(r"cannot be resolved.*\.local are often unknown in a container", str(error))


def test_localhost_in_a_container(closed_port: int) -> None:
    """If nothing listens on localhost, the most frequent mistake with containers is named."""
    error = why_not(BrokerOptions(host="localhost", port=closed_port))
    assert "in a container, localhost is the container itself" in str(error)
