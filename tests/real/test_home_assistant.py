"""The whole path into a real Home Assistant: what its user sees, through everything that happens in months."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parts.broker import Mosquitto
from parts.command import run_command
from parts.credentials import write_credentials
from parts.documents import make_extra_usage, make_window, plans, sample_usage
from parts.endpoint import Endpoint
from parts.net import LOOPBACK
from parts.service import CONFIG, HEALTH, STATE, Serve, Start
from parts.watcher import Watcher
from real.account import EUR, document, two_accounts, value
from real.home import HomeAssistant, State, StepClock, pass_until

USAGE = "sensor.claude_session_usage"
EVENT = "event.claude_session_event"
RAN = "tests/ran"
AWAY = ("unavailable", "unknown")
ON_EVENT = {
    "alias": "on_event",
    "triggers": [{"trigger": "state", "entity_id": EVENT, "not_from": ["unavailable"], "not_to": AWAY}],
    "conditions": [
        "{{ trigger.to_state.attributes.event_type == 'threshold_reached' }}",
        "{{ trigger.to_state.attributes.threshold == 75 }}",
    ],
}
ON_NUMBER = {
    "alias": "on_number",
    "triggers": [{"trigger": "numeric_state", "entity_id": USAGE, "above": 80}],
    "conditions": [f"{{{{ trigger.from_state.state not in {AWAY} }}}}"],
}


def seen(states: dict[str, State], entities: Iterable[str]) -> dict[str, tuple[str | None, ...]]:
    """Return state, unit, device class and state class of some entities."""
    return {
        entity_id: (
            states[entity_id]["state"],
            states[entity_id]["attributes"].get("unit_of_measurement"),
            states[entity_id]["attributes"].get("device_class"),
            states[entity_id]["attributes"].get("state_class"),
        )
        for entity_id in entities
        if entity_id in states
    }


def is_settled(states: dict[str, State]) -> bool:
    """Return whether the numbers are there, and nothing is unavailable."""
    ours = [state["state"] for entity_id, state in states.items() if ".claude_" in entity_id]
    return "unavailable" not in ours and USAGE in states and value(states, USAGE) != "unknown"


def is_complete(states: dict[str, State]) -> bool:
    """Return whether everything is known that can be known while nothing happens."""
    return is_settled(states) and not any(
        state["state"] == "unknown"
        for entity_id, state in states.items()
        if ".claude_" in entity_id
        and not entity_id.startswith(("button.", "event."))
        and not entity_id.endswith(("limit_at", "blocked_until"))
    )


def registered(home: HomeAssistant) -> dict[str, str]:
    """Return what must never change: the registry's own id of each entity."""
    return {entity_id: entry["id"] for entity_id, entry in home.entities().items()}


def test_every_entity_has_its_state_unit_and_class(home: HomeAssistant, start: Start, watcher: Watcher) -> None:
    """The device page shows every number of the contract, as what it is, and hides what few people want."""
    with start():
        home.wait(is_settled)
        shown = watcher.json(STATE)["windows"]["five_hour"]
        watcher.wait_topic(HEALTH, lambda message: message.json()["status"] == "ok")
        wanted = {
            "binary_sensor.claude_extra_usage_enabled": ("on", None, None, None),
            "binary_sensor.claude_problem": ("off", None, "problem", None),
            "binary_sensor.claude_session_limit_reached": ("off", None, "problem", None),
            "binary_sensor.claude_session_on_pace": ("on", None, None, None),
            "button.claude_refresh": ("unknown", None, None, None),
            "event.claude_session_event": ("unknown", None, None, None),
            "number.claude_poll_interval": ("300", "s", "duration", None),
            "sensor.claude_extra_usage_limit": ("50.0", "EUR", "monetary", None),
            "sensor.claude_extra_usage_remaining": ("37.66", "EUR", "monetary", None),
            "sensor.claude_extra_usage_used": ("12.34", "EUR", "monetary", "total"),
            "sensor.claude_extra_usage_utilization": ("24.68", "%", None, "measurement"),
            "sensor.claude_plan": ("Max 5x", None, None, None),
            "binary_sensor.claude_blocked": ("off", None, "problem", None),
            "sensor.claude_blocked_until": ("unknown", None, "timestamp", None),
            "sensor.claude_tightest": ("61.0", "%", None, "measurement"),
            "event.claude_account_event": ("unknown", None, None, None),
            "binary_sensor.claude_extra_usage_active": ("off", None, None, None),
            "sensor.claude_session_limit_at": ("unknown", None, "timestamp", None),
            "sensor.claude_session_projected": (str(shown["projected"]), "%", None, "measurement"),
            "sensor.claude_session_resets_at": (utc(shown["resets_at"]), None, "timestamp", None),
            "sensor.claude_session_usage": ("42.5", "%", None, "measurement"),
            "sensor.claude_status": ("OK", None, "enum", None),
            "switch.claude_polling": ("on", None, None, None),
        }
        states = home.wait(lambda states: seen(states, wanted) == wanted)
        entries = home.entities()
    of_account = {entity_id for entity_id, entry in entries.items() if "weekly" not in entity_id}
    assert of_account - set(wanted) == {
        "sensor.claude_last_success",
        "sensor.claude_next_poll",
        "sensor.claude_token_expires_at",
        "sensor.claude_session_burn_rate",
        "sensor.claude_session_elapsed",
        "sensor.claude_session_pace",
        "sensor.claude_session_remaining",
        "sensor.claude_session_time_remaining",
    }
    assert all(entries[entity_id]["disabled_by"] for entity_id in of_account - set(wanted))
    weekly = {"sensor.claude_weekly_usage": "61.0", "sensor.claude_weekly_fable_usage": "31.0"}
    assert {entity_id: value(states, entity_id) for entity_id in weekly} == weekly
    assert len(entries) == 3 * 12 + 6 + 13
    assert states[USAGE]["attributes"]["friendly_name"] == "Claude Session usage"
    tightest = states["sensor.claude_tightest"]["attributes"]
    assert (tightest["window"], tightest["label"]) == ("seven_day", "Weekly")
    assert tightest["summary"].startswith("Session 42 %, resets ")
    assert dt.datetime.fromisoformat(tightest["updated_at"])
    assert states["sensor.claude_status"]["attributes"]["code"] == "ok"


def test_several_accounts_are_several_devices(
    home: HomeAssistant, mosquitto: Mosquitto, start: Start, tmp_path: Path
) -> None:
    """Each account has its device and entity ids, and there is one for all; once removed, nothing is left."""
    with start(**two_accounts(tmp_path)):
        home.wait_for(
            sensor__claude_work_weekly_usage="61.0",
            sensor__claude_personal_session_usage="42.5",
            sensor__claude_all_highest_usage="61.0",
        )
        devices = {device["name"] for device in home.ask("config/device_registry/list") if "Claude" in device["name"]}
        assert devices == {"Claude Personal", "Claude Work", "Claude accounts"}
        assert "sensor.claude_work_weekly_resets_at" in home.entities("claude_usage_work")
    with Watcher(mosquitto.port) as watcher:
        for topic in watcher.retained():
            watcher.publish(topic, "", retain=True)
    for account in ("personal", "work", "all"):
        home.wait_entities(lambda entries: not entries, f"claude_usage_{account}")


@pytest.mark.usefixtures("watcher")
def test_restarts_leave_everything_as_it_was(home: HomeAssistant, mosquitto: Mosquitto, start: Start) -> None:
    """After a restart of any of the three, clean or not, all is back: same entities, same values, none twice."""
    running = start()
    with running:
        expected = stable(home.wait(is_complete))
        began = dt.datetime.now(dt.UTC)
        entities = registered(home)

        def check(what: str) -> None:
            states = home.wait(lambda states: is_complete(states) and stable(states) == expected, 60)
            assert registered(home) == entities, what
            assert not [entity_id for entity_id in states if "claude" in entity_id and entity_id[-2:] == "_2"], what

        home.restart()
        check("Home Assistant restarted")
        mosquitto.restart()
        home.wait(lambda states: value(states, USAGE) == "unavailable")
        check("the broker restarted")
        mosquitto.kill()
        (mosquitto.folder / "mosquitto.db").unlink()
        mosquitto.start()
        check("the broker lost all it had retained")
        mosquitto.stop()
        home.restart(kill=True)
        mosquitto.start()
        check("Home Assistant started while there was no broker")
        running.stop()
        home.wait(lambda states: value(states, USAGE) == "unavailable")
        assert value(home.states(), "sensor.claude_status") == "unavailable"
    with start() as again:
        check("the service restarted")
        again.stop(signal.SIGKILL)
        home.wait(lambda states: value(states, USAGE) == "unavailable")
        home.restart()
        home.wait(lambda states: USAGE in states and value(states, USAGE) == "unavailable")
    with start():
        check("Home Assistant restarted while the service was dead")
    assert home.history(USAGE, began) <= {"42.5", *AWAY}


@pytest.mark.usefixtures("watcher")
def test_check_changes_nothing(
    home: HomeAssistant, mosquitto: Mosquitto, start: Start, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Before any announcement, and after the broker forgot it: no line in the log, no entity lost."""
    settings = {"MQTT_HOST": LOOPBACK, "MQTT_PORT": mosquitto.port, "CLAUDE_API_URL": endpoint.url}

    def check() -> None:
        done = run_command(tmp_path, "check", **settings, CLAUDE_CONFIG_DIR=tmp_path)
        assert done.returncode == 0, done.stdout

    check()
    with start():
        home.wait(is_complete)
    entities = registered(home)
    mosquitto.kill()
    (mosquitto.folder / "mosquitto.db").unlink(missing_ok=True)
    mosquitto.start()
    check()
    with start():
        home.wait(is_complete)
    assert entities.items() <= registered(home).items()


def stable(states: dict[str, State]) -> dict[str, str]:
    """Return the states that a restart may not change."""
    moving = ("_projected", "_limit_at")
    return {
        entity_id: state["state"]
        for entity_id, state in states.items()
        if "claude_" in entity_id and not entity_id.endswith(moving)
    }


@pytest.mark.usefixtures("watcher")
def test_a_week_over_pace_is_shown_as_one(
    home: HomeAssistant, serve: Serve, clock: StepClock, endpoint: Endpoint
) -> None:
    """A week's `on pace` agrees with the projection next to it, and does not flap close to 100 %."""
    week = clock.now() + dt.timedelta(days=3, hours=12)  # half of it has passed

    def answer(used: float) -> dict[str, Any]:
        return document(seven_day=used, seven_day_resets_at=week, scoped={})

    endpoint.document = answer(49)
    with serve():
        home.wait_for(sensor__claude_weekly_usage="49.0", binary_sensor__claude_weekly_on_pace="on")
        for used, on_pace in ((52, "off"), (50, "off"), (48.5, "on"), (50.5, "on")):
            endpoint.document = answer(used)
            clock.advance(minutes=6)
            home.wait_for(sensor__claude_weekly_usage=str(float(used)), binary_sensor__claude_weekly_on_pace=on_pace)


@pytest.mark.usefixtures("watcher")
def test_stale_numbers_are_unavailable_and_the_reason_is_readable(
    home: HomeAssistant, serve: Serve, clock: StepClock, tmp_path: Path
) -> None:
    """After an hour without an answer the numbers are unavailable, and the device says why and what to do."""
    with serve():
        home.wait(is_settled)
        write_credentials(tmp_path, expires_in=dt.timedelta(hours=-1))
        clock.advance(minutes=10)
        states = home.wait_for(sensor__claude_status="Token expired", binary_sensor__claude_problem="on")
        assert value(states, USAGE) == "42.5"
        assert "Claude Code" in states["sensor.claude_status"]["attributes"]["detail"]
        clock.advance(minutes=61)
        states = home.wait_for(sensor__claude_session_usage="unavailable")
        assert value(states, "sensor.claude_status") == "Token expired"
        assert value(states, "switch.claude_polling") == "on"
        write_credentials(tmp_path, now=clock.now())
        clock.advance(minutes=1)
        states = home.wait_for(sensor__claude_status="OK", sensor__claude_session_usage="42.5")
        assert states["sensor.claude_status"]["attributes"]["detail"] is None


def test_a_window_comes_and_goes(
    home: HomeAssistant, serve: Serve, clock: StepClock, endpoint: Endpoint, watcher: Watcher
) -> None:
    """A model's window has entities as long as the API reports it, and none a day later; the same for money."""
    week = clock.now() + dt.timedelta(days=6)

    def answer(**changes: Any) -> dict[str, Any]:
        return sample_usage(five_hour=make_window(0, None), seven_day_resets_at=week, **changes)

    endpoint.document = answer()
    with serve(interval=3300) as running:
        home.wait_for(sensor__claude_session_usage="0.0")
        before = registered(home)
        assert len(before) == 2 * 12 + 13
        endpoint.document = answer(scoped={"Fable": 3}, extra_usage=EUR)
        clock.advance(minutes=67)
        home.wait_for(sensor__claude_weekly_fable_usage="3.0", sensor__claude_extra_usage_used="12.34")
        assert len(registered(home)) == 3 * 12 + 6 + 13
        endpoint.document = answer()
        for _ in range(23):
            pass_until(clock, clock.now() + dt.timedelta(minutes=67), watcher)
        entries = home.wait_entities(lambda entries: len(entries) == len(before))
        assert {entity_id: entry["id"] for entity_id, entry in entries.items()} == before
        assert running.log.count("ERROR") == 0


@pytest.mark.usefixtures("watcher")
def test_a_currency_changes(home: HomeAssistant, serve: Serve, clock: StepClock, endpoint: Endpoint) -> None:
    """Amounts in another currency are separate entities, so that no statistics mix euros and dollars."""
    spent = "sensor.claude_extra_usage_used"
    with serve(interval=600):
        home.wait_for(sensor__claude_extra_usage_used="12.34")
        before = registered(home)
        for currency, minor, amount in (("USD", 2000.0, "20.0"), ("JPY", 300.0, "300.0"), ("EUR", 1500.0, "15.0")):
            endpoint.document = document(extra_usage=make_extra_usage(minor, 5000, currency))
            clock.advance(minutes=11)
            entity = spent if currency == "EUR" else f"{spent}_{currency.lower()}"
            wanted = {entity: (amount, currency, "monetary", "total")}
            home.wait(lambda states, wanted=wanted: seen(states, wanted) == wanted)  # type: ignore[misc]
        home.wait_entities(lambda entries: len(entries) == len(before))
        assert registered(home) == before


@pytest.mark.usefixtures("watcher")
def test_a_seat_with_nothing_but_a_budget(
    home: HomeAssistant, serve: Serve, clock: StepClock, endpoint: Endpoint, tmp_path: Path
) -> None:
    """An account without any window shows what it has spent, until that is too old to be shown."""
    endpoint.document = dict(plans())["enterprise"]
    with serve():
        home.wait_for(sensor__claude_extra_usage_used="4500.0", binary_sensor__claude_extra_usage_enabled="on")
        write_credentials(tmp_path, expires_in=dt.timedelta(hours=-1))
        clock.advance(minutes=61)
        home.wait_for(sensor__claude_extra_usage_used="unavailable", sensor__claude_status="Token expired")


@pytest.mark.usefixtures("watcher")
def test_a_new_month_is_not_a_refund(home: HomeAssistant, serve: Serve, endpoint: Endpoint, tmp_path: Path) -> None:
    """The amount starts over each month: Home Assistant knows that, and its sums continue; a correction counts."""
    month = (dt.datetime.now(dt.UTC).replace(day=1, hour=0, minute=0, second=0) + dt.timedelta(days=32)).replace(day=1)
    clock = StepClock(start=month - dt.timedelta(minutes=40))
    write_credentials(tmp_path, now=month)
    since = []
    with serve(clock=clock):
        for minor, amount in ((1234.0, "12.34"), (2000.0, "20.0"), (1900.0, "19.0"), (150.0, "1.5"), (700.0, "7.0")):
            soon = clock.now() + dt.timedelta(hours=2)
            endpoint.document = document(
                resets_at=soon,
                seven_day_resets_at=soon + dt.timedelta(days=2),
                extra_usage=make_extra_usage(minor, 5000, "EUR"),
            )
            clock.advance(minutes=11)
            states = home.wait_for(sensor__claude_extra_usage_used=amount)
            since.append(
                dt.datetime.fromisoformat(states["sensor.claude_extra_usage_used"]["attributes"]["last_reset"])
            )
    before, now = since[0], since[-1]
    assert since == [before] * 3 + [now] * 2
    assert before < month <= now


def test_an_empty_message_removes_the_device(home: HomeAssistant, start: Start, watcher: Watcher) -> None:
    """After an empty message, by hand or from `remove`, the device is gone at once, with all its entities."""
    with start():
        home.wait(is_settled)
    watcher.publish(CONFIG, "", retain=True)
    home.wait_entities(lambda entries: not entries)
    home.wait(lambda states: not any("claude_" in entity_id for entity_id in states))


@pytest.mark.usefixtures("watcher")
def test_controls_do_what_they_say(home: HomeAssistant, start: Start, endpoint: Endpoint) -> None:
    """Buttons, numbers and switches in Home Assistant reach the service, and show the values in effect."""
    with start():
        home.wait(is_settled)
        polled = endpoint.count
        endpoint.document = document(five_hour=43.5)
        home.call("button.press", entity_id="button.claude_refresh")
        endpoint.wait_for_requests(polled + 1)
        home.wait_for(sensor__claude_session_usage="43.5")
        home.call("number.set_value", entity_id="number.claude_poll_interval", value=600)
        home.wait_for(number__claude_poll_interval="600")
        home.call("switch.turn_off", entity_id="switch.claude_polling")
        home.wait_for(switch__claude_polling="off", sensor__claude_status="Paused")
        home.call("switch.turn_on", entity_id="switch.claude_polling")
        home.wait_for(switch__claude_polling="on", sensor__claude_status="OK")


@pytest.mark.usefixtures("watcher")
def test_automations_run_exactly_once_over_a_day_with_three_restarts(
    home: HomeAssistant, mosquitto: Mosquitto, serve: Serve, clock: StepClock, endpoint: Endpoint
) -> None:
    """A threshold's event and a crossed number are acted on once, whatever restarts before or after."""
    midnight = clock.now()

    def answer(hours: float, utilization: float) -> dict[str, Any]:
        """Return the answer after these hours: sessions of five hours, one after the other."""
        ends = midnight + dt.timedelta(hours=5 * (hours // 5 + 1))
        return sample_usage(
            five_hour=make_window(utilization, ends),
            seven_day=20.0,
            seven_day_resets_at=midnight + dt.timedelta(days=3),
        )

    endpoint.document = answer(0, 0)

    def day(running: Any, begin: int, end: int) -> None:
        """Let hours pass, each with polls; the third session alone goes beyond the thresholds."""
        for step in range(4 * begin, 4 * end):
            hours = step / 4
            used = (hours % 5) * (18 if 10 <= hours < 15 else 10)
            endpoint.document = answer(hours, used)
            # two minutes later: in a window's first minute nothing is asked
            pass_until(running.clock, midnight + dt.timedelta(hours=hours, minutes=2), watcher)
        home.wait(lambda states: is_settled(states) and float(value(states, USAGE)) == used)

    def ran() -> list[str]:
        """Return what ran so far, in alphabetical order."""
        watcher.settle()
        return sorted(message.payload for message in watcher.messages(RAN))

    with Watcher(mosquitto.port) as watcher, contextlib.ExitStack() as automations:
        with serve(interval=600) as running:
            home.wait(is_settled)
            automations.enter_context(automation(home, ON_EVENT))
            automations.enter_context(automation(home, ON_NUMBER))
            day(running, 1, 12)
            home.restart()  # before it happens
            home.wait(is_settled)
            day(running, 12, 15)
            for name in ("on_event", "on_number"):  # Home Assistant shows the number before it runs what it triggers
                watcher.wait_topic(RAN, lambda message, name=name: message.payload == name)
            assert ran() == ["on_event", "on_number"]
            home.restart()  # and after it, while the number is still above
            home.wait(is_settled)
            mosquitto.restart()
            home.wait(lambda states: value(states, USAGE) == "unavailable")
            home.wait(is_settled, 60)
            watcher.wait_connected()
        home.wait(lambda states: value(states, USAGE) == "unavailable")
        with serve(interval=600) as running:
            home.wait(is_settled)
            day(running, 15, 24)
        assert ran() == ["on_event", "on_number"]
        types = [m.json()["event_type"] for m in watcher.messages("claude-usage/default/event/five_hour")]
        assert types == ["reset", "reset", "threshold_reached", "reset", "reset"]


@contextlib.contextmanager
def automation(home: HomeAssistant, config: dict[str, Any]) -> Iterator[None]:
    """Create an automation that publishes its name."""
    name = config["alias"]
    action = {"action": "mqtt.publish", "data": {"topic": RAN, "payload": name, "qos": 1}}
    home.rest("POST", f"/api/config/automation/config/{name}", config | {"mode": "queued", "actions": [action]})
    home.wait_for(**{f"automation__{name}": "on"})
    try:
        yield
    finally:
        home.rest("DELETE", f"/api/config/automation/config/{name}")


def utc(instant: str) -> str:
    """Return an instant as Home Assistant writes it."""
    return dt.datetime.fromisoformat(instant).astimezone(dt.UTC).isoformat(timespec="seconds")
