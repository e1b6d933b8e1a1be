"""What a real Home Assistant shows when programs die, are upgraded or removed, and on a day without work."""

from __future__ import annotations

import datetime as dt
import json
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.homeassistant import discovery
from parts.broker import Mosquitto
from parts.command import run_command
from parts.credentials import write_credentials
from parts.documents import make_window, sample_usage
from parts.endpoint import Endpoint
from parts.faults import server_error
from parts.net import LOOPBACK
from parts.service import HEALTH, STATUS, Clock, Serve, Start
from parts.watcher import Watcher
from real.account import document, two_accounts, value
from real.home import HomeAssistant, StepClock

USAGE = "sensor.claude_session_usage"
RESET = "sensor.claude_session_resets_at"
VERSION_1 = json.loads((Path(__file__).parent.parent / "cases/version_1_retained.json").read_text(encoding="utf-8"))
SPAN = 4
"""Seconds instead of seven minutes, for a test that waits until numbers expire."""


def test_a_power_cut_leaves_no_number_for_long(
    home: HomeAssistant, mosquitto: Mosquitto, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broker and service die together and nobody sends a will: what the broker replays soon becomes unavailable."""
    monkeypatch.setattr(discovery, "EXPIRE_AFTER", SPAN)
    with Watcher(mosquitto.port) as watcher, serve(clock=Clock()) as running:
        home.wait_for(sensor__claude_session_usage="42.5")
        mosquitto.stop()
        running.stop()
        mosquitto.start()
        watcher.wait_connected()
        watcher.publish(STATUS, "online", retain=True)  # as it was before the cut
        home.wait_for(sensor__claude_session_usage="42.5", sensor__claude_status="OK")
        gone = home.wait_for(
            sensor__claude_session_usage="unavailable",
            sensor__claude_session_resets_at="unavailable",
            sensor__claude_status="unavailable",
            binary_sensor__claude_problem="unavailable",
            binary_sensor__claude_blocked="unavailable",
        )
        assert value(gone, "event.claude_session_event") == "unknown"
        monkeypatch.undo()
        with serve(clock=Clock()):
            home.wait_for(sensor__claude_session_usage="42.5", sensor__claude_status="OK")
        remove_all(home, watcher)


class StuckClock(StepClock):
    """A clock that does not answer while the test holds it: asking for the time hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = threading.Event()
        self.runs.set()

    def now(self) -> dt.datetime:
        """Return the time, as soon as the clock runs."""
        self.runs.wait()
        return super().now()


def test_a_service_that_hangs_leaves_no_number_for_long(
    home: HomeAssistant, serve: Serve, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is connected, so there is no will, and it renews nothing: the numbers go; they are back when it continues."""
    monkeypatch.setattr(discovery, "EXPIRE_AFTER", SPAN)
    clock = StuckClock()
    with serve(clock=clock):
        home.wait_for(sensor__claude_session_usage="42.5")
        clock.runs.clear()
        home.wait_for(
            sensor__claude_session_usage="unavailable",
            sensor__claude_status="unavailable",
            binary_sensor__claude_blocked="unavailable",
        )
        assert watcher.last(STATUS).payload == "online"
        clock.runs.set()
        clock.advance(minutes=6)
        home.wait_for(sensor__claude_session_usage="42.5", sensor__claude_status="OK")


@pytest.mark.usefixtures("watcher")
def test_what_is_replayed_long_after_the_last_sign_of_life_is_not_shown(
    home: HomeAssistant, start: Start, watcher: Watcher
) -> None:
    """A broker still has `online` and old messages: nothing is shown, not even for a moment."""
    with start() as running:
        home.wait_for(sensor__claude_session_usage="42.5")
        running.stop(signal.SIGKILL)
    home.wait_for(sensor__claude_session_usage="unavailable")
    health = watcher.json("claude-usage/default/health")
    health["alive_until"] = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)).isoformat(timespec="seconds")
    watcher.publish("claude-usage/default/health", json.dumps(health), retain=True)
    watcher.publish(STATUS, "online", retain=True)
    home.wait_for(event__claude_session_event="unknown")  # it is available: the service is said to be there
    began = dt.datetime.now(dt.UTC)
    home.restart()
    home.wait_for(event__claude_session_event="unknown")
    states = home.states()
    assert {value(states, entity) for entity in (USAGE, RESET, "sensor.claude_status")} == {"unavailable"}
    assert home.history(USAGE, began) <= {"unavailable"}


@pytest.mark.parametrize("ahead", [-4, 4], ids=lambda minutes: f"{minutes} min")
@pytest.mark.usefixtures("watcher")
def test_clocks_a_few_minutes_apart_change_nothing(
    home: HomeAssistant, serve: Serve, clock: StepClock, ahead: int
) -> None:
    """The clocks of the service and Home Assistant may differ by a few minutes."""
    clock.set(dt.timedelta(minutes=ahead))
    with serve():
        home.wait_for(sensor__claude_session_usage="42.5", sensor__claude_status="OK")


@pytest.mark.usefixtures("watcher")
def test_resets_stay_known_through_the_night(
    home: HomeAssistant, serve: Serve, clock: StepClock, tmp_path: Path
) -> None:
    """After an hour without an answer the numbers are gone, but the time of the weekly reset is still there."""
    write_credentials(tmp_path, expires_in=dt.timedelta(hours=1))
    with serve():
        home.wait_for(sensor__claude_weekly_usage="61.0")
        states = home.wait(lambda states: states["sensor.claude_weekly_resets_at"]["state"].startswith("20"))
        week = value(states, "sensor.claude_weekly_resets_at")
        for _ in range(30):
            clock.advance(minutes=5)
        states = home.wait_for(sensor__claude_weekly_usage="unavailable", sensor__claude_status="Token expired")
        assert value(states, "sensor.claude_weekly_resets_at") == week


def test_one_failure_is_not_a_problem(
    home: HomeAssistant, serve: Serve, clock: StepClock, endpoint: Endpoint, watcher: Watcher
) -> None:
    """An HTTP 500 passes by itself; the third one in a row is a problem."""
    with serve():
        home.wait_for(sensor__claude_status="OK", binary_sensor__claude_problem="off")
        endpoint.fault = server_error()
        for failures in (1, 2, 3):
            clock.advance(minutes=11)
            watcher.wait_topic(HEALTH, lambda m, count=failures: m.json()["consecutive_failures"] == count)  # type: ignore[misc]
            is_problem = "on" if failures == 3 else "off"
            home.wait_for(sensor__claude_status="Server error", binary_sensor__claude_problem=is_problem)


def test_version_1_is_upgraded_in_place(home: HomeAssistant, start: Start, watcher: Watcher) -> None:
    """Entity ids, registry entries and so history stay, and Home Assistant logs nothing."""
    leave_version_1(watcher, "single")
    before = home.wait_entities(lambda entries: len(entries) == 3 * 11 + 5 + 9)
    watcher.publish(STATUS, "online", retain=True)
    home.wait_for(sensor__claude_session_usage="42.5")
    with start():
        home.wait_for(sensor__claude_status="OK", sensor__claude_tightest="61.0", sensor__claude_plan="Max")
        states = home.wait_for(sensor__claude_session_usage="42.5", sensor__claude_weekly_usage="61.0")
        after = home.wait_entities(lambda entries: len(entries) == 3 * 12 + 6 + 13)
    assert {entity: entry["id"] for entity, entry in after.items() if entity in before} == {
        entity: entry["id"] for entity, entry in before.items()
    }
    assert not [entity for entity in states if re.search(r"claude_.*_2$", entity)]


def test_a_named_account_of_version_1_keeps_its_entity_ids(
    home: HomeAssistant, start: Start, watcher: Watcher, tmp_path: Path
) -> None:
    """Its device moves from `default` to its name; the entity ids, to which history belongs, stay through restarts.

    The name is one that Home Assistant has not seen in another test: it would remember that one's entity ids.
    """
    leave_version_1(watcher, "single")
    before = home.wait_entities(lambda entries: len(entries) == 3 * 11 + 5 + 9)
    watcher.publish(STATUS, "online", retain=True)
    home.wait_for(sensor__claude_session_usage="42.5")
    settings = {"CLAUDE_ACCOUNTS": f'{{"studio": "{tmp_path}"}}', "CLAUDE_CONFIG_DIR": ""}
    for _ in range(2):
        with start(**settings):
            home.wait_for(sensor__claude_status="OK", sensor__claude_session_usage="42.5")
            home.wait_entities(lambda entries: not entries)
            after = home.wait_entities(lambda entries: set(before) <= set(entries), "claude_usage_studio")
            states = home.states()
    assert not [entity for entity in (*after, *states) if re.search(r"claude_(.*_2|studio_.*)$", entity)]


def test_two_accounts_of_version_1_are_upgraded_in_place(
    home: HomeAssistant, mosquitto: Mosquitto, start: Start, tmp_path: Path
) -> None:
    """Both devices and the one for all keep all their entities, and Home Assistant accepts their statistics."""
    devices = ("claude_usage_personal", "claude_usage_work", "claude_usage_all")
    with Watcher(mosquitto.port) as watcher:
        leave_version_1(watcher, "several")
        watcher.publish(STATUS, "online", retain=True)
        home.wait_for(sensor__claude_all_highest_usage="61.0", sensor__claude_work_session_usage="42.5")
        before = {device: home.wait_entities(bool, device) for device in devices}
        old = home.ask("recorder/validate_statistics")  # of what other tests left
        with start(**two_accounts(tmp_path)):
            states = home.wait_for(
                binary_sensor__claude_all_blocked="off",
                binary_sensor__claude_personal_blocked="off",
                binary_sensor__claude_work_blocked="off",
                sensor__claude_all_highest_usage="61.0",
            )
            after = {device: home.entities(device) for device in devices}
            objections = home.ask("recorder/validate_statistics")
        for device in devices:
            kept = {entity: after[device][entity]["id"] for entity in before[device]}
            assert kept == {entity: entry["id"] for entity, entry in before[device].items()}
        assert not [entity for entity in states if re.search(r"claude_.*_2$", entity)]
        assert not [entity for entity in objections if "claude" in entity and entity not in old]
        remove_all(home, watcher)


def test_accounts_of_version_1_that_are_no_longer_configured_are_removed(
    home: HomeAssistant, start: Start, watcher: Watcher, tmp_path: Path
) -> None:
    """Of its two accounts and the device for both, one account stays; Home Assistant logs nothing."""
    leave_version_1(watcher, "several")
    watcher.publish(STATUS, "online", retain=True)
    gone = ("claude_usage_work", "claude_usage_all")
    for identifier in gone:
        home.wait_entities(bool, identifier)
    settings = {"CLAUDE_ACCOUNTS": f'{{"personal": "{tmp_path}"}}', "CLAUDE_CONFIG_DIR": ""}
    with start(**settings):
        home.wait_for(sensor__claude_personal_status="OK", sensor__claude_personal_session_usage="42.5")
        for identifier in gone:
            home.wait_entities(lambda entries: not entries, identifier)


def test_the_amounts_of_extra_usage_go_when_it_is_switched_off(
    home: HomeAssistant, start: Start, endpoint: Endpoint, watcher: Watcher
) -> None:
    """Amounts from version 1 that mean nothing are removed; the entity that says whether it is enabled stays."""
    leave_version_1(watcher, "single")
    home.wait_entities(lambda entries: "sensor.claude_extra_usage_used" in entries)
    endpoint.document = document(extra_usage=dict(document()["extra_usage"], is_enabled=False))
    with start():
        home.wait_for(button__claude_refresh="unknown")
        home.call("button.press", entity_id="button.claude_refresh")
        home.wait_for(binary_sensor__claude_extra_usage_enabled="off")
        home.wait_entities(lambda entries: not [each for each in entries if "sensor.claude_extra_usage_used" in each])
        assert "binary_sensor.claude_extra_usage_active" in home.entities()


@pytest.mark.parametrize("base_topic", ["claude-usage", "other"], ids=["one base topic", "two base topics"])
def test_two_instances_with_one_name_do_not_alternate(
    home: HomeAssistant, start: Start, endpoint: Endpoint, watcher: Watcher, base_topic: str
) -> None:
    """Home Assistant keeps showing the one that was there first, through restarts of itself and of the second."""
    second: dict[str, Any] = {"MQTT_BASE_TOPIC": base_topic, "POLL_INTERVAL": 1}
    with Endpoint(document(five_hour=77.0)) as others, start(POLL_INTERVAL=1):
        home.wait_for(sensor__claude_session_usage="42.5")
        began = dt.datetime.now(dt.UTC)
        for _ in range(2):
            with start(CLAUDE_API_URL=others.url, **second) as later:
                later.log.wait_for("Another instance" if base_topic == "claude-usage" else "is left to it")
                home.restart()
                home.wait_for(sensor__claude_session_usage="42.5", sensor__claude_status="OK")
                endpoint.wait_for_requests(endpoint.count + 2)
        entries = home.entities()
        assert home.history(USAGE, began) <= {"42.5", "unavailable", "unknown"}
    assert not [entity for entity in entries if re.search(r"claude_.*_2$", entity)]
    for topic in watcher.retained():
        if topic.startswith("other/"):
            watcher.publish(topic, "", retain=True)


@pytest.mark.parametrize("by", ["remove", "hand"])
def test_removal_leaves_no_line_in_the_log(
    home: HomeAssistant, mosquitto: Mosquitto, start: Start, tmp_path: Path, by: str
) -> None:
    """After `remove`, or all topics emptied in any order, there is no complaint about what is not JSON."""
    settings = two_accounts(tmp_path)
    with Watcher(mosquitto.port) as watcher:
        with start(**settings):
            home.wait_for(sensor__claude_work_session_usage="42.5", sensor__claude_all_highest_usage="61.0")
        if by == "hand":
            remove_all(home, watcher)
        else:
            done = run_command(tmp_path, "remove", MQTT_HOST=LOOPBACK, MQTT_PORT=mosquitto.port, **settings)
            assert done.returncode == 0, done.stderr
            assert "claude-usage/work/state" in done.stdout
        home.wait(lambda states: not any("claude_" in entity_id for entity_id in states))


@pytest.mark.usefixtures("watcher")
def test_a_blocked_day(home: HomeAssistant, serve: Serve, clock: StepClock, endpoint: Endpoint) -> None:
    """With the week used up, the first row says blocked and until when, whatever the session shows; then it is over."""
    ends = (clock.now() + dt.timedelta(days=1)).replace(second=0, microsecond=0)

    def answer(week: float, resets_at: dt.datetime) -> dict[str, Any]:
        now = clock.now()
        return sample_usage(now=now, five_hour=make_window(0, None), seven_day=week, seven_day_resets_at=resets_at)

    endpoint.document = answer(80, ends)
    with serve():
        home.wait_for(binary_sensor__claude_blocked="off", sensor__claude_blocked_until="unknown")
        endpoint.document = answer(100, ends)
        clock.advance(minutes=6)
        states = home.wait_for(
            binary_sensor__claude_blocked="on",
            sensor__claude_blocked_until=ends.isoformat(timespec="seconds"),
            sensor__claude_session_usage="0.0",
            sensor__claude_status="OK",
        )
        assert states["sensor.claude_tightest"]["attributes"]["label"] == "Weekly"
        tightest = "sensor.claude_tightest"
        home.wait(lambda states: states[tightest]["attributes"]["summary"].startswith("Blocked until "))
        event = "event.claude_account_event"
        home.wait(lambda states: states[event]["attributes"]["event_type"] == "blocked")
        endpoint.document = answer(0, ends + dt.timedelta(days=7))
        clock.advance(days=1, minutes=2)
        home.wait_for(binary_sensor__claude_blocked="off", sensor__claude_blocked_until="unknown")
        home.wait(lambda states: states[event]["attributes"]["event_type"] == "unblocked")


def remove_all(home: HomeAssistant, watcher: Watcher) -> None:
    """Empty what the service left, what Home Assistant reads first and the devices last."""
    for topic in sorted(watcher.retained(), key=lambda topic: topic.endswith("/config")):
        watcher.publish(topic, "", retain=True)
    home.wait(lambda states: not any("claude_" in entity_id for entity_id in states))


def leave_version_1(watcher: Watcher, which: str) -> None:
    """Leave on the broker what version 1 left, as if that had been a minute ago."""
    recorded = dt.datetime.fromisoformat(VERSION_1["recorded_at"])
    later = dt.datetime.now(dt.UTC) - recorded - dt.timedelta(minutes=1)
    moved = later - later % dt.timedelta(minutes=1)  # resets are whole minutes

    def instant(found: re.Match[str]) -> str:
        return (dt.datetime.fromisoformat(found[0]) + moved).isoformat()

    def seconds(found: re.Match[str]) -> str:
        return str(float(found[0]) + moved.total_seconds())

    for topic, payload in VERSION_1[which].items():
        dated = re.sub(r"2026-\d\d-\d\dT[\d:]+\+00:00", instant, payload)
        watcher.publish(topic, re.sub(r"\b1795\d{6}(\.\d+)?\b", seconds, dated), retain=True)
