"""The main path on each broker that people run: Mosquitto, the embedded one, and those that `BROKER_PORTS` names.

`BROKER_PORTS="rabbit=18840 nats=18842"` names running brokers without a login, each with its port on loopback.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from claude_usage_mqtt.demo.broker import EmbeddedBroker
from claude_usage_mqtt.usage.reading import REPORTER
from parts import service
from parts.broker import Mosquitto, needs_mosquitto
from parts.endpoint import Endpoint
from parts.reporter import LAPTOP
from parts.service import CONFIG, HEALTH, MEMORY, STATE, STATUS, Serve, Start, command, has_status, is_ok, is_online
from parts.watcher import Watcher

OTHERS = dict(entry.split("=") for entry in os.environ.get("BROKER_PORTS", "").split())
EVERYTHING = {STATE, HEALTH, MEMORY, STATUS, CONFIG}


class Named(NamedTuple):
    """A running broker."""

    name: str
    port: int


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("mosquitto", marks=needs_mosquitto),
        "embedded",
        *(pytest.param(name, marks=pytest.mark.real_parts) for name in OTHERS),
    ],
)
def running_broker(request: pytest.FixtureRequest) -> Iterator[Named]:
    """Return each broker in turn."""
    name = request.param
    if name in OTHERS:
        yield Named(name, int(OTHERS[name]))
        return
    if name == "embedded":
        pytest.importorskip("amqtt")
    with Mosquitto() if name == "mosquitto" else EmbeddedBroker(port=0) as found:
        yield Named(name, found.port)


@pytest.fixture
def protocol(running_broker: Named) -> str:
    """Return `auto`, except for brokers that never answer in MQTT 5: that takes two seconds, and one test covers it."""
    return "3.1.1" if running_broker.name in ("embedded", "amqtt") else "auto"


def clear(watcher: Watcher) -> None:
    """Remove everything; RabbitMQ silently drops a message while it deletes the queue of a client that just left."""
    for topic in (*EVERYTHING, LAPTOP.presence):
        for _ in range(30):
            with contextlib.suppress(AssertionError):
                watcher.publish(topic, "", retain=True, timeout=1.0)
                break
        else:
            pytest.fail(f"the broker does not accept {topic}")


@pytest.fixture
def watcher(running_broker: Named) -> Iterator[Watcher]:
    """Watch our topics by their names, because not every broker replays to a wildcard; and leave nothing behind."""
    others = ("claude-usage/default/event/five_hour", service.BIRTH, LAPTOP.presence, LAPTOP.ask, LAPTOP.answer)
    with Watcher(running_broker.port, (*EVERYTHING, *others)) as found:
        clear(found)
        found.settle()
        yield found
        clear(found)


def retained(watcher: Watcher) -> dict[str, Any]:
    """Return what is retained on the broker, parsed; asking again if a broker (aedes) is late with some of it."""
    found: dict[str, str] = {}
    for _ in range(20):
        found |= {topic: text for topic, text in watcher.retained().items() if text}
        if found.keys() >= EVERYTHING:
            break
    return {topic: json.loads(text) if text[0] == "{" else text for topic, text in found.items()}


def test_memory_survives_a_restart(start: Start, protocol: str, endpoint: Endpoint, watcher: Watcher) -> None:
    """The numbers are retained, and read back at the next start: no request, no event, no flicker."""
    with start(MQTT_PROTOCOL="auto") as process:
        watcher.wait_topic(HEALTH, is_ok)
        watcher.wait_topic(STATUS, is_online)
        assert process.stop() == 0
    watcher.wait_topic(STATUS, lambda message: message.payload == "offline")
    before, since = retained(watcher), watcher.mark()
    assert set(before) == EVERYTHING
    assert before[STATUS] == "offline"
    with start(MQTT_PROTOCOL=protocol) as process:
        watcher.wait_topic(STATUS, is_online, since=since)
        watcher.settle()
        after = retained(watcher)
    assert endpoint.count == 1
    for key in ("last_success", "next_poll", "requests_last_hour"):
        assert after[HEALTH][key] == before[HEALTH][key]
    for key in ("utilization", "resets_at"):
        assert after[STATE]["windows"]["five_hour"][key] == before[STATE]["windows"]["five_hour"][key]
    assert (after[HEALTH]["fresh"], after[CONFIG]) == (True, before[CONFIG])
    assert not watcher.messages("claude-usage/default/event/#")
    assert "WARNING" not in process.log.text


def test_a_first_start_is_quick(serve: Serve, protocol: str, endpoint: Endpoint, watcher: Watcher) -> None:
    """If nothing is retained, that is known at once and not only after the longest wait."""
    with serve(protocol=protocol) as found:
        watcher.wait_topic(HEALTH, is_ok)
        assert "not ours" not in found.log.text
    assert endpoint.count == 1


def test_commands_and_events(serve: Serve, protocol: str, endpoint: Endpoint, watcher: Watcher) -> None:
    """A button press arrives, and an event goes out once, not retained."""
    with serve(protocol=protocol):
        watcher.wait_topic(HEALTH, is_ok)
        endpoint.document = endpoint.document | {"five_hour": endpoint.document["five_hour"] | {"utilization": 80}}
        watcher.publish(command("refresh"), "PRESS")
        event = watcher.wait_topic("claude-usage/default/event/five_hour").json()
        watcher.publish(command("interval"), "600")
        watcher.wait_topic(HEALTH, lambda m: m.payload and m.json()["poll_interval"] == 600)
        watcher.settle()
    assert (event["event_type"], event["threshold"]) == ("threshold_reached", 75)
    assert len(watcher.messages("claude-usage/default/event/#")) == 1
    assert set(retained(watcher)) == EVERYTHING


def test_birth(serve: Serve, protocol: str, endpoint: Endpoint, watcher: Watcher) -> None:
    """Home Assistant's birth message brings everything again, a little later, without a request to the API."""
    with serve(protocol=protocol, rng=service.Impatient()):
        watcher.wait_topic(HEALTH, is_ok)
        since = watcher.mark()
        watcher.publish(service.BIRTH, "online")
        for topic in EVERYTHING:
            watcher.wait_topic(topic, since=since)
    assert endpoint.count == 1


def test_the_will(start: Start, protocol: str, watcher: Watcher) -> None:
    """When the process is killed, the broker publishes `offline`."""
    with start(MQTT_PROTOCOL=protocol) as process:
        watcher.wait_topic(STATUS, is_online)
        since = watcher.mark()
        process.process.kill()
        watcher.wait_topic(STATUS, lambda message: message.payload == "offline", since=since)
    assert retained(watcher)[STATUS] == "offline"


def test_two_instances(serve: Serve, protocol: str, endpoint: Endpoint, watcher: Watcher) -> None:
    """Two programs that publish the same account say so in log and health; a single one never does."""
    said = "Another instance publishes under claude-usage/default too"
    with serve(interval=0.2, protocol=protocol) as first:
        watcher.wait_topic(HEALTH, is_ok)
        endpoint.wait_for_requests(3)
        assert first.log.count(said) == 0
        with serve(interval=0.2, protocol=protocol):
            first.log.wait_for(said, count=2)  # both share one log
            watcher.wait_topic(HEALTH, lambda m: m.payload and "another instance" in (m.json()["detail"] or "").lower())
        assert first.log.count(said) == 2


def test_the_older_protocol(serve: Serve, watcher: Watcher) -> None:
    """The setting 3.1.1 is used everywhere."""
    with serve(protocol="3.1.1", client_id=uuid.uuid4().hex[:20]) as found:
        watcher.wait_topic(HEALTH, is_ok)
        watcher.wait_topic(STATUS, is_online)
        assert "WARNING" not in found.log.text


def test_a_reporter(
    tmp_path: Path, home: Path, start: Start, serve: Serve, protocol: str, endpoint: Endpoint, watcher: Watcher
) -> None:
    """A service without a login gets its numbers from a machine, after restarts too, and notices when it is gone."""
    nothing, more = tmp_path / "nothing", {"protocol": protocol, "selected": (REPORTER,), "interval": 600.0}
    with start(home, "report", MQTT_PROTOCOL=protocol, MACHINE_NAME="laptop") as process:
        with serve(nothing, **more):
            watcher.wait_topic(STATE, lambda m: m.payload and m.json()["windows"]["five_hour"]["machine"] == "laptop")
        process.log.wait_for("Reporting as laptop")
        since = watcher.mark()
        with serve(nothing, **more):
            watcher.wait_topic(STATUS, is_online, since=since)
            watcher.publish(command("refresh"), "PRESS")
            endpoint.wait_for_requests(2)
            since = watcher.mark()
            process.process.kill()
            watcher.wait_topic(LAPTOP.presence, lambda m: m.payload and m.json()["online"] is False, since=since)
            watcher.publish(command("refresh"), "PRESS")
            watcher.wait_topic(HEALTH, has_status("no_reporter"), since=since)
            with start(home, "report", MQTT_PROTOCOL=protocol, MACHINE_NAME="laptop") as again:
                endpoint.wait_for_requests(3)
                watcher.wait_topic(HEALTH, is_ok, since=since)
                assert again.stop() == 0
            watcher.settle()
    assert not retained(watcher).get(LAPTOP.presence)
