"""Whatever the broker does: one line when it is lost, one when it is back, and everything is published again."""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from claude_usage_mqtt.mqtt import client as mqtt_client
from claude_usage_mqtt.mqtt import connection
from claude_usage_mqtt.service import restore
from parts import broker, service
from parts.broker import Mosquitto, needs_mosquitto
from parts.certificates import Authority
from parts.command import call_command
from parts.endpoint import Endpoint
from parts.net import LOOPBACK
from parts.process import Log
from parts.proxy import FaultyProxy
from parts.service import CONFIG, HEALTH, MEMORY, STATE, STATUS, Running, Serve, is_ok, is_online, listen_to_log
from parts.watcher import Watcher

pytestmark = needs_mosquitto

EVERYTHING = {STATE, HEALTH, MEMORY, STATUS, CONFIG}
AGAIN = "Connected to the broker"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also give up sooner than in reality: on a connection, and on messages that do not come back."""
    monkeypatch.setattr(mqtt_client, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr(restore, "LONGEST", 0.5)


@pytest.fixture
def running_broker(mosquitto: Mosquitto) -> Mosquitto:
    """Return the broker of `watcher` and `serve`."""
    return mosquitto


@pytest.fixture(params=["auto", "3.1.1"])
def running(
    request: pytest.FixtureRequest, proxy: FaultyProxy, watcher: Watcher, serve: Serve, endpoint: Endpoint
) -> Iterator[Running]:
    """Run the service behind a proxy, until the numbers are retained on the broker."""
    with serve(port=proxy.port, keepalive=1, protocol=request.param) as found:
        watcher.wait_topic(HEALTH, is_ok)
        watcher.settle()
        yield found
        assert endpoint.count == 1, "an outage of the broker must not be a reason to ask the API"


def wait_for_all(watcher: Watcher, since: int) -> None:
    """Wait until everything was sent again."""
    for topic in EVERYTHING - {STATUS}:
        watcher.wait_topic(topic, since=since)
    watcher.wait_topic(STATUS, is_online, since=since)
    assert set(watcher.retained()) == EVERYTHING


def assert_all_is_back(watcher: Watcher, since: int, log: Log) -> None:
    """Check that everything was sent again, with one warning for the outage and one line when it was over."""
    wait_for_all(watcher, since)
    log.wait_for(AGAIN)
    assert (log.count("WARNING"), log.count(AGAIN)) == (1, 1), log.text


def assert_numbers_continue(watcher: Watcher) -> None:
    """Check that the service still obeys and publishes."""
    watcher.publish(service.command("interval"), "400")
    watcher.wait_topic(HEALTH, lambda message: message.json()["poll_interval"] == 400)


def test_refused_for_a_while(proxy: FaultyProxy, watcher: Watcher, running: Running) -> None:
    """While a broker is stopped the numbers are `offline`; then everything is as before."""
    since = watcher.mark()
    proxy.refuse()
    running.log.wait_for("was lost")
    watcher.wait_topic(STATUS, lambda message: message.payload == "offline", since=since)
    proxy.heal()
    assert_all_is_back(watcher, since, running.log)


@pytest.mark.parametrize("wipe", [False, True])
def test_restarted_with_and_without_its_store(
    mosquitto: Mosquitto, watcher: Watcher, running: Running, *, wipe: bool
) -> None:
    """A broker that forgot everything gets everything again: entities do not wait for the next change."""
    since = watcher.mark()
    mosquitto.restart(wipe=wipe)
    watcher.wait_connected()
    running.log.wait_for(AGAIN)
    assert_all_is_back(watcher, since, running.log)


def test_half_open(proxy: FaultyProxy, watcher: Watcher, running: Running) -> None:
    """A connection that is open but passes nothing is noticed, and replaced by a new one."""
    since = watcher.mark()
    proxy.freeze()
    running.log.wait_for("WARNING")
    watcher.publish(service.BIRTH, "online")
    proxy.drop()
    proxy.heal()
    assert_all_is_back(watcher, since, running.log)


def test_slow(proxy: FaultyProxy, watcher: Watcher, running: Running) -> None:
    """Over a line of forty kilobytes a second everything still arrives."""
    since = watcher.mark()
    proxy.slow(40_000)
    proxy.drop()
    assert_all_is_back(watcher, since, running.log)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("count", [1, 20, 300, 9000])
def test_cut_in_the_middle_of_a_packet(proxy: FaultyProxy, watcher: Watcher, count: int) -> None:
    """A connection that ends in the middle of a message leaves no half message; the next one delivers it."""
    since = watcher.mark()
    proxy.cut_after(count)
    proxy.drop()
    proxy.wait_for_connections(3)  # the second one is the one that is cut
    wait_for_all(watcher, since)
    assert watcher.json(CONFIG)["components"]


def test_the_client_id_is_taken(mosquitto: Mosquitto, watcher: Watcher, serve: Serve) -> None:
    """Two programs with one id disconnect each other: that is logged once, not each time, and ends when one leaves."""
    with serve(client_id="twin") as running:
        watcher.wait_topic(HEALTH, is_ok)
        twin = paho.Client(CallbackAPIVersion.VERSION2, client_id="twin")
        twin.reconnect_delay_set(0.1, 0.1)  # type: ignore[arg-type]  # no whole seconds
        twin.connect(LOOPBACK, mosquitto.port)
        twin.loop_start()
        mosquitto.log.wait_for("twin already connected", count=6)
        twin.disconnect()
        twin.loop_stop()
        running.log.wait_for(AGAIN)
        watcher.wait_topic(STATUS, is_online)
        assert running.log.count("the same MQTT_CLIENT_ID") == 1
        assert running.log.count("WARNING") <= 2, running.log.text
        assert running.log.count(AGAIN) <= 2, running.log.text


USERS = {"us": "right", "watcher": "w"}


@contextlib.contextmanager
def guarded(acl: str = "topic readwrite #") -> Iterator[tuple[Mosquitto, Watcher]]:
    """Run a broker that gives us limited rights with a password, and watch it with a login that has all rights."""
    rules = f"user us\n{acl}\nuser watcher\ntopic readwrite #\n"
    with (
        Mosquitto(users=USERS, acl=rules) as mosquitto,
        Watcher(mosquitto.port, username="watcher", password="w") as watcher,
    ):
        yield mosquitto, watcher


def test_a_login_that_is_revoked(serve: Serve) -> None:
    """A changed password is reported as such, once; when it is right again, everything works."""
    with guarded() as (mosquitto, watcher), serve(port=mosquitto.port, username="us", password="right") as running:
        watcher.wait_topic(HEALTH, is_ok)
        broker.write_passwords(mosquitto.folder / "passwords", {"watcher": "w"})
        mosquitto.restart()
        running.log.wait_for("refused the login")
        broker.write_passwords(mosquitto.folder / "passwords", USERS)
        since = watcher.mark()
        mosquitto.restart()
        running.log.wait_for(AGAIN)
        watcher.wait_connected()
        watcher.wait_topic(STATUS, is_online, since=since)
        assert running.log.count("refused the login") == 1
        assert running.log.count("check MQTT_USERNAME and MQTT_PASSWORD") == 1
        assert "right" not in running.log.text


def test_a_password_that_was_renewed_in_its_file(serve: Serve, tmp_path: Path) -> None:
    """The file with the password is read at each connection: a renewed one needs no restart."""
    secret = tmp_path / "password"
    secret.write_text("right\n")
    with guarded() as (mosquitto, watcher), serve(port=mosquitto.port, username="us", password_file=secret) as running:
        watcher.wait_topic(STATUS, is_online)
        broker.write_passwords(mosquitto.folder / "passwords", USERS | {"us": "new"})
        secret.unlink()
        mosquitto.restart()
        running.log.wait_for(f"MQTT_PASSWORD_FILE ({secret}) does not exist")
        secret.write_text("new\n")
        running.log.wait_for(AGAIN)


def test_certificates_that_were_renewed_in_their_files(serve: Serve, tmp_path: Path) -> None:
    """The authority's certificate and our own are read at each connection, too."""
    with Mosquitto(require_client_certificate=True) as mosquitto, Watcher(mosquitto.port) as watcher:
        good, other = mosquitto.authority, Authority(tmp_path / "other")
        assert good is not None
        files = {"tls_ca": tmp_path / "ca", "tls_cert": tmp_path / "cert", "tls_key": tmp_path / "key"}

        def write(trusted: Authority, known: Authority) -> None:
            pair = known.issue("client.invalid")
            for file, source in zip(files.values(), (trusted.ca_path, pair.certificate, pair.key), strict=True):
                shutil.copy(source, file)

        write(good, good)
        with serve(port=mosquitto.tls_port, tls=True, **{name: str(file) for name, file in files.items()}) as running:
            watcher.wait_topic(STATUS, is_online)
            for trusted, known, said in ((other, good, "unknown ca"), (good, other, "verify failed")):
                write(trusted, known)
                mosquitto.restart()
                mosquitto.log.wait_for(said)
                write(good, good)
                before = running.log.count(AGAIN)
                running.log.wait_for(AGAIN, count=before + 1)


def wait_until_settled(running: Running) -> None:
    """Wait for another connection, until nothing on it can still be late."""
    with listen_to_log(Log(), logging.DEBUG) as log:
        log.wait_for("Announcements that have not come back")
    running.log.wait_for(AGAIN)


@contextlib.contextmanager
def restricted(acl: str, serve: Serve, **more: Any) -> Iterator[tuple[Running, Watcher, FaultyProxy]]:
    """Run with a broker that gives us limited rights, behind a proxy."""
    with (
        guarded(acl) as (mosquitto, watcher),
        FaultyProxy(mosquitto.port) as proxy,
        serve(port=proxy.port, username="us", password="right", **more) as running,
    ):
        yield running, watcher, proxy


def test_publishing_is_not_allowed(serve: Serve) -> None:
    """With MQTT 5, a topic that we may not write is named once; the rest is published."""
    acl = "topic readwrite claude-usage/#\ntopic read homeassistant/status"
    with restricted(acl, serve) as (running, watcher, _):
        watcher.wait_topic(HEALTH, is_ok)
        watcher.wait_topic(STATUS, is_online)
        running.log.wait_for(CONFIG)
        assert_numbers_continue(watcher)
        log = running.log
        assert log.count(CONFIG) == 1, log.text
        assert log.count("WARNING") <= 2, log.text  # Mosquitto 2.0 disconnects after a refused message, 2.1 does not


def test_announcing_is_not_allowed(serve: Serve) -> None:
    """Mosquitto 2.0.11 disconnects after a refused message: the announcement is suspended, and the numbers continue."""
    acl = "topic readwrite claude-usage/#\ntopic read homeassistant/#"
    with restricted(acl, serve, protocol="3.1.1") as (running, watcher, _):
        running.log.wait_for(f"The broker disconnects every time we publish {CONFIG}")
        running.log.wait_for(AGAIN)
        assert_numbers_continue(watcher)
        assert running.log.count("allow this user to write there") == 1
        assert CONFIG not in watcher.retained()


def test_an_announcement_that_is_silently_discarded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """MQTT 3.1.1 cannot report a refusal: that no entity appears in Home Assistant is still logged, once."""
    amqtt = pytest.importorskip("amqtt.broker")
    from claude_usage_mqtt.demo.broker import EmbeddedBroker

    class BrokerWithRules(amqtt.Broker):  # type: ignore[misc]
        async def _topic_filtering(self, _session: Any, topic: str, action: Any) -> bool:
            return action.name != "PUBLISH" or topic.startswith("claude-usage/")

    monkeypatch.setattr(amqtt, "Broker", BrokerWithRules)
    with (
        EmbeddedBroker(port=0) as embedded,
        FaultyProxy(embedded.port) as proxy,
        serve(port=proxy.port, protocol="3.1.1") as running,
    ):
        sentence = f"the broker did not return {CONFIG}. Allow this user to read and write there"
        running.log.wait_for(sentence)
        proxy.drop()
        wait_until_settled(running)
        assert running.log.count(sentence) == 1, running.log.text


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_announcement_that_is_retained_is_verified(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """With the permissions that the README names nothing is reported, at the first start and at the next."""
    monkeypatch.setattr(connection, "SETTLED_AFTER", 2.0)
    acl = (
        "topic readwrite claude-usage/#\ntopic readwrite homeassistant/device/+/config\ntopic read homeassistant/status"
    )
    with restricted(acl, serve, protocol=protocol) as (running, watcher, proxy):
        watcher.wait_topic(CONFIG)
        proxy.drop()
        wait_until_settled(running)
        assert "did not return" not in running.log.text
        assert "refused" not in running.log.text


def test_nothing_may_be_published(serve: Serve, endpoint: Endpoint) -> None:
    """With a user who may write nothing, each topic is named once, and the program continues."""
    with restricted("topic read claude-usage/#", serve) as (running, _, _):
        endpoint.wait_for_requests(1)
        for topic in EVERYTHING:
            running.log.wait_for(topic)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_reading_is_not_allowed(serve: Serve, protocol: str) -> None:
    """Without the right to read, memory and commands are missing, but the numbers still come."""
    acl = "topic write claude-usage/#\ntopic write homeassistant/#"
    with restricted(acl, serve, protocol=protocol) as (_, watcher, _):
        watcher.wait_topic(HEALTH, is_ok)
        watcher.wait_topic(STATUS, is_online)


DENY_COMMANDS = {
    "defaultACLAccess": {"publishClientSend": True, "publishClientReceive": True, "subscribe": True},
    "roles": [{"rolename": "r", "acls": [{"acltype": "subscribePattern", "topic": "+/+/command/+", "allow": False}]}],
    "groups": [{"groupname": "anybody", "roles": [{"rolename": "r"}]}],
    "anonymousGroup": "anybody",
    "clients": [],
}
DYNAMIC_SECURITY = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)


@pytest.mark.skipif(DYNAMIC_SECURITY is None, reason="Mosquitto's plugin for dynamic security is not installed")
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_subscription_that_is_refused(home: Path, endpoint: Endpoint, serve: Serve, protocol: str) -> None:
    """Only a refused subscription is named, once, however often we connect."""
    rules = home / "rules.json"
    rules.write_text(json.dumps(DENY_COMMANDS))
    plugin = (f"plugin {DYNAMIC_SECURITY}", f"plugin_opt_config_file {rules}")
    with (
        Mosquitto(extra_lines=plugin) as mosquitto,
        Watcher(mosquitto.port, ("claude-usage/#",)) as watcher,
        FaultyProxy(mosquitto.port) as proxy,
        serve(port=proxy.port, protocol=protocol) as running,
    ):
        watcher.wait_topic(HEALTH, is_ok)
        running.log.wait_for("refused the subscription to claude-usage/+/command/+; allow this user to read that")
        since = watcher.mark()
        proxy.drop()
        watcher.wait_topic(STATUS, is_online, since=since)
        assert running.log.count("refused the subscription") == 1
        settings = {"MQTT_HOST": LOOPBACK, "MQTT_PORT": mosquitto.port, "MQTT_PROTOCOL": protocol}
        checked = call_command(home, "check", "--force", CLAUDE_API_URL=endpoint.url, **settings).stdout
        refused = "The broker refused the subscription to claude-usage/default/command/check; allow this user to read"
        assert refused in checked or protocol == "3.1.1"  # then it may be a reporter's login, which has fewer rights


LIMIT = 4500
"""Bytes: more than the numbers need, less than the entities."""


def test_a_limit_that_the_broker_announces(serve: Serve) -> None:
    """With MQTT 5 the broker says how large a packet may be: a larger one is named, and not sent."""
    with (
        Mosquitto(extra_lines=[f"max_packet_size {LIMIT}"]) as mosquitto,
        serve(port=mosquitto.port) as running,
        Watcher(mosquitto.port) as watcher,
    ):
        watcher.wait_topic(HEALTH, is_ok)
        running.log.wait_for(f"accepts no packet over {LIMIT} bytes")
        assert set(watcher.retained()) == EVERYTHING - {CONFIG}
        assert running.log.count("WARNING") == 1, running.log.text


@pytest.mark.parametrize(("protocol", "limit"), [("3.1.1", "max_packet_size"), ("5", "message_size_limit")])
def test_a_limit_that_the_broker_does_not_announce(serve: Serve, protocol: str, limit: str) -> None:
    """If the broker disconnects after a large message, that message is suspended, and the numbers are published."""
    with (
        Mosquitto(extra_lines=[f"{limit} {LIMIT}"]) as mosquitto,
        serve(port=mosquitto.port, protocol=protocol) as running,
        Watcher(mosquitto.port) as watcher,
    ):
        running.log.wait_for(f"disconnects every time we publish {CONFIG}")
        running.log.wait_for(AGAIN)
        assert_numbers_continue(watcher)
        assert set(watcher.retained()) == EVERYTHING - {CONFIG}
        assert running.log.count("WARNING") <= 3, running.log.text


# TLS, websockets, unix; why a certificate is refused is in `test_connection`


@pytest.fixture(scope="module")
def secure() -> Iterator[Mosquitto]:
    """Run a broker with a TLS listener."""
    with Mosquitto(tls=True, websockets=True) as mosquitto:
        yield mosquitto


def reaches(serve: Serve, watched: Mosquitto, **how: Any) -> None:
    """Check that the service publishes without a warning."""
    with Watcher(watched.port) as watcher:
        since = watcher.mark()
        with serve(**how) as running:
            watcher.wait_topic(STATUS, lambda m: m.payload == "online" and not m.retain, since=since)
    assert "WARNING" not in running.log.text


def fails(serve: Serve, endpoint: Endpoint, sentence: str, **how: Any) -> None:
    """Check that the service cannot connect, says why in one line, and does not ask the API."""
    with serve(**how) as running:
        running.log.wait_for(sentence)
    assert len(running.log.lines) == 1, running.log.text
    assert endpoint.count == 0


@pytest.mark.parametrize(("transport", "tls"), [("tcp", True), ("websockets", True), ("websockets", False)])
def test_tls_and_websockets(serve: Serve, secure: Mosquitto, transport: str, *, tls: bool) -> None:
    """With the broker's own authority named, TLS works, with and without websockets; these work without TLS too."""
    secure_port = secure.tls_port if transport == "tcp" else secure.secure_websockets_port
    port = secure_port if tls else secure.websockets_port
    ca = str(secure.ca_path) if tls else None
    reaches(serve, secure, port=port, tls=tls, tls_ca=ca, transport=transport)


def test_a_client_certificate(serve: Serve, endpoint: Endpoint) -> None:
    """A broker that requires our certificate gets it; without one the log says what may be missing."""
    with Mosquitto(require_client_certificate=True) as mosquitto:
        assert mosquitto.authority is not None
        pair = mosquitto.authority.issue("client.invalid")
        how: dict[str, Any] = {"port": mosquitto.tls_port, "tls": True, "tls_ca": str(mosquitto.ca_path)}
        fails(serve, endpoint, "client certificate", **how)
        reaches(serve, mosquitto, **how, tls_cert=str(pair.certificate), tls_key=str(pair.key))


def test_the_wrong_port(serve: Serve, endpoint: Endpoint, secure: Mosquitto) -> None:
    """Plain to a TLS port, TLS to a plain port, and websockets or not give a sentence that names the settings."""
    fails(serve, endpoint, "MQTT_TLS", port=secure.tls_port)
    fails(serve, endpoint, "MQTT_TLS", port=secure.port, tls=True, tls_ca=str(secure.ca_path))
    fails(serve, endpoint, "MQTT_TRANSPORT", port=secure.websockets_port)
    sentence = "does not accept WebSocket connections; check MQTT_TRANSPORT and MQTT_PORT"
    fails(serve, endpoint, sentence, port=secure.port, transport="websockets")


def test_a_unix_socket(serve: Serve, endpoint: Endpoint) -> None:
    """A broker on the same machine can be reached by its socket."""
    with Mosquitto(unix_socket=True) as mosquitto:
        how = {"host": str(mosquitto.socket_path), "transport": "unix"}
        mosquitto.stop()
        fails(serve, endpoint, "No connection to the broker", **how)
        mosquitto.start()
        reaches(serve, mosquitto, **how)
