"""The service from end to end, as its own process: what is retained on the broker, across restarts and to the end."""

import contextlib
import datetime as dt
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.instants import local_time
from claude_usage_mqtt.mqtt import publisher
from parts import faults, service
from parts.broker import Mosquitto, needs_mosquitto
from parts.credentials import FILE_NAME, write_credentials, write_credentials_text
from parts.endpoint import Endpoint
from parts.net import LOOPBACK
from parts.proxy import FaultyProxy
from parts.service import (
    CONFIG,
    HEALTH,
    MEMORY,
    STATE,
    STATUS,
    Serve,
    Start,
    command,
    has_status,
    is_ok,
    is_online,
    session_is,
)
from parts.waiting import eventually
from parts.watcher import Watcher


def documents(watcher: Watcher) -> dict[str, Any]:
    """Return what is retained, parsed where it is JSON."""
    return {topic: json.loads(text) if text[:1] == "{" else text for topic, text in watcher.retained().items()}


def test_first_light(start: Start, endpoint: Endpoint, watcher: Watcher) -> None:
    """Two settings are enough: state, health, status and the entities are retained.

    Home Assistant never shows an entity that has no value yet, nor calls old numbers fresh.
    """
    with start():
        fresh = watcher.wait_topic(HEALTH, lambda message: message.json()["fresh"])
        watcher.wait_topic(HEALTH, is_ok)
        watcher.wait_topic(STATUS, is_online)
        watcher.settle()
        found = documents(watcher)
    announced = watcher.wait_topic(CONFIG, lambda m: "five_hour_utilization" in m.json()["components"])
    assert watcher.messages(STATE)[0].order < announced.order < fresh.order
    assert set(found) == {STATE, HEALTH, MEMORY, STATUS, CONFIG}
    assert found[STATUS] == "online"
    assert found[STATE]["windows"]["five_hour"]["utilization"] == 42.0
    assert found[STATE]["windows"]["seven_day"]["utilization"] == 16.58
    assert found[STATE]["plan"] == "max"
    assert found[HEALTH]["fresh"] is True
    assert found[HEALTH]["requests_last_hour"] == 1
    assert "five_hour_utilization" in found[CONFIG]["components"]
    assert all(message.qos == 1 for message in watcher.messages() if not message.retain)
    assert endpoint.count == 1


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_stopping_publishes_offline(start: Start, watcher: Watcher, by: signal.Signals) -> None:
    """`docker stop` and Ctrl-C leave `offline` on the broker, and end with status 0."""
    with start() as process:
        watcher.wait_topic(STATUS, is_online)
        assert process.stop(by) == 0
    watcher.settle()
    assert watcher.last(STATUS).payload == "offline"
    assert "Traceback" not in process.log.text


@needs_mosquitto
def test_stopping_with_a_frozen_broker(start: Start, mosquitto: Mosquitto) -> None:
    """A broker that hangs does not delay the stop."""
    with Watcher(mosquitto.port) as watcher, start(MQTT_PORT=mosquitto.port) as process:
        watcher.wait_topic(STATUS, is_online)
        mosquitto.freeze()
        assert process.stop() == 0
        mosquitto.thaw()


def _open_files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # already closed
            found.add(str(entry.readlink()))
    return found


def _sockets_to(port: int) -> set[str]:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[2] == f"0100007F:{port:04X}"}


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's table is read")
def test_stopping_while_connecting_to_nothing(start: Start) -> None:
    """A firewall that drops everything, so that the connection is never answered, does not delay the stop either."""
    with socket.socket() as hole:
        hole.bind((LOOPBACK, 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # a full backlog: the next SYN gets no answer
            filler.settimeout(0)
            filler.connect_ex((LOOPBACK, port))
        with start(MQTT_PORT=port) as process:
            eventually(lambda: bool(_sockets_to(port) & _open_files(process.process.pid)))  # by the kernel's tables
            assert process.stop() == 0
        for filler in fillers:
            filler.close()


def test_stopping_while_the_api_hangs(start: Start, endpoint: Endpoint, watcher: Watcher) -> None:
    """A request under way does not delay the stop."""
    endpoint.fault = faults.Hang()
    with start() as process:
        endpoint.wait_for_requests(1)
        watcher.wait_topic(STATUS, is_online)
        assert process.stop() == 0
    assert "Traceback" not in process.log.text


def test_a_crash_loop_stays_within_the_budget(start: Start, endpoint: Endpoint, watcher: Watcher) -> None:
    """Killed again and again in the middle of its request, it does not make a request each time."""
    endpoint.fault = faults.Hang()
    for _ in range(3):
        since = watcher.mark()
        with start() as process:
            watcher.wait_topic(STATUS, is_online, since=since)
            endpoint.wait_for_requests(1)
            process.process.kill()
            watcher.wait_topic(STATUS, lambda message: message.payload == "offline", since=since)
    assert endpoint.count == 1
    assert documents(watcher)[HEALTH]["requests_last_hour"] == 1
    assert STATE not in watcher.retained()  # nothing is known yet


def test_a_block_survives_a_restart(start: Start, endpoint: Endpoint, watcher: Watcher) -> None:
    """Blocked for an hour, it waits the whole hour, whatever is restarted."""
    endpoint.fault = faults.rate_limited(3600)
    with start() as process:
        blocked = watcher.wait_topic(HEALTH, has_status("rate_limited")).json()
        process.stop()
    since = watcher.mark()
    endpoint.fault = None
    with start():
        watcher.wait_topic(STATUS, is_online, since=since)
        watcher.publish(command("refresh"))
        refused = watcher.wait_topic(HEALTH, lambda m: m.json()["detail"] is not None and not m.retain, since=since)
    assert refused.json()["retry_at"] == blocked["retry_at"]
    assert local_time(dt.datetime.fromisoformat(blocked["retry_at"])) in refused.json()["detail"]
    assert endpoint.count == 1


@pytest.mark.parametrize(
    ("damage", "lines"),
    [
        ("", 0),
        ("[]", 2),
        ('{"windows": 5, "account": 3}', 2),
        ('{"status": "\x1b[31m"}', 2),
        ('{"status": "\\u001b[31m", "memory": {"usage": {"format": 1, "windows": {"five_hour": []}}}}', 0),
    ],
)
def test_damaged_memory_is_ignored(serve: Serve, watcher: Watcher, damage: str, lines: int) -> None:
    """What somebody else wrote under our topics does no harm: it is logged once, and overwritten."""
    for topic in (STATE, HEALTH, CONFIG):
        watcher.publish(topic, damage, retain=True)
    with serve() as running:
        watcher.wait_topic(HEALTH, lambda m: m.payload.startswith('{"status":"ok"'))
        assert documents(watcher)[STATE]["windows"]["five_hour"]["utilization"] == 42.0
    assert running.log.count("not ours, or corrupt") == lines
    assert "\x1b" not in running.log.text


def test_the_log_in_json(start: Start, watcher: Watcher) -> None:
    """`LOG_FORMAT=json` gives one object a line, from the first line to the last."""
    with start(LOG_FORMAT="json", LOG_LEVEL="debug") as process:
        watcher.wait_topic(HEALTH, is_ok)
        process.stop()
    lines = [json.loads(line) for line in process.log.lines]
    assert lines
    assert all(set(line) == {"time", "level", "message"} for line in lines)


WRONG_CREDENTIALS = {
    "missing": (None, "no_credentials"),
    "empty": ("", "credentials_unreadable"),
    "half-written": ('{"claudeAiOauth": {"accessTo', "credentials_unreadable"),
    "no JSON object": ("[]", "credentials_unreadable"),
    "other logins only": ('{"mcpOAuth": {}}', "no_credentials"),
    "wrong section": ('{"claudeAiOauth": 7}', "credentials_unreadable"),
    "logged out": ('{"claudeAiOauth": {"accessToken": ""}}', "no_credentials"),
    "wrong type": ('{"claudeAiOauth": {"accessToken": 5}}', "credentials_unreadable"),
    "no token": ('{"claudeAiOauth": {"accessToken": "a b"}}', "credentials_unreadable"),
    "expired": ('{"claudeAiOauth": {"accessToken": "t", "expiresAt": 1700000000000}}', "token_expired"),
    "about to expire": ("soon", "token_expired"),
}


def test_wrong_credentials_are_reported_and_recovered_from(
    serve: Serve, tmp_path: Path, endpoint: Endpoint, watcher: Watcher
) -> None:
    """Each has its status and a sentence, in `health` and in the log; nothing is sent; fixing it is enough."""
    with serve(tmp_path, clock=service.Clock(400), interval=30) as running:
        for what, (text, status) in WRONG_CREDENTIALS.items():
            since, said = watcher.mark(), len(running.log.lines)
            if what == "about to expire":
                now = running.clock.now()
                write_credentials(tmp_path, now=now, expires_in=dt.timedelta(minutes=4))
            elif text is not None:
                write_credentials_text(tmp_path, text)
            shown = watcher.wait_topic(HEALTH, has_status(status), since=since).json()
            sent = endpoint.count
            watcher.wait_topic(HEALTH, lambda m: m.json()["consecutive_failures"] >= 2, since=since)
            assert endpoint.count == sent, what
            since = watcher.mark()
            write_credentials(tmp_path, expires_in=None)
            watcher.wait_topic(HEALTH, is_ok, since=since)
            assert shown["detail"].endswith("."), what
            lines = running.log.lines[said:]
            assert sum(shown["detail"] in line for line in lines) == 1, what
            assert [line for line in lines if "the usage is known again" in line], what


def accounts(tmp_path: Path, *names: str) -> dict[str, Any]:
    """Return the setting for several accounts, each with its own credentials."""
    for name in names:
        write_credentials(tmp_path / name, token=f"token-{name}")
    return {"CLAUDE_ACCOUNTS": json.dumps({name: str(tmp_path / name) for name in names}), "CLAUDE_CONFIG_DIR": ""}


def health_of(account: str) -> str:
    """Return an account's health topic."""
    return f"claude-usage/{account}/health"


def test_several_accounts(start: Start, tmp_path: Path, endpoint: Endpoint, watcher: Watcher) -> None:
    """Each account has a device, and there is one for all of them; one that hangs or fails delays no other."""
    several = accounts(tmp_path, "personal", "work", "broken")
    (tmp_path / "broken" / FILE_NAME).unlink()

    def serve(request: Any) -> Any:
        if request.bearer == "token-work":
            watcher.wait_topic(health_of("personal"), is_ok)
            watcher.wait_topic(health_of("broken"), has_status("no_credentials"))
        return usual

    usual, endpoint.document = endpoint.document, serve
    with start(tmp_path, CLAUDE_SOURCE="oauth", **several):
        watcher.wait_topic(health_of("work"), is_ok)
        summary = watcher.wait_topic(
            "claude-usage/all/state", lambda m: m.json()["problems"] == 1 and m.json()["highest_utilization"] == 42.0
        ).json()
        found = documents(watcher)
    assert summary["accounts"] == ["personal", "work", "broken"]
    devices = {topic.split("/")[2] for topic in found if topic.startswith("homeassistant/device/")}
    assert devices == {f"claude_usage_{name}" for name in ("personal", "work", "broken", "all")}


def test_a_file_that_cannot_be_opened_delays_no_other(start: Start, tmp_path: Path, watcher: Watcher) -> None:
    """A dead network mount under one account's folder leaves the others alone, and the stop too."""
    several = accounts(tmp_path, "personal", "mounted")
    (tmp_path / "mounted" / FILE_NAME).unlink()
    os.mkfifo(tmp_path / "mounted" / FILE_NAME)  # opening it waits for a writer who never comes
    with start(tmp_path, **several) as process:
        watcher.wait_topic(health_of("personal"), is_ok)
        assert process.stop() == 0


def test_former_accounts_are_removed(start: Start, tmp_path: Path, watcher: Watcher) -> None:
    """An account that was removed from the settings leaves nothing on the broker, and its device goes."""
    with start(tmp_path, **accounts(tmp_path, "a", "b")) as process:
        for name in ("a", "b"):
            watcher.wait_topic(health_of(name), is_ok)
        process.stop()
    with start(tmp_path, **accounts(tmp_path, "a", "c")) as process:
        watcher.wait_topic(health_of("c"), is_ok)
        process.stop()
    assert not [topic for topic in watcher.retained() if "/b/" in topic or "_b/" in topic]
    write_credentials(tmp_path)
    since = watcher.mark()
    with start(tmp_path) as process:
        watcher.wait_topic(HEALTH, is_ok, since=since)
        process.stop()
    assert set(watcher.retained()) == {STATE, HEALTH, MEMORY, CONFIG, STATUS}


def test_another_account_starts_over(serve: Serve, home: Path, endpoint: Endpoint, watcher: Watcher) -> None:
    """After a login to another organization its own numbers are shown, and no false reset is reported."""
    with serve(interval=0.2) as running:
        watcher.wait_topic(HEALTH, is_ok)
        endpoint.document = endpoint.document | {"five_hour": endpoint.document["five_hour"] | {"utilization": 3}}
        text = (home / FILE_NAME).read_text()
        write_credentials_text(home, text.replace("6a3c1f0e", "77777777"))
        watcher.wait_topic(STATE, session_is(3))
        running.log.wait_for("another organization")
    assert not watcher.messages("claude-usage/default/event/#")


@needs_mosquitto
def test_the_broker_may_come_later(serve: Serve, endpoint: Endpoint) -> None:
    """Started before its broker, it says so once, asks nothing, and begins as soon as the broker is there."""
    with (
        contextlib.closing(Mosquitto()) as mosquitto,
        FaultyProxy(mosquitto.port) as proxy,
        serve(port=proxy.port) as running,
    ):
        proxy.wait_for_connections(3)
        assert endpoint.count == 0
        mosquitto.start()
        with Watcher(mosquitto.port) as watcher:
            watcher.wait_topic(HEALTH, is_ok)
        assert (running.log.count("WARNING"), running.log.count("again.")) == (1, 1), running.log.text


@needs_mosquitto
def test_without_a_broker_nothing_is_waited_for_at_the_end(
    serve: Serve, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is stopped between two attempts to connect, it ends at once."""
    monkeypatch.setattr(publisher, "STOP_PATIENCE", 10 * service.END_TIMEOUT)
    with serve(port=closed_port) as running:
        running.log.wait_for("No connection to the broker")


def test_somebody_elses_offline_message_is_answered(serve: Serve, watcher: Watcher) -> None:
    """A late last will, or a second instance that stops, does not leave the entities of a running service dead."""
    with serve():
        watcher.wait_topic(STATUS, is_online)
        since = watcher.mark()
        watcher.publish(STATUS, "offline", retain=True)
        watcher.wait_topic(STATUS, is_online, since=since)
        assert watcher.retained()[STATUS] == "online"


def test_what_the_broker_sends_back_publishes_nothing(serve: Serve, watcher: Watcher) -> None:
    """Our own `health`, which some brokers send back, does not make the service publish again."""
    clock = service.Clock()
    with serve(clock=clock, interval=3600, discovery=False):
        own = watcher.wait_topic(HEALTH, has_status("ok")).payload
        clock.sleep(dt.timedelta(minutes=4))
        since = watcher.mark()
        watcher.publish(HEALTH, own)
        watcher.publish(STATUS, "offline")
        watcher.wait_topic(STATUS, lambda m: m.payload == "online", since=since)
        assert not watcher.messages(STATE, since=since)


def test_without_discovery_nothing_is_announced(start: Start, tmp_path: Path, watcher: Watcher) -> None:
    """Without Home Assistant it can be switched off: every announced device is removed, including the one for all."""
    several = accounts(tmp_path, "personal", "work")
    devices = [f"homeassistant/device/claude_usage_{name}/config" for name in ("personal", "work", "all")]
    with start(tmp_path, **several):
        for device in devices:
            watcher.wait_topic(device)
    since = watcher.mark()
    with start(tmp_path, **several, HOMEASSISTANT_DISCOVERY="false"):
        for device in devices:
            watcher.wait_topic(device, lambda message: not message.payload, since=since)
        watcher.wait_topic("claude-usage/all/state", since=since)
        assert not [topic for topic in watcher.retained() if topic.startswith("homeassistant/")]


def test_another_services_devices_are_left_alone(start: Start, tmp_path: Path, watcher: Watcher) -> None:
    """Devices that a service with another base topic has announced are not ours, whatever the account is called."""
    with start():
        watcher.wait_topic(HEALTH, is_ok)
        before = watcher.retained()[CONFIG]
        several = accounts(tmp_path, "personal", "work")
        with start(tmp_path / "b", MQTT_BASE_TOPIC="several", **several) as other:
            watcher.wait_topic("several/all/state", lambda m: m.json()["highest_account"])
            other.stop()
        write_credentials(tmp_path / "c")
        with start(tmp_path / "c", MQTT_BASE_TOPIC="third", HOMEASSISTANT_DISCOVERY="false") as third:
            watcher.wait_topic("third/default/health", is_ok)
            third.stop()
        retained = watcher.retained()
        assert retained[CONFIG] == before
        assert "homeassistant/device/claude_usage_all/config" in retained


@pytest.mark.parametrize(
    ("sources", "accounts", "account", "command"),
    [
        ("statusline", "", "default", "statusline"),
        ("statusline", '{"My Work": null}', "my_work", "statusline --account my_work"),
        # An account without a folder cannot be polled here, whatever is selected for the others.
        ("oauth,statusline", '{"My Work": null}', "my_work", "statusline --account my_work"),
    ],
)
def test_a_status_line_that_never_came_is_reported(
    start: Start, tmp_path: Path, watcher: Watcher, sources: str, accounts: str, account: str, command: str
) -> None:
    """If the status-line command, or its `--account`, was not set, the health shows the whole command."""
    with start(tmp_path, CLAUDE_SOURCE=sources, CLAUDE_ACCOUNTS=accounts):
        shown = watcher.wait_topic(health_of(account)).json()
    assert shown["status"] == "no_status_line"
    assert f"'claude-usage-mqtt {command}' as Claude Code's status-line command" in shown["detail"]


@pytest.mark.parametrize("hours", [3, -3])
def test_a_status_line_with_a_wrong_clock_is_reported(
    start: Start, tmp_path: Path, watcher: Watcher, hours: float
) -> None:
    """A laptop whose clock is hours off sends numbers that cannot be dated: not they, but the reason is shown."""
    at = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)).timestamp()
    document = {"at": at, "rate_limits": {"five_hour": {"used_percentage": 42, "resets_at": at + 7200}}}
    with start(tmp_path, CLAUDE_SOURCE="statusline") as process:
        watcher.wait_topic(HEALTH, has_status("no_status_line"))
        for _ in range(2):
            watcher.publish("claude-usage/default/statusline", json.dumps(document))
        watcher.wait_topic(HEALTH, lambda m: "set that clock" in (m.json()["detail"] or ""))
        process.stop()
    assert STATE not in watcher.retained()
    assert process.log.count("A status line was ignored") == 1


def test_usage_log(start: Start, home: Path) -> None:
    """Each good answer is a line of the file that USAGE_LOG names."""
    log = home / "usage.jsonl"
    with start(POLL_INTERVAL=1, USAGE_LOG=log):
        eventually(lambda: log.exists() and log.read_text().count("\n") >= 2)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["account"] for line in lines} == {"default"}
    assert all(line["five_hour_utilization"] is not None for line in lines)
