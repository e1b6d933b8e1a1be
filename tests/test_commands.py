"""The controls that Home Assistant shows: refresh, interval, polling. Each does its job, within the budget."""

import datetime as dt
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from claude_usage_mqtt.instants import local_time
from claude_usage_mqtt.usage.reading import STATUSLINE
from parts.endpoint import Endpoint
from parts.process import Log
from parts.proxy import FaultyProxy
from parts.service import HEALTH, STATUS, Clock, Serve, command, is_ok, is_online
from parts.watcher import Watcher


class Panel(NamedTuple):
    """What a person in front of Home Assistant can do, and see."""

    watcher: Watcher
    log: Log
    clock: Clock

    def press(self, name: str, payload: str = "PRESS", *, retain: bool = False) -> int:
        """Send a command; return the mark before it."""
        since = self.watcher.mark()
        self.watcher.publish(command(name), payload, retain=retain)
        return since

    def shows(self, since: int, **values: Any) -> dict[str, Any]:
        """Wait until `health` has these values, and return it."""
        message = self.watcher.wait_topic(
            HEALTH, lambda m: m.payload and all(m.json()[key] == value for key, value in values.items()), since=since
        )
        return dict(message.json())

    def health(self) -> dict[str, Any]:
        """Return `health` once everything that was sent is processed."""
        self.watcher.settle()
        return dict(self.watcher.json(HEALTH))


@pytest.fixture
def panel(serve: Serve, watcher: Watcher) -> Iterator[Panel]:
    """Run the service with the limits of the real API, until its first numbers are there."""
    # The sample's resets are at full hours, and a poll waits for a reset that is a moment away.
    half_past = dt.datetime.now(dt.UTC).replace(minute=30)
    with serve(clock=Clock(start=half_past), limited=True) as running:
        watcher.wait_topic(HEALTH, is_ok)
        yield Panel(watcher, running.log, running.clock)


def test_refresh_polls_now(panel: Panel, endpoint: Endpoint) -> None:
    """A button press brings new numbers at once if the last request was a while ago."""
    panel.clock.sleep(dt.timedelta(minutes=2))
    since = panel.press("refresh")
    panel.shows(since, requests_last_hour=2, status="ok")
    endpoint.wait_for_requests(2)


def test_refresh_too_soon_says_when(panel: Panel, endpoint: Endpoint) -> None:
    """A press right after a request asks nothing yet: `health.detail` says when it will, and then it is."""
    since = panel.press("refresh")
    shown = panel.shows(since, status="ok")
    assert local_time(dt.datetime.fromisoformat(shown["next_poll"])) in shown["detail"]
    assert endpoint.count == 1
    panel.clock.sleep(dt.timedelta(minutes=1))
    panel.press("interval", "nonsense")  # makes the loop look at its clock
    done = panel.shows(since, requests_last_hour=2, detail=None)
    assert done["status"] == "ok"
    endpoint.wait_for_requests(2)


def test_a_stuck_button_stays_within_the_budget(panel: Panel, endpoint: Endpoint) -> None:
    """An automation that keeps pressing costs no more than twenty requests an hour."""
    for _ in range(58):
        panel.clock.sleep(dt.timedelta(seconds=61))
        panel.press("refresh")
        panel.health()
    assert endpoint.count <= 20
    assert panel.health()["requests_last_hour"] <= 20


def test_interval(panel: Panel) -> None:
    """The number sets the poll interval, within its bounds: below 180 seconds the API would block the account."""
    since = panel.press("interval", "600")
    panel.shows(since, poll_interval=600)
    for wrong in ("", "60", "-300", "4000", "300.5", "1e3", "NaN", "³00", "99999999999999999999", "600\x00", "{}"):
        panel.press("interval", wrong)
    panel.log.wait_for("value is unusable", count=11)
    assert panel.health()["poll_interval"] == 600


def test_a_shorter_interval_takes_effect_at_once(panel: Panel) -> None:
    """Nobody waits for the end of the old interval."""
    before = panel.health()["next_poll"]
    since = panel.press("interval", "180")
    assert panel.shows(since, poll_interval=180)["next_poll"] < before


def test_polling_off_and_on(panel: Panel, endpoint: Endpoint) -> None:
    """While polling is off, only a refresh by hand asks; once it is on, polling continues."""
    since = panel.press("polling", "OFF")
    assert panel.shows(since, polling=False)["status"] == "paused"
    panel.clock.sleep(dt.timedelta(hours=2))
    panel.press("interval", "400")
    assert panel.health()["next_poll"] is None
    assert endpoint.count == 1
    since = panel.press("refresh")
    panel.shows(since, requests_last_hour=1, polling=False, fresh=True)
    endpoint.wait_for_requests(2)
    panel.clock.sleep(dt.timedelta(hours=1))
    since = panel.press("polling", "ON")
    panel.shows(since, status="ok", polling=True, requests_last_hour=1)
    endpoint.wait_for_requests(3)


def test_commands_survive_a_restart(serve: Serve, watcher: Watcher, endpoint: Endpoint) -> None:
    """An interval and a switch that were set in Home Assistant are still set after an update of the container."""
    with serve():
        watcher.wait_topic(HEALTH, is_ok)
        watcher.publish(command("interval"), "900")
        watcher.publish(command("polling"), "OFF")
        watcher.wait_topic(HEALTH, lambda m: m.json()["status"] == "paused" and m.json()["poll_interval"] == 900)
    since = watcher.mark()
    with serve():
        watcher.wait_topic(STATUS, is_online, since=since)
        watcher.settle()
        health = watcher.json(HEALTH)
    assert (health["poll_interval"], health["polling"], health["status"]) == (900, False, "paused")
    assert endpoint.count == 1


def test_a_retained_command_is_not_obeyed(proxy: FaultyProxy, serve: Serve, watcher: Watcher) -> None:
    """An `OFF` that somebody retained by mistake is not obeyed at each start and reconnect."""
    watcher.publish(command("polling"), "OFF", retain=True)
    with serve(port=proxy.port):
        watcher.wait_topic(HEALTH, is_ok)
        mark = watcher.mark()
        proxy.drop()
        watcher.wait_topic(STATUS, is_online, since=mark)
        watcher.publish(command("interval"), "900")
        health = watcher.wait_topic(HEALTH, lambda m: m.json()["poll_interval"] == 900).json()
        assert health["polling"] is True


def test_the_status_line_alone_has_nothing_to_refresh(serve: Serve, watcher: Watcher, endpoint: Endpoint) -> None:
    """If no request is ever made, the button says so."""
    with serve(selected=(STATUSLINE,)):
        watcher.wait_topic(STATUS, is_online)
        watcher.publish(command("refresh"), "")
        shown = watcher.wait_topic(HEALTH, lambda m: m.json()["detail"])
    assert "status line" in shown.json()["detail"]
    assert endpoint.count == 0
