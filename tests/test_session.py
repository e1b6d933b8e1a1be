"""A connection for one job ends within its deadline, with the result or with the reason why there is none."""

import errno
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from claude_usage_mqtt.errors import BrokerRefused, BrokerUnreachable
from claude_usage_mqtt.mqtt import session as session_module
from claude_usage_mqtt.mqtt.client import Message, PlainSocket
from claude_usage_mqtt.mqtt.options import BrokerOptions, Protocol
from claude_usage_mqtt.mqtt.session import Session, publish_once
from parts import broker
from parts.broker import Broker, Mosquitto, needs_mosquitto
from parts.net import LOOPBACK, HeldPort
from parts.watcher import Watcher

HUNG = 30.0
"""Seconds that are exceeded only if something hangs."""


def options(port: int, **more: str) -> BrokerOptions:
    """Return the options for a broker on loopback."""
    return BrokerOptions(host=LOOPBACK, port=port, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["auto", "5", "3.1.1"])
def test_one_message_is_published_and_acknowledged(
    protocol: Protocol, running_broker: Broker, watcher: Watcher
) -> None:
    """When the call returns, the message is on the broker."""
    if not broker.available() and protocol == "5":
        pytest.skip("the embedded broker speaks 3.1.1 only")
    publish_once(options(running_broker.port, protocol=protocol), Message(topic="t/a", payload=b"1"))
    watcher.settle()
    assert [message.payload for message in watcher.messages("t/a")] == ["1"]


def test_auto_falls_back_to_the_older_protocol() -> None:
    """A broker that speaks only MQTT 3.1.1 is used, and nothing is reported."""
    pytest.importorskip("amqtt")
    from claude_usage_mqtt.demo.broker import EmbeddedBroker

    with EmbeddedBroker(port=0) as embedded, Session(options(embedded.port), 1) as session:
        assert session.version == "3.1.1"


def test_an_option_that_macos_refuses(running_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the other side has closed already, macOS refuses options of the socket: that is not the error to report."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(PlainSocket, "setsockopt", refuse)
    publish_once(options(running_broker.port), Message(topic="t/a", payload=b"1"))


def test_retained_messages_are_collected(running_broker: Broker, watcher: Watcher) -> None:
    """What is retained on the broker is found by subscribing: all of it, and then the call returns."""
    for number in range(30):
        watcher.publish(f"kept/{number}", str(number), retain=True)
    with Session(options(running_broker.port)) as session:
        assert session.subscribe(["kept/+"]) == []
        found = session.collect(quiet=0.5)
    assert {message.topic: message.payload for message in found} == {f"kept/{n}": str(n).encode() for n in range(30)}
    assert all(message.retain for message in found)


def test_no_broker_is_reported_at_once(closed_port: int) -> None:
    """If no broker listens, the reason comes at once, as a sentence."""
    with pytest.raises(BrokerUnreachable, match="MQTT_PORT"), Session(options(closed_port)):
        pass


@needs_mosquitto
def test_a_broker_that_does_not_answer_is_given_up_in_time(mosquitto: Mosquitto) -> None:
    """A frozen broker costs no more than the deadline, before and after the connection is made."""
    message = Message(topic="t", payload=b"1")
    with Session(options(mosquitto.port)) as session:
        mosquitto.freeze()
        with pytest.raises(BrokerUnreachable, match="No response from the broker"):
            session.publish(message, within=0.3)
    with pytest.raises(BrokerUnreachable, match="No response from the broker"):
        publish_once(options(mosquitto.port), message, within=0.3)


@needs_mosquitto
def test_the_running_service_is_not_disconnected() -> None:
    """With MQTT_CLIENT_ID set, a command next to the service does not take its connection away.

    Its own id has the same beginning: a broker may accept only ids with one prefix (`clientid_prefixes` of Mosquitto).
    """
    lines = ("clientid_prefixes the-service",)
    with (
        Mosquitto(extra_lines=lines) as mosquitto,
        Session(options(mosquitto.port, client_id="the-service")) as session,
    ):
        assert session.version == "5"
        mosquitto.log.wait_for(" as the-service-claude-usage-")
        assert not any(" as the-service " in line for line in mosquitto.log.lines)
        with Session(options(mosquitto.port, client_id="the-service"), as_service=True):
            mosquitto.log.wait_for(" as the-service ")


@needs_mosquitto
def test_refusals_say_what_to_do() -> None:
    """No login, a wrong password, a topic that may not be written and one that may not be read: each is reported."""
    with Mosquitto(users={"writer": "secret"}, acl="user writer\ntopic readwrite allowed/#\n") as mosquitto:
        for login, said in (
            ({}, r"requires a login .*; set MQTT_USERNAME and MQTT_PASSWORD\."),
            ({"username": "writer", "password": "wrong"}, "check MQTT_USERNAME and MQTT_PASSWORD"),
        ):
            with pytest.raises(BrokerRefused, match=said), Session(options(mosquitto.port, **login)):
                pass
        with Session(options(mosquitto.port, username="writer", password="secret")) as session:
            session.publish(Message(topic="allowed/a", payload=b"1"))
            with pytest.raises(BrokerRefused, match="refused other/a"):
                session.publish(Message(topic="other/a", payload=b"1"))


@needs_mosquitto
def test_a_login_may_be_tied_to_the_client_id_of_the_service() -> None:
    """A command next to the service has another id: its refusal says so, and does not blame the password alone."""
    tied = "; or the broker accepts this login only with the client id attic, which is left to the service."
    with Mosquitto(users={"attic": "secret"}) as mosquitto:
        wrong = options(mosquitto.port, username="attic", password="wrong", client_id="attic")
        command, as_service = Session(wrong), Session(wrong, as_service=True)
        without = Session(replace(wrong, client_id=""))
        for session, is_named in ((command, True), (as_service, False), (without, False)):
            with pytest.raises(BrokerRefused) as refused, session:
                pass
            assert str(refused.value).endswith(tied) is is_named


@needs_mosquitto
def test_after_a_loss_nothing_waits(mosquitto: Mosquitto) -> None:
    """If the broker ends during a wait, that is reported at once, and so is the next attempt."""
    with Session(options(mosquitto.port)) as session:
        mosquitto.kill()
        with pytest.raises(BrokerUnreachable, match="was lost"):
            session.receive(HUNG)
        with pytest.raises(BrokerUnreachable, match="No connection"):
            session.subscribe(["t"])


def assert_disconnects(then: Callable[[socket.socket], object]) -> None:
    """End a session with a broker that does `then` after the DISCONNECT: the connection must end, with nothing more."""

    def broker() -> list[bytes]:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"\x20\x02\x00\x00")  # CONNACK
            said = [connection.recv(1024)]
            then(connection)
            return [*said, connection.recv(1024)]

    with HeldPort() as port, port.listen() as listener, ThreadPoolExecutor() as pool:
        said = pool.submit(broker)
        with Session(options(port.number, protocol="3.1.1")):
            pass
        assert said.result() == [b"\xe0\x00", b""]  # DISCONNECT, and the connection's end


def test_a_message_on_its_way_at_the_end_does_not_reset_the_connection() -> None:
    """The broker reads our DISCONNECT whatever it has just sent: after a reset some publish the last will instead."""

    def publish_and_end(connection: socket.socket) -> None:
        connection.sendall(b"\x30\x03\x00\x01t")  # PUBLISH
        connection.shutdown(socket.SHUT_WR)

    assert_disconnects(publish_and_end)


def test_a_broker_that_waits_for_the_end_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that closes a connection only after us (Mosquitto does with WebSockets over TLS) delays no command."""
    monkeypatch.setattr(session_module, "CLOSE_WITHIN", HUNG)
    assert_disconnects(lambda connection: connection.settimeout(5.0))
