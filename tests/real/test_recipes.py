"""What users copy, loaded into the real programs: it does what it promises."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from claude_usage_mqtt.recipes import RECIPES
from parts.broker import Mosquitto
from parts.credentials import write_credentials
from parts.documents import make_extra_usage, make_window, plans, sample_usage
from parts.endpoint import Endpoint
from parts.net import LOOPBACK
from parts.service import CONFIG, HEALTH, STATUS, Serve, ServiceProcess, Start, is_ok, is_online
from parts.watcher import Watcher
from real.home import HomeAssistant, StepClock, run_script

RAN = "tests/ran"
HELPER = "input_boolean.hold_jobs"
EVENT = "event.claude_session_event"


class Session:
    """A simulated account whose session the test uses up."""

    def __init__(self, clock: StepClock, endpoint: Endpoint, watcher: Watcher) -> None:
        self.clock = clock
        self.ends = self.clock.now() + dt.timedelta(hours=5)
        self.week_ends: dt.datetime | None = None
        self.money = 1234.0
        self._endpoint = endpoint
        self._watcher = watcher
        self.use(0)

    def use(self, utilization: float) -> None:
        """Let the next answer say this."""
        self._endpoint.document = sample_usage(
            now=self.clock.now(),
            five_hour=make_window(utilization, self.ends),
            seven_day_resets_at=self.week_ends or self.ends + dt.timedelta(days=2),
            scoped={"Fable": 31},
            extra_usage=make_extra_usage(self.money, 5000, "EUR"),
        )

    def later(self, utilization: float, **span: float) -> None:
        """Let time pass, until the answer that says this is published."""
        mark = self._watcher.mark()
        self.clock.advance(**span)
        while self.clock.now() >= self.ends:
            self.ends += dt.timedelta(hours=5)
        asked_at = self.clock.now().replace(microsecond=0)
        self.use(utilization)
        self._watcher.wait_topic(
            HEALTH, lambda message: dt.datetime.fromisoformat(message.json()["last_success"]) >= asked_at, since=mark
        )


@pytest.fixture
def watcher(mosquitto: Mosquitto) -> Iterator[Watcher]:
    """Watch the broker, and leave it clean."""
    with Watcher(mosquitto.port) as watching:
        yield watching
        for topic in watching.retained():
            watching.publish(topic, "", retain=True)


@pytest.fixture
def session(watcher: Watcher, serve: Serve, clock: StepClock, endpoint: Endpoint) -> Iterator[Session]:
    """Run the service for a simulated account."""
    made = Session(clock, endpoint, watcher)
    with serve():
        watcher.wait_topic(STATUS, is_online)
        watcher.wait_topic(HEALTH, is_ok)
        yield made


@pytest.fixture(scope="module")
def _helper(the_home: HomeAssistant) -> None:
    """Create the toggle helper in Home Assistant that a user would create."""
    with (the_home.folder / "configuration.yaml").open("a", encoding="utf-8") as configuration:
        configuration.write("input_boolean:\n  hold_jobs:\n")
    the_home.restart()


def from_blueprint(home: HomeAssistant, name: str, **inputs: Any) -> None:
    """Import a blueprint as a user does, and make an automation of it."""
    path = f"claude_usage/{name}.yaml"
    text = RECIPES[f"blueprint-{name}"].text()
    home.ask("blueprint/save", domain="automation", path=path, yaml=text, allow_override=True)
    assert "error" not in home.ask("blueprint/list", domain="automation")[path]
    config = {"alias": name, "use_blueprint": {"path": path, "input": inputs}}
    home.rest("POST", f"/api/config/automation/config/{name}", config)
    home.wait_for(**{f"automation__{name.replace('-', '_')}": "on"})


def publishing(text: str) -> list[dict[str, Any]]:
    """Return an action that notifies the watcher."""
    return [{"action": "mqtt.publish", "data": {"topic": RAN, "payload": text}}]


def ran(watcher: Watcher, count: int) -> list[str]:
    """Return what the actions sent, once there are this many; there must be no more."""
    if count:
        watcher.wait_topic(RAN, lambda _: len(watcher.messages(RAN)) >= count)
    watcher.settle()
    return [message.payload for message in watcher.messages(RAN)]


def everything_is_read(home: HomeAssistant, watcher: Watcher) -> None:
    """Return when Home Assistant has read all that was published before."""
    mark = watcher.mark()
    home.call("mqtt.publish", topic="tests/here", payload="x", qos=1)
    watcher.wait_topic("tests/here", since=mark)
    watcher.settle()


def test_blueprints_notify_once_of_a_threshold_and_of_the_reset(
    home: HomeAssistant, mosquitto: Mosquitto, watcher: Watcher, session: Session
) -> None:
    """They notify at the threshold, at the limit, and when work can continue; a restart does not notify again."""
    home.wait_for(sensor__claude_session_usage="0.0")
    message = publishing("{{ title }} | {{ message }}")
    from_blueprint(home, "threshold", window_event=EVENT, threshold=90, actions=message)
    from_blueprint(home, "reset", window_event=EVENT, nearly=80)
    session.later(35, minutes=30)
    session.later(60, minutes=30)
    assert ran(watcher, 0) == []
    session.later(95, minutes=30)  # over 75 and over 90: one jump
    first = ran(watcher, 1)
    assert first[0].startswith("Claude Session: 95 % used (over 90 %) | It resets ")
    session.later(100, minutes=30)
    ran(watcher, 2)
    for event in watcher.messages("claude-usage/default/event/five_hour"):
        watcher.publish(event.topic, event.payload)  # as if Home Assistant could have missed it
    everything_is_read(home, watcher)
    assert len(ran(watcher, 2)) == 2
    home.restart()
    home.wait_for(sensor__claude_session_usage="100.0", automation__threshold="on", automation__reset="on")
    mark = watcher.mark()
    mosquitto.restart()  # to Home Assistant, the entity becomes unavailable and comes back
    home.wait_for(sensor__claude_session_usage="unavailable", event__claude_session_event="unavailable")
    watcher.wait_topic(STATUS, is_online, since=mark)
    home.wait_for(timeout=60, sensor__claude_session_usage="100.0")
    home.wait(lambda states: states[EVENT]["attributes"].get("earlier_ids"))
    sent = ran(watcher, 2)
    assert len(sent) == 2
    assert sent[1].startswith("Claude Session: limit reached | It resets ")
    assert home.ask("persistent_notification/get") == []
    session.later(3, hours=4)
    home.wait(lambda states: states[EVENT]["attributes"]["event_type"] == "reset")
    session.later(10, hours=5)  # hardly used: resets without a notification
    home.wait(lambda states: states[EVENT]["attributes"]["previous_utilization"] == 3)
    (notification,) = home.ask("persistent_notification/get")
    assert notification["title"] == "Claude Session has reset"
    assert notification["message"] == "100 % had been used; now you can continue."
    assert ran(watcher, 2) == sent
    watcher.publish(CONFIG, "", retain=True)  # they are there while their entity is removed, and keep working
    home.wait(lambda states: EVENT not in states)
    for name in ("threshold", "reset"):
        home.rest("DELETE", f"/api/config/automation/config/{name}")


@pytest.mark.usefixtures("_helper")
def test_blueprint_holds_jobs_back_while_over_pace(home: HomeAssistant, watcher: Watcher, session: Session) -> None:
    """The helper is on while a window is over pace, stays on over restarts, and acts once on each change."""
    sensors = ["binary_sensor.claude_session_on_pace", "binary_sensor.claude_weekly_on_pace"]
    home.wait_for(binary_sensor__claude_weekly_on_pace="on")
    from_blueprint(
        home,
        "hold",
        on_pace=sensors,
        hold=HELPER,
        patience={"seconds": 0},
        hold_actions=publishing("hold"),
        release_actions=publishing("continue"),
    )
    session.later(15, minutes=60)
    home.wait_for(binary_sensor__claude_session_on_pace="on")
    session.later(52, minutes=45)
    home.wait_for(input_boolean__hold_jobs="on")
    assert ran(watcher, 1) == ["hold"]
    home.restart()
    home.wait_for(binary_sensor__claude_session_on_pace="off", input_boolean__hold_jobs="on")
    session.later(53, minutes=150)
    home.wait_for(input_boolean__hold_jobs="off")
    assert ran(watcher, 2) == ["hold", "continue"]
    session.later(84, minutes=10)
    session.later(100, minutes=10)  # used up
    home.wait_for(input_boolean__hold_jobs="on")
    session.later(0, minutes=60)  # the session resets
    home.wait_for(input_boolean__hold_jobs="off")
    assert ran(watcher, 4) == ["hold", "continue"] * 2
    home.rest("DELETE", "/api/config/automation/config/hold")


def test_blueprint_reminds_once_before_the_reset(home: HomeAssistant, watcher: Watcher, session: Session) -> None:
    """A day before the weekly reset it says how much is left, if that is much."""
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=1, minutes=1)
    ends = soon.replace(second=0, microsecond=0)
    session.week_ends = ends
    session.later(0, minutes=6)
    home.wait_for(sensor__claude_weekly_resets_at=ends.isoformat(timespec="seconds"))
    from_blueprint(home, "reminder", left=40, actions=publishing("{{ title }} | {{ message }}"))
    watcher.wait_topic(RAN, timeout=70)
    (sent,) = ran(watcher, 1)
    assert sent.startswith("Claude Weekly: 83 % left | It resets ")
    home.rest("DELETE", "/api/config/automation/config/reminder")


def test_blueprint_notifies_of_paid_usage_once(home: HomeAssistant, watcher: Watcher, session: Session) -> None:
    """When work begins to cost money there is one notification, with the amount; and one for a jump to its limit."""
    home.wait_for(sensor__claude_extra_usage_used="12.34", event__claude_account_event="unknown")
    from_blueprint(home, "extra-usage", actions=publishing("{{ title }} | {{ message }}"))
    for used in (35, 70, 100):
        session.later(used, minutes=30)
    (sent,) = ran(watcher, 1)
    assert sent == "Claude now costs money | Spent this month: 12.34 EUR."
    event = watcher.last("claude-usage/default/event/account")
    watcher.publish(event.topic, event.payload)
    assert ran(watcher, 1) == [sent]
    home.wait_for(binary_sensor__claude_extra_usage_active="on", binary_sensor__claude_blocked="off")
    session.money = 5000.0
    session.later(100, minutes=30)
    home.wait_for(binary_sensor__claude_blocked="on")
    assert ran(watcher, 2)[1:] == ["Claude: the limit of extra usage is reached | Spent this month: 50.00 EUR."]
    home.rest("DELETE", "/api/config/automation/config/extra-usage")


def test_blueprint_notifies_before_the_login_ends(
    home: HomeAssistant, watcher: Watcher, tmp_path: Path, session: Session
) -> None:
    """Three days before the end it says once when that is, however often the service polls until then."""
    ends = (dt.datetime.now(dt.UTC) + dt.timedelta(days=3, minutes=1)).replace(second=0, microsecond=0)
    write_credentials(tmp_path, expires_in=dt.timedelta(days=9), refreshTokenExpiresAt=round(ends.timestamp() * 1000))
    session.later(0, minutes=6)
    home.wait_for(sensor__claude_login_expires_at=ends.isoformat(timespec="seconds"))
    from_blueprint(home, "login", actions=publishing("{{ title }} | {{ message }}"))
    session.later(1, minutes=6)
    watcher.wait_topic(RAN, timeout=70)
    session.later(2, minutes=6)
    (sent,) = ran(watcher, 1)
    assert sent.startswith("Claude: the login ends soon | It ends ")
    home.rest("DELETE", "/api/config/automation/config/login")


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(("name", "label"), [("threshold", "Window"), ("reminder", "Usage")])
def test_a_picker_lists_only_our_entities(home: HomeAssistant, watcher: Watcher, name: str, label: str) -> None:
    """Nobody has to find the account among hundreds of entities that other devices have on the same broker."""
    components = {
        "button": {"platform": "event", "unique_id": "button", "state_topic": "tests/button", "event_types": ["press"]},
        "humidity": {"platform": "sensor", "unique_id": "humidity", "state_topic": "tests/humidity"},
    }
    device = {"identifiers": ["other"], "name": "Bathroom", "manufacturer": "Somebody"}
    other = {"device": device, "origin": {"name": "tests"}, "components": components}
    watcher.publish("homeassistant/device/other/config", json.dumps(other), retain=True)
    home.wait(lambda states: any("bathroom" in entity_id for entity_id in states))
    home.wait_for(sensor__claude_session_usage="0.0")
    from_blueprint(home, name)
    offered = look("picker.js", f"/config/automation/edit/{name}", label)["offered"]
    assert {device for _, device in offered} == {"Claude"}
    assert "Weekly" in str(offered)
    home.rest("DELETE", f"/api/config/automation/config/{name}")


@pytest.mark.usefixtures("session")
def test_dashboard_shows_the_account_without_an_error(home: HomeAssistant, tmp_path: Path, scripts: Path) -> None:
    """Every card finds its entity, and the numbers are there."""
    home.wait_for(sensor__claude_weekly_fable_usage="31.0", sensor__claude_extra_usage_used="12.34")
    shown = dashboard(scripts, tmp_path)
    assert shown["gauges"] == 2
    assert shown["graphs"] == 2
    assert len(shown["tiles"]) == 8
    assert any("12.34" in tile for tile in shown["tiles"])
    answer, models, events = shown["markdown"]
    assert "You can work now Weekly is closest to its limit: 17 % used, resets " in answer
    assert "As of " in answer
    assert "Fable 31 % " in models
    assert events.startswith("Events ")


@pytest.mark.usefixtures("watcher")
def test_dashboard_says_why_there_are_no_numbers(
    home: HomeAssistant, serve: Serve, clock: StepClock, endpoint: Endpoint, tmp_path: Path, scripts: Path
) -> None:
    """While the numbers are gone the first card says what to do, or that the service is gone; no card fails."""
    write_credentials(tmp_path, expires_in=dt.timedelta(hours=1))
    endpoint.document = sample_usage()
    with serve():
        home.wait_for(sensor__claude_session_usage="42.0")
        clock.advance(minutes=59)
        home.wait_for(sensor__claude_status="Token expired")
        clock.advance(minutes=62)
        home.wait_for(sensor__claude_session_usage="unavailable", sensor__claude_status="Token expired")
        answer, _ = dashboard(scripts, tmp_path)["markdown"]
        assert answer.startswith("The usage is not known The access token expired at ")
    home.wait_for(sensor__claude_status="unavailable")
    answer, events = dashboard(scripts, tmp_path)["markdown"]
    assert answer == "The usage is not known There is no reading yet, or the service is not running."
    assert events == "Events Not known while the service is not running."


@pytest.mark.usefixtures("watcher")
def test_dashboard_of_a_seat_with_nothing_but_a_budget(
    home: HomeAssistant, serve: Serve, clock: StepClock, endpoint: Endpoint, tmp_path: Path, scripts: Path
) -> None:
    """An account without any window is not one whose service is away: its first card says what was spent.

    Amounts in another currency are other entities, which the dashboard does not name: nothing fails for that.
    """
    endpoint.document = dict(plans())["enterprise"]
    with serve():
        home.wait_for(sensor__claude_extra_usage_used="4500.0")
        answer, _ = dashboard(scripts, tmp_path)["markdown"]
        assert answer == "Only extra usage is reported 4500.00 EUR spent this month."
        endpoint.document = sample_usage(five_hour=100, extra_usage=make_extra_usage(1234.0, 5000, "USD"))
        clock.advance(minutes=6)
        home.wait_for(sensor__claude_extra_usage_used_usd="12.34", binary_sensor__claude_extra_usage_active="on")
        shown = dashboard(scripts, tmp_path)
    assert not [tile for tile in shown["tiles"] if "xtra usage" in tile or "limit" in tile]
    assert "Paid extra usage is active As of" in shown["markdown"][0]


def test_dashboard_of_an_account_that_is_not_polled(
    home: HomeAssistant, mosquitto: Mosquitto, watcher: Watcher, tmp_path: Path, scripts: Path
) -> None:
    """With the status line alone there is no refresh, no plan and no money: no card misses its entity."""
    now = dt.datetime.now(dt.UTC)
    limits = {"five_hour": {"used_percentage": 23.5, "resets_at": int(now.timestamp()) + 7200}}
    with ServiceProcess(tmp_path, MQTT_PORT=mosquitto.port, CLAUDE_SOURCE="statusline"):
        watcher.wait_topic(STATUS, is_online)
        sent = json.dumps({"at": now.timestamp(), "rate_limits": limits})
        watcher.publish("claude-usage/default/statusline", sent)
        home.wait_for(sensor__claude_session_usage="23.5", sensor__claude_tightest="23.5")
        shown = dashboard(scripts, tmp_path)
    assert not [tile for tile in shown["tiles"] if "Refresh" in tile]
    assert "You can work now" in shown["markdown"][0] or "The usage is not known" in shown["markdown"][0]


def dashboard(scripts: Path, folder: Path) -> Any:
    """Load the dashboard as a user does, and return what its cards show; none may complain."""
    file = folder / "dashboard.json"
    file.write_text(json.dumps(yaml.safe_load(RECIPES["dashboard"].text())), encoding="utf-8")
    said = run_script(scripts, "screenshot.sh", "dashboard", str(file), str(folder / "dashboard.png"))
    assert "page errors" not in said
    shown = look("cards.js", "/lovelace-verify/0")
    assert shown["complaints"] == []
    return shown


def look(program: str, *arguments: str) -> Any:
    """Open a page of Home Assistant, and return what one of the programs next to this file finds there."""
    command = ["node", str(Path(__file__).with_name(program)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["errors"] == []
    return found


@pytest.fixture
def node_red(scripts: Path, mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Return what starts Node-RED with our flow; its outputs, where users put their own nodes, publish to `tests/…`."""
    flow = json.loads(RECIPES["nodered"].text())
    for node in flow:
        if node["type"] == "mqtt-broker":
            node |= {"broker": LOOPBACK, "port": str(mosquitto.port)}
        elif node["type"] == "debug":
            topic = f"tests/{node['id'].removeprefix('claude-usage-')}"
            node |= {"type": "mqtt out", "topic": topic, "qos": "1", "retain": "", "broker": "claude-usage-broker"}
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(flow), encoding="utf-8")

    def start() -> None:
        shutil.rmtree(real_root() / "nr4" / "user", ignore_errors=True)
        run_script(scripts, "nodered.sh", "start", "4", str(free_port()))
        run_script(scripts, "nodered.sh", "flow", str(file))

    yield start
    run_script(scripts, "nodered.sh", "stop")


def test_node_red_flow_branches_on_pace_and_acts_on_a_reset(
    watcher: Watcher, node_red: Callable[[], None], session: Session
) -> None:
    """Each change of the pace comes out once, a stale number never, and a reset after much use is reported."""
    session.later(10, minutes=60)
    node_red()
    watcher.wait_topic("tests/on-pace")
    session.later(45, minutes=30)
    watcher.wait_topic("tests/over-pace")
    session.later(46, minutes=30)
    session.later(47, minutes=120)
    watcher.wait_topic("tests/on-pace", since=watcher.last("tests/over-pace").order)
    session.later(85, minutes=30)
    watcher.wait_topic("tests/threshold")
    for event in watcher.messages("claude-usage/default/event/#"):
        watcher.publish(event.topic, event.payload)  # delivered again
    session.later(5, minutes=60)
    shown = watcher.wait_topic("tests/was-reset")
    session.later(6, minutes=300)
    watcher.settle()
    assert shown.payload == "Session has reset; 85 % had been used."
    outputs = [message for message in watcher.messages("tests/#") if message.topic != RAN]
    counts = Counter(message.topic for message in outputs)
    assert (counts["tests/was-reset"], counts["tests/threshold"], counts["tests/is-free"]) == (1, 1, 1)
    assert watcher.last("tests/threshold").payload == "Session: 85 % used (over 75 %)."
    turns = [message for message in outputs if message.topic.endswith("pace")]
    session_turns = [message.topic for message in turns if message.json()["label"] == "Session"]
    assert session_turns[:3] == ["tests/on-pace", "tests/over-pace", "tests/on-pace"]
    assert all(one != other for one, other in itertools.pairwise(session_turns))
    assert [message.topic for message in turns if message.json()["label"] == "Weekly"] == ["tests/on-pace"]


def test_node_red_flow_reports_a_jump_to_the_limit_once(
    watcher: Watcher, node_red: Callable[[], None], session: Session
) -> None:
    """A jump past the thresholds and the limit is one message; what it costs then is in words."""
    session.later(35, minutes=30)
    session.later(70, minutes=30)
    node_red()
    watcher.wait_topic("tests/is-free")
    session.later(100, minutes=30)
    watcher.wait_topic("tests/limit")
    session.money = 3900.0
    session.later(100, minutes=30)
    watcher.wait_topic("tests/account", lambda _: len(watcher.messages("tests/account")) >= 2)
    watcher.settle()
    assert watcher.messages("tests/threshold") == []
    assert [message.payload for message in watcher.messages("tests/limit")] == ["Session: the limit is reached."]
    assert [message.payload for message in watcher.messages("tests/account")] == [
        "Claude: extra usage started.",
        "Claude: extra usage threshold reached (75 %).",
    ]


def test_an_event_is_notified_of_once_whatever_was_down(
    home: HomeAssistant,
    mosquitto: Mosquitto,
    start: Start,
    endpoint: Endpoint,
    watcher: Watcher,
    node_red: Callable[[], None],
) -> None:
    """Broker, service and Home Assistant are away in turn when a threshold is passed; blueprint and flow notify once.

    In real time: the service waits 15 s for those who listen.
    """
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    settings = {"POLL_INTERVAL": 1, "ALERT_THRESHOLDS": "50,70,90"}

    def use(percent: float) -> None:
        endpoint.document = sample_usage(five_hour=percent, resets_at=ends, seven_day=20, scoped={})

    def asked() -> None:
        endpoint.wait_for_requests(endpoint.count + 2)

    def notified(count: int) -> None:
        for topic in (RAN, "tests/threshold"):
            watcher.wait_topic(topic, lambda _, topic=topic: len(watcher.messages(topic)) >= count, 60)  # type: ignore[misc]

    use(40)
    with start(**settings) as service:
        home.wait_for(sensor__claude_session_usage="40.0")
        from_blueprint(home, "threshold", window_event=EVENT, threshold=50, actions=publishing("{{ threshold }}"))
        node_red()
        watcher.wait_topic("tests/is-free")
        mosquitto.stop()
        use(60)
        asked()
        mosquitto.start()
        watcher.wait_connected()
        notified(1)
        service.stop(signal.SIGKILL)
    use(80)
    with start(**settings):
        notified(2)
        home.stop()
        use(95)
        watcher.wait_topic("tests/threshold", lambda _: len(watcher.messages("tests/threshold")) >= 3)
        home.start()
        notified(3)
        home.restart()  # once more: what was delivered is not delivered again, or is ignored
        home.wait_for(sensor__claude_session_usage="95.0", automation__threshold="on")
        everything_is_read(home, watcher)
    assert [message.payload for message in watcher.messages(RAN)] == ["50.0", "70.0", "90.0"]
    home.rest("DELETE", "/api/config/automation/config/threshold")
    texts = [message.payload for message in watcher.messages("tests/threshold")]
    assert [text.partition("over ")[2] for text in texts] == ["50 %).", "70 %).", "90 %)."]


def test_a_reset_while_home_assistant_is_away_is_notified_of_once(
    home: HomeAssistant, start: Start, endpoint: Endpoint, watcher: Watcher, node_red: Callable[[], None]
) -> None:
    """The flow reports it at once, the blueprint after Home Assistant's start, and neither at its next one."""
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    endpoint.document = sample_usage(five_hour=95, resets_at=soon, seven_day=20, scoped={})
    with start(POLL_INTERVAL=1):
        home.wait_for(sensor__claude_session_usage="95.0")
        from_blueprint(home, "reset", window_event=EVENT, nearly=80, actions=publishing("{{ title }}"))
        node_red()
        watcher.wait_topic("tests/is-free")
        home.stop()
        later = soon + dt.timedelta(hours=5)
        endpoint.document = sample_usage(five_hour=0, resets_at=later, seven_day=20, scoped={})
        watcher.wait_topic("tests/was-reset")
        assert watcher.messages(RAN) == []
        home.start()
        watcher.wait_topic(RAN, timeout=60)
        home.restart()
        home.wait_for(sensor__claude_session_usage="0.0", automation__reset="on")
        everything_is_read(home, watcher)
    assert [message.payload for message in watcher.messages(RAN)] == ["Claude Session has reset early"]
    assert len(watcher.messages("tests/was-reset")) == 1
    home.rest("DELETE", "/api/config/automation/config/reset")


def test_esphome_takes_the_display(tmp_path: Path) -> None:
    """ESPHome accepts the display's configuration."""
    program = os.environ.get("ESPHOME") or shutil.which("esphome")
    if program is None:
        pytest.skip("NOT VALIDATED: esphome is not on the PATH, nor does ESPHOME name one")
    fonts = sorted(Path("/usr/share/fonts").rglob("*.ttf"))
    if not fonts:
        pytest.skip("NOT VALIDATED: no font is installed, and the one of the recipe is on the internet")
    file = tmp_path / "display.yaml"
    file.write_text(RECIPES["esphome"].text().replace("gfonts://Roboto", str(fonts[0])), encoding="utf-8")
    done = subprocess.run([program, "config", str(file)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def real_root() -> Path:
    """Return the folder that the scripts install into."""
    return Path(os.environ.get("HA_ROOT") or Path(os.environ.get("TMPDIR", "/tmp")) / "real-parts")  # noqa: S108


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        return int(holder.getsockname()[1])
