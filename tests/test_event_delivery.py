"""Events reach their listeners, whichever of broker, service and Home Assistant was away when they happened."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from claude_usage_mqtt.service import publishing
from claude_usage_mqtt.service.event_delivery import MAX_WAITING, SPACING, EventDelivery
from claude_usage_mqtt.usage.events import Event
from parts.broker import Mosquitto
from parts.endpoint import Endpoint
from parts.service import BASE, BIRTH, HEALTH, MEMORY, STATE, Clock, Impatient, Serve, command, is_ok, session_is
from parts.watcher import Watcher

NOW = dt.datetime(2026, 11, 26, 12, 0, tzinfo=dt.UTC)
EVENT = f"{BASE}/default/event/five_hour"


def event(minutes: int = 0, *, lasts: int = 60) -> Event:
    """Return an event some minutes after NOW."""
    at = NOW + dt.timedelta(minutes=minutes)
    return Event(
        event_type="threshold_reached",
        at=at,
        expires_at=at + dt.timedelta(minutes=lasts),
        window="five_hour",
        label="Session",
        utilization=80.0,
        thresholds=(75.0,),
    )


def id_of(event: Event) -> str:
    """Return the id by which an event is recognized."""
    return str(event.document("default")["id"])


def taken(delivery: EventDelivery, now: dt.datetime = NOW, *, home_assistant: bool = True) -> list[str]:
    """Return the payloads that are delivered now."""
    return [payload.decode() for _, payload in delivery.take(now, is_home_assistant_online=home_assistant)]


@pytest.mark.parametrize("home_assistant", [True, False])
def test_one_event_of_an_entity_at_a_time(home_assistant: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Two in the same millisecond are one change for a Home Assistant before 2026.8: automations miss the second."""
    delivery = EventDelivery("default")
    delivery.add([event(), event(1)])
    first = taken(delivery, home_assistant=home_assistant)
    assert delivery.has_due(is_home_assistant_online=home_assistant)
    assert taken(delivery, NOW + SPACING / 2, home_assistant=home_assistant) == []
    second = taken(delivery, NOW + SPACING, home_assistant=home_assistant)
    assert not delivery.has_due(is_home_assistant_online=home_assistant)
    assert [each.count(id_of(event())) + 2 * each.count(id_of(event(1))) for each in (*first, *second)] == [1, 2]
    again = taken(delivery, NOW + 2 * SPACING) + taken(delivery, NOW + 3 * SPACING)
    assert again == ([] if home_assistant else first + second)
    assert delivery.save() == []


def test_a_jump_to_the_limit_is_two_events_one_after_the_other(
    serve: Serve, endpoint: Endpoint, watcher: Watcher
) -> None:
    """Threshold and limit are reached at once; both arrive at an event entity, a moment apart."""
    raise_session(endpoint, 70)
    with serve(interval=0.3):
        watcher.wait_topic(STATE, session_is(70))
        raise_session(endpoint, 100)
        watcher.wait_topic(EVENT, lambda message: message.json()["event_type"] == "limit_reached")
    assert [each.json()["event_type"] for each in watcher.messages(EVENT)] == ["threshold_reached", "limit_reached"]


def test_an_event_of_a_window_that_ended_is_dropped() -> None:
    """After a reset, nothing reports that the previous window was nearly used up."""
    delivery = EventDelivery("default")
    delivery.add([event(lasts=10)])
    assert taken(delivery, NOW + dt.timedelta(minutes=10)) == []


def test_the_number_of_waiting_events_is_limited() -> None:
    """A broker that is away for weeks costs little memory: only the newest events are kept."""
    delivery = EventDelivery("default")
    delivery.add(event(minute) for minute in range(3 * MAX_WAITING))
    assert len(delivery.save()) == MAX_WAITING
    assert delivery.save()[-1]["document"]["id"] == id_of(event(3 * MAX_WAITING - 1))


@pytest.mark.parametrize(
    "damage",
    [
        {"level": "five_hour/../x"},
        {"level": "+"},
        {"document": {"event_type": "reset"}},
        {"document": {"event_type": "x", "id": "1"}},
        {"document": {"event_type": "reset", "id": "1", "text": "x" * 3000}},
        {"expires_at": "2036-01-01T00:00:00+00:00"},
        {"expires_at": "2026-11-26T11:00:00+00:00"},
        {"expires_at": None},
    ],
)
def test_only_events_of_ours_are_restored(damage: dict[str, Any]) -> None:
    """A stranger's text in the memory topic is not sent on."""
    before, after = EventDelivery("default"), EventDelivery("default")
    before.add([event()])
    after.restore([saved | damage for saved in before.save()] + [None, 5, {}], NOW)
    assert taken(after) == []


def raise_session(endpoint: Endpoint, utilization: float) -> None:
    """Make the endpoint report another utilization of the session."""
    endpoint.document = endpoint.document | {"five_hour": endpoint.document["five_hour"] | {"utilization": utilization}}


def test_an_event_is_not_repeated_by_a_restart(serve: Serve, endpoint: Endpoint, watcher: Watcher) -> None:
    """An automation on an event runs once: not again when the container restarts, nor on a later poll."""
    watcher.publish(BIRTH, "online", retain=True)
    with serve(interval=0.3):
        watcher.wait_topic(HEALTH, is_ok)
        raise_session(endpoint, 80)
        fired = watcher.wait_topic(EVENT).json()
        watcher.wait_topic(MEMORY, lambda m: m.json()["events"] == [], since=watcher.mark())
    with serve(interval=0.3) as running:
        endpoint.wait_for_requests(endpoint.count + 2)
        running.log.wait_for("Publishing at")
        watcher.settle()
    assert (fired["event_type"], fired["threshold"]) == ("threshold_reached", 75)
    assert len(watcher.messages(EVENT)) == 1
    assert EVENT not in watcher.retained()


def test_home_assistant_gets_it_after_its_restart(serve: Serve, endpoint: Endpoint, watcher: Watcher) -> None:
    """An event during a restart of Home Assistant is sent again after its birth message, with the same id."""
    with serve(rng=Impatient()):
        watcher.wait_topic(HEALTH, is_ok)
        raise_session(endpoint, 80)
        watcher.publish(command("refresh"), "PRESS")
        first = watcher.wait_topic(EVENT)
        since = watcher.mark()
        watcher.publish(BIRTH, "online")
        again = watcher.wait_topic(EVENT, since=since)
        since = watcher.mark()
        watcher.publish(BIRTH, "online")
        watcher.wait_topic(STATE, since=since)  # everything retained is sent again after a birth
        watcher.settle()
    assert again.payload == first.payload
    assert len(watcher.messages(EVENT)) == 2


def test_an_event_while_the_broker_was_away(
    serve: Serve, mosquitto: Mosquitto, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent when the broker has been back for a while, even if the service was restarted before that."""
    with Watcher(mosquitto.port) as watcher:
        with monkeypatch.context() as patch, serve(port=mosquitto.port, interval=0.3):
            patch.setattr(publishing, "SETTLED_AFTER", 60.0)
            watcher.wait_topic(HEALTH, is_ok)
            mosquitto.stop()
            raise_session(endpoint, 95)
            endpoint.wait_for_requests(endpoint.count + 2)
            mosquitto.start()
            watcher.wait_topic(STATE, session_is(95))
            watcher.wait_topic(MEMORY, lambda m: len(m.json()["events"]) == 1)
            assert not watcher.messages(EVENT)  # the listeners are not back yet
        with serve(port=mosquitto.port, interval=0.3):
            fired = watcher.wait_topic(EVENT).json()
    assert (fired["thresholds"], fired["threshold"]) == ([75, 90], 90)


def test_the_sign_of_life_is_renewed(serve: Serve, watcher: Watcher) -> None:
    """While the service runs, its retained messages never look older than eight minutes, and show that time passes."""
    clock = Clock()
    with serve(clock=clock, interval=3600):
        window = watcher.wait_topic(STATE, session_is(42)).json()["windows"]["five_hour"]
        first = watcher.wait_topic(HEALTH, is_ok).json()["alive_until"]
        assert dt.timedelta(minutes=7) < dt.datetime.fromisoformat(first) - clock.now() <= dt.timedelta(minutes=8)
        since = watcher.mark()
        clock.sleep(dt.timedelta(minutes=6))
        watcher.publish(command("polling"), "ON")  # wakes the loop, as its own time would in five minutes
        renewed = watcher.wait_topic(HEALTH, lambda m: m.json()["alive_until"] > first, since=since).json()
        assert dt.datetime.fromisoformat(renewed["alive_until"]) > clock.now() + dt.timedelta(minutes=7)
        later = watcher.wait_topic(STATE, since=since).json()["windows"]["five_hour"]
        assert later["elapsed"] > window["elapsed"]
        assert later["time_remaining_hours"] < window["time_remaining_hours"]
        assert later["read_at"] == window["read_at"]
