"""The broker has the newest of what should be retained; events come once, and nothing old after an outage."""

import queue
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from claude_usage_mqtt.mqtt import client as mqtt_client
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import Acknowledged, Connected, ConnectionEvent, Disconnected
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.publisher import MAX_EVENTS, Publisher
from claude_usage_mqtt.mqtt.restrictions import SUSPECT_AFTER, SUSPECT_SIZE
from parts.broker import Mosquitto, needs_mosquitto
from parts.net import LOOPBACK
from parts.proxy import FaultyProxy
from parts.watcher import Watcher

pytestmark = needs_mosquitto

WILL = Message(topic="t/status", payload=b"offline", retain=True)

ECHO = "echo"
"""When a message on this topic comes back, the broker has processed everything sent before it."""


class Loop:
    """Replaces the service's loop: passes on what the publisher reports, and sends all again on a new connection."""

    def __init__(self, port: int) -> None:
        self._inbox: queue.Queue[ConnectionEvent] = queue.Queue()
        self.received: set[bytes] = set()
        options = BrokerOptions(host=LOOPBACK, port=port)
        self.publisher = Publisher(options, will=WILL, notify=self._inbox.put, announcements="t/device/")
        self.publisher.start()

    def run_until(self, condition: Callable[[], bool], timeout: float = 10) -> None:
        """Pass things on until the condition holds."""
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until
            try:
                notice = self._inbox.get(timeout=0.05)
            except queue.Empty:
                continue
            if isinstance(notice, Connected | Disconnected | Acknowledged):
                self.publisher.handle(notice)
            if isinstance(notice, Message):
                self.received.add(notice.payload)
            if isinstance(notice, Connected):
                self.publisher.subscribe([ECHO])
                self.publisher.send_all()

    def run_until_calm(self) -> None:
        """Pass things on until the broker has everything: of each topic one message is sent, then the newest."""
        self.run_until(lambda: self.publisher.is_connected)
        for _ in ("sent", "waiting"):
            payload = secrets.token_bytes(8)
            self.publisher.publish(Message(topic=ECHO, payload=payload))
            self.run_until(partial(self.received.__contains__, payload))


@pytest.fixture
def proxy(mosquitto: Mosquitto) -> Iterator[FaultyProxy]:
    """Put a proxy before it."""
    with FaultyProxy(mosquitto.port) as found:
        yield found


@pytest.fixture
def loop(proxy: FaultyProxy) -> Iterator[Loop]:
    """Run a publisher behind the proxy."""
    found = Loop(proxy.port)
    yield found
    found.publisher.stop(WILL)
    assert not found.publisher.is_alive()


@contextmanager
def outage(loop: Loop, proxy: FaultyProxy) -> Iterator[None]:
    """Take the broker away for a while; it has everything afterward."""
    loop.run_until_calm()
    proxy.refuse()
    loop.run_until(lambda: not loop.publisher.is_connected)
    yield
    proxy.heal()
    loop.run_until_calm()


@pytest.fixture
def watcher(mosquitto: Mosquitto) -> Iterator[Watcher]:
    """Watch what is published."""
    with Watcher(mosquitto.port, ("t/#",)) as found:
        yield found


def payloads(watcher: Watcher, topic: str) -> list[str]:
    """Return what came on a topic."""
    watcher.settle()
    return [message.payload for message in watcher.messages(topic)]


def test_of_what_changed_meanwhile_only_the_newest_is_sent(loop: Loop, proxy: FaultyProxy, watcher: Watcher) -> None:
    """After an outage the numbers of an hour ago are not sent, and what was removed goes.

    The order is that of the latest calls: a new state comes before the entities that read it.
    """
    for topic in ("t/config", "t/a", "t/b"):
        loop.publisher.retain(topic, b"0")
    with outage(loop, proxy):
        loop.publisher.retain("t/b", b"")
        for number in range(1, 50):
            loop.publisher.retain("t/a", b"%d" % number)
        loop.publisher.retain("t/state", b"1")
        loop.publisher.retain("t/config", b"with the state")
    assert payloads(watcher, "t/a") == ["0", "49"]
    assert payloads(watcher, "t/config") == ["0", "with the state"]
    assert watcher.last("t/state").order < watcher.last("t/config").order
    assert "t/b" not in watcher.retained()


def test_a_slow_broker_gets_the_newest(loop: Loop, mosquitto: Mosquitto, watcher: Watcher) -> None:
    """A slow broker is not flooded: one message per topic is under way, and the last one arrives."""
    loop.run_until_calm()
    mosquitto.freeze()
    for number in range(500):
        loop.publisher.retain("t/a", b"%d" % number)
        loop.publisher.retain("t/b", b"%d" % number)
    mosquitto.thaw()
    loop.run_until_calm()
    assert payloads(watcher, "t/a") == ["0", "499"]
    assert payloads(watcher, "t/b") == ["0", "499"]


def test_a_large_message_is_sent_however_often_the_connection_ends_in_it(
    loop: Loop, proxy: FaultyProxy, watcher: Watcher
) -> None:
    """Only an announcement is given up in the end, as what a broker may not accept: numbers never are."""
    large = "x" * SUSPECT_SIZE
    with outage(loop, proxy):
        loop.publisher.retain("t/health", large.encode())
        for _ in range(SUSPECT_AFTER):
            proxy.heal()
            proxy.cut_after(SUSPECT_SIZE // 2)
            loop.run_until(lambda: loop.publisher.is_connected)
            loop.run_until(lambda: not loop.publisher.is_connected)
            proxy.refuse()
    assert payloads(watcher, "t/health") == [large]


def test_the_same_is_not_sent_twice(loop: Loop, watcher: Watcher) -> None:
    """A poll that changed nothing costs no message."""
    for _ in range(5):
        loop.publisher.retain("t/a", b"same")
        loop.run_until_calm()
    assert payloads(watcher, "t/a") == ["same"]


def test_events_wait_for_the_broker(loop: Loop, proxy: FaultyProxy, watcher: Watcher) -> None:
    """Events while the broker was away are published when it is back: once each, in order, not retained."""
    with outage(loop, proxy):
        for number in range(MAX_EVENTS + 3):
            loop.publisher.send_event("t/event", b"%d" % number)
    assert payloads(watcher, "t/event") == [str(number) for number in range(3, MAX_EVENTS + 3)]
    with outage(loop, proxy):
        pass
    assert len(payloads(watcher, "t/event")) == MAX_EVENTS
    assert "t/event" not in watcher.retained()


def test_an_unforeseen_fault_is_followed_by_another_attempt(
    mosquitto: Mosquitto, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library raises while connecting, the next attempt brings the numbers."""
    really = mqtt_client.Client.connect
    faults = [RuntimeError("nobody thought of it")]

    def connect(*arguments: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        return really(*arguments, **named)

    monkeypatch.setattr(mqtt_client.Client, "connect", connect)
    loop = Loop(mosquitto.port)
    loop.publisher.retain("t/state", b"1")
    loop.run_until_calm()
    loop.publisher.stop(None)
    assert watcher.retained()["t/state"] == "1"


def test_our_own_messages_do_not_come_back(loop: Loop, watcher: Watcher) -> None:
    """For months, only another instance's messages arrive, not our own."""
    loop.run_until_calm()
    loop.publisher.subscribe(["t/a"])
    loop.publisher.subscribe(["t/a"], no_local=True)
    loop.publisher.retain("t/a", b"ours")
    loop.run_until_calm()
    watcher.publish("t/a", "theirs")
    loop.run_until(lambda: b"theirs" in loop.received)
    assert b"ours" not in loop.received
