"""Names, and others that publish on the same broker: no device is taken over, and a new name loses nothing."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.cli.run import instance_of
from claude_usage_mqtt.service import restore
from claude_usage_mqtt.settings.load import load_settings
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from parts.broker import Broker, Mosquitto, needs_mosquitto
from parts.command import call_command
from parts.endpoint import Endpoint
from parts.process import Log
from parts.proxy import FaultyProxy
from parts.service import BASE, CONFIG, HEALTH, STATE, STATUS, Clock, Serve, Start, is_ok, listen_to_log
from parts.watcher import Watcher

VERSION_1 = json.loads((Path(__file__).parent / "cases/version_1_retained.json").read_text(encoding="utf-8"))
WORK_CONFIG = "homeassistant/device/claude_usage_work/config"


def named(home: Path, *names: str) -> dict[str, Any]:
    """Return accounts by name, all with one login."""
    return {name: CredentialsFile(home) for name in names}


def crashed(serve: Serve, watcher: Watcher, instance: str) -> None:
    """Leave what a service leaves if nobody could report that it is gone, as after a power cut."""
    with serve(instance=instance):
        watcher.wait_topic(HEALTH, is_ok)
    watcher.publish(STATUS, "online", retain=True)
    watcher.settle()


def test_a_single_named_account_keeps_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second account that is added later, or removed again, changes no entity of the first."""
    monkeypatch.setenv("MQTT_HOST", "broker")
    monkeypatch.setenv("CLAUDE_ACCOUNTS", json.dumps({"Work": str(tmp_path)}))
    (alone,) = load_settings().accounts()
    monkeypatch.setenv("CLAUDE_ACCOUNTS", json.dumps({"Work": str(tmp_path), "Home": str(tmp_path)}))
    first, _ = load_settings().accounts()
    assert (alone.id, alone.label) == (first.id, first.label) == ("work", "Work")


def test_a_named_account_continues_version_1(serve: Serve, home: Path, endpoint: Endpoint, watcher: Watcher) -> None:
    """Version 1 called it `default`: the numbers continue, the old device is removed, the entity ids stay."""
    for topic, payload in VERSION_1["single"].items():
        if topic != STATUS:
            watcher.publish(topic, payload, retain=True)
    watcher.settle()
    clock = Clock(start=datetime.fromisoformat(VERSION_1["recorded_at"]).astimezone(UTC) + timedelta(minutes=1))
    with serve(named(home, "work"), clock=clock, limited=True):
        announced = watcher.wait_topic(WORK_CONFIG, lambda m: bool(m.payload)).json()
    components = announced["components"]
    assert components["five_hour_utilization"]["unique_id"] == "claude_usage_work_five_hour_utilization"
    assert "work" not in components["five_hour_utilization"]["default_entity_id"]
    retained = watcher.retained()
    assert not {STATE, HEALTH, CONFIG} & set(retained)
    before = json.loads(VERSION_1["single"][STATE])["windows"]["five_hour"]["utilization"]
    assert json.loads(retained["claude-usage/work/state"])["windows"]["five_hour"]["utilization"] == before
    assert endpoint.count == 0  # the next poll was due later, and still is
    removed = watcher.messages(CONFIG)[-1]
    assert removed.payload == ""
    assert removed.order < watcher.messages(WORK_CONFIG)[0].order


def test_the_later_one_stands_by(serve: Serve, endpoint: Endpoint, watcher: Watcher) -> None:
    """The second of two services for one account publishes and asks nothing until the first has stopped."""
    with serve(instance="first") as first:
        watcher.wait_topic(HEALTH, is_ok)
        with serve(instance="second") as second:
            second.log.wait_for("standing by")
            assert "claude-usage-mqtt report" in second.log.text
            watcher.settle()
            assert endpoint.count == 1
            assert "Publishing at" not in second.log.text
            first.stop()
            second.log.wait_for("Publishing at")
            watcher.settle()
            assert watcher.retained()[STATUS] == "online"


@needs_mosquitto
def test_the_later_one_stands_by_though_the_broker_forgot_the_other(serve: Serve) -> None:
    """A broker that keeps nothing restarts, and the later one is connected first: it publishes nothing yet."""
    with (
        Mosquitto(persistence=False) as mosquitto,
        FaultyProxy(mosquitto.port) as proxy,
        Watcher(mosquitto.port) as watcher,
        serve(port=proxy.port, instance="first") as first,
    ):
        watcher.wait_topic(HEALTH, is_ok)
        with serve(port=mosquitto.port, instance="second") as second:
            second.log.wait_for("standing by")
            mosquitto.kill()
            first.log.wait_for("was lost")
            proxy.refuse()
            mosquitto.start()
            mosquitto.log.wait_for(HAS_READ)
            watcher.wait_connected()
            watcher.settle()
            assert watcher.retained() == {}
            mark = watcher.mark()
            proxy.heal()
            watcher.wait_topic(HEALTH, is_ok, since=mark)
            first.stop()
            second.log.wait_for("Publishing at")


HAS_READ = "Received UNSUBSCRIBE"
"""What Mosquitto logs when a service has read what was retained."""


def test_check_says_that_another_one_publishes(
    serve: Serve, home: Path, running_broker: Broker, watcher: Watcher
) -> None:
    """`check` says that a second service would stand by, and what to run instead."""
    settings = {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": running_broker.port, "CLAUDE_SOURCE": "reporter"}
    assert "published already" not in call_command(home, "check", **settings).stdout
    crashed(serve, watcher, "elsewhere")  # or it runs on another machine
    checked = call_command(home, "check", **settings)
    assert "default is published already: another 'claude-usage-mqtt run' would stand by" in checked.stdout
    assert checked.returncode == 0


def test_the_later_one_takes_over_from_one_that_died(
    serve: Serve, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nobody reported that the first is gone, its sign of life runs out; until then the later one is idle."""
    crashed(serve, watcher, "first")
    clock = Clock(speed=1000)
    rounds: list[float] = []
    with serve(instance="second", clock=clock) as second:
        second.log.wait_for("standing by")
        take = second.program.inbox.get

        def count_rounds(timeout: float) -> Any:
            rounds.append(timeout)
            return take(timeout)

        monkeypatch.setattr(second.program.inbox, "get", count_rounds)
        second.log.wait_for("Publishing at")
    assert len(rounds) < 100, "it kept the processor busy"


def test_standing_by_is_logged_once(serve: Serve, watcher: Watcher) -> None:
    """However long two instances run next to each other, the log of the later one has one line about it."""
    clock = Clock(speed=300)
    with serve(instance="first", clock=clock):
        watcher.wait_topic(HEALTH, is_ok)
        with serve(instance="second", clock=clock) as second, listen_to_log(Log(), logging.DEBUG) as log:
            log.wait_for("Still standing by", count=2)
    assert second.log.count("Another instance publishes") == 1


@pytest.mark.skipif(os.name != "posix", reason="which processes are alive is known by their locks")
def test_a_second_one_on_the_same_machine_stands_by(start: Start, endpoint: Endpoint, watcher: Watcher) -> None:
    """Starting it by hand while it also runs as a service does not double the requests."""
    with start() as first:
        watcher.wait_topic(HEALTH, is_ok)
        with start() as second:
            second.log.wait_for("standing by")
            watcher.settle()
            assert endpoint.count == 1
            first.stop(signal.SIGKILL)
            second.log.wait_for("Publishing at")


@pytest.mark.parametrize("patience", [restore.LONGEST, 0.0])
def test_an_earlier_run_is_not_another_instance(
    serve: Serve, watcher: Watcher, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """After a crash the same service is back at once, even if what it left arrives too late to be read."""
    crashed(serve, watcher, "same")
    monkeypatch.setattr(restore, "LONGEST", patience)
    mark = watcher.mark()
    with serve(instance="same") as again:
        watcher.wait_topic(HEALTH, is_ok, since=mark)
        watcher.settle()
        assert json.loads(watcher.retained()[HEALTH])["other_instance"] is False
    assert not re.search("standing by|Another instance", again.log.text)


@pytest.mark.parametrize("name", ["MACHINE_NAME", "MQTT_CLIENT_ID", ""])
def test_a_container_that_was_re_created_is_the_same_instance(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its host name is a new one; with a name in its settings it does not wait for its own previous run."""
    monkeypatch.setenv("MQTT_HOST", "broker")
    if name:
        monkeypatch.setenv(name, "nas")
    instances = set()
    for host in ("3f2a9c0b1d4e", "a1b2c3d4e5f6"):
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        instances.add(instance_of(load_settings(), "broker:1883"))
    assert len(instances) == (1 if name else 2)


def test_different_names_side_by_side(serve: Serve, home: Path, watcher: Watcher) -> None:
    """Two people under one base topic keep their devices, whoever starts last."""
    work, family = named(home, "work", "side"), named(home, "family")
    with serve(work, instance="a"):
        watcher.wait_topic("claude-usage/work/health", is_ok)
        with serve(family, instance="b") as other:
            watcher.wait_topic(f"{BASE}/family/health", is_ok)
            other.log.wait_for("its device stays")
            watcher.settle()
            assert {"claude-usage/work/state", WORK_CONFIG} <= set(watcher.retained())


@pytest.mark.parametrize("is_online", [True, False])
def test_a_device_of_another_base_topic(serve: Serve, watcher: Watcher, is_online: bool) -> None:  # noqa: FBT001
    """The device of a running service is left alone; that of a former base topic is taken over, the rest is named."""
    with serve(base="elsewhere"):
        watcher.wait_topic(CONFIG, lambda m: bool(m.payload))
    watcher.publish("elsewhere/status", "online" if is_online else "offline", retain=True)
    watcher.settle()
    since = watcher.mark()
    with serve() as running:
        watcher.wait_topic(HEALTH, is_ok)
        watcher.settle()
    configs = [message.payload for message in watcher.messages(CONFIG, since=since)]
    if is_online:
        assert "belongs to the service under the base topic elsewhere" in running.log.text
        assert configs == []
        assert "elsewhere/status" in watcher.retained()[CONFIG]
    else:
        assert "MQTT_BASE_TOPIC=elsewhere claude-usage-mqtt remove" in running.log.text
        assert configs
