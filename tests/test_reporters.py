"""A service without a login, on a real broker, with the reporters of one and several machines."""

import datetime as dt
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.sources import reporter as source
from claude_usage_mqtt.sources import reporter_machines
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.credentials.watch import LoginWatch
from claude_usage_mqtt.topics import ReporterTopics
from claude_usage_mqtt.usage.reading import OAUTH, REPORTER
from parts.broker import Broker, Mosquitto, needs_mosquitto
from parts.credentials import write_credentials
from parts.documents import sample_usage
from parts.endpoint import Endpoint
from parts.hostile import PAYLOADS
from parts.reporter import LAPTOP, ask, is_online, running_reporter
from parts.service import (
    BASE,
    HEALTH,
    STATE,
    STATUS,
    Clock,
    Running,
    Serve,
    ServiceProcess,
    command,
    has_status,
    is_ok,
    running_service,
    session_is,
)
from parts.waiting import eventually
from parts.watcher import Watcher

CANARY = "sk-ant-oat01-canary-7d1f"
DESKTOP = ReporterTopics(base=BASE, machine="desktop")


def login(folder: Path, *, token: str = CANARY, **more: Any) -> Path:
    """Write a login and return its folder."""
    return write_credentials(folder, token, **more).parent


def machines(health: Any) -> dict[str, str]:
    """Return the statuses of the machines in a health document."""
    return {each["machine"]: each["status"] for each in health["reporters"]}


@contextmanager
def household(
    broker: Broker,
    endpoint: Endpoint,
    folder: Path,
    interval: float = 0.2,
    accounts: tuple[str, ...] = ("default",),
    **more: Any,
) -> Iterator[tuple[Running, Callable[..., Running]]]:
    """Run a service that has no login, and return a function that starts a reporter with one."""
    none = {account: CredentialsFile(folder / "nothing") for account in accounts}
    with ExitStack() as stack:
        service = stack.enter_context(
            running_service(broker.port, "http://127.0.0.1:1", none, selected=(REPORTER,), interval=interval, **more)
        )

        def report(machine: str, folders: Any = None, *, api: Endpoint = endpoint, **settings: Any) -> Running:
            folders = folders or login(folder / machine)
            return stack.enter_context(
                running_reporter(broker.port, api.url, folders, machine=machine, clock=service.clock, **settings)
            )

        yield service, report


House = Callable[..., AbstractContextManager[tuple[Running, Callable[..., Running]]]]


@pytest.fixture
def house(running_broker: Broker, endpoint: Endpoint, tmp_path: Path) -> House:
    """Return what runs such a service with this test's broker and endpoint."""
    return partial(household, running_broker, endpoint, tmp_path)


def test_numbers_come_from_another_machine(house: House, tmp_path: Path, watcher: Watcher) -> None:
    """The login stays on the laptop; state and health show the numbers, their origin, and which machines are there."""
    with house() as (_, report):
        health = watcher.wait_topic(HEALTH, has_status("no_reporter")).json()
        assert "claude-usage-mqtt report" in health["detail"]
        (tmp_path / "new").mkdir()
        new = report("new", tmp_path / "new")
        watcher.wait_topic(HEALTH, lambda each: "new (not logged in, last seen" in (each.json()["detail"] or ""))
        report("laptop")
        state = watcher.wait_topic(STATE, session_is(42)).json()
        health = watcher.wait_topic(HEALTH, is_ok).json()
        new.stop()
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"laptop": "ok", "new": "away"})
    window = state["windows"]["five_hour"]
    assert (window["source"], window["machine"]) == ("reporter", "laptop")
    assert (health["detail"], health["fresh"]) == (None, True)
    assert machines(health) == {"laptop": "ok", "new": "no_credentials"}
    assert health["token_expires_at"]
    everything = "".join(message.payload for message in watcher.messages())
    assert "sk-ant" not in everything
    assert str(tmp_path) not in everything


@needs_mosquitto
def test_a_machine_that_sleeps_and_wakes_up(tmp_path: Path, endpoint: Endpoint) -> None:
    """While the lid is closed the numbers stay and the status says why; once it is open the machine is asked."""
    with (
        Mosquitto() as mosquitto,
        Watcher(mosquitto.port) as watcher,
        household(mosquitto, endpoint, tmp_path, 600.0) as (service, _report),
    ):
        settings = {"MQTT_PORT": mosquitto.port, "CLAUDE_API_URL": endpoint.url, "MACHINE_NAME": "laptop"}
        with ServiceProcess(login(tmp_path / "laptop"), ("report",), **settings) as process:
            watcher.wait_topic(HEALTH, is_ok)
            process.process.send_signal(signal.SIGSTOP)
            service.clock.sleep(dt.timedelta(seconds=5))
            killed_at = service.clock.now()
            process.process.send_signal(signal.SIGKILL)
            watcher.wait_topic(LAPTOP.presence, lambda each: each.payload and not is_online(each))
            mark = watcher.mark()
            watcher.publish(command("refresh"), "")
            health = watcher.wait_topic(HEALTH, has_status("no_reporter"), since=mark).json()
            assert "laptop (away, last seen" in health["detail"]
            assert machines(health) == {"laptop": "away"}
            seen_at = dt.datetime.fromisoformat(health["reporters"][0]["seen_at"])
            assert seen_at < killed_at - dt.timedelta(seconds=2)  # the last will is the broker's sign of life
            assert health["fresh"]
            assert watcher.json(STATE)["windows"]["five_hour"]["utilization"] == 42
        endpoint.document = sample_usage(five_hour=43.0)
        with ServiceProcess(tmp_path / "laptop", ("report",), **settings):
            watcher.wait_topic(STATE, session_is(43), since=mark)
            watcher.wait_topic(HEALTH, is_ok, since=mark)


def test_a_silent_machine_is_left_for_another(house: House, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not answer costs one poll a few seconds; then the next machine is asked, without an error."""
    monkeypatch.setattr(source, "ANSWER_WITHIN", 0.5)
    with house() as (_, report):
        presence = {"online": True, "accounts": {"default": {"source": "oauth", "status": "ok", "usable": True}}}
        watcher.publish(LAPTOP.presence, json.dumps(presence), retain=True)
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"laptop": "silent"})
        health = watcher.wait_topic(HEALTH, has_status("no_reporter")).json()
        assert "laptop (does not answer" in health["detail"]
        report("work")
        watcher.wait_topic(STATE, session_is(42))
        health = watcher.wait_topic(HEALTH, is_ok).json()
    assert machines(health) == {"laptop": "silent", "work": "ok"}


def test_the_machine_that_answered_last_is_asked_first(
    house: House, tmp_path: Path, watcher: Watcher, endpoint: Endpoint
) -> None:
    """Two machines with the login make no more requests than one; if one goes, the other quietly takes over."""
    with house() as (_, report), Endpoint() as other:
        laptop = report("laptop")
        endpoint.wait_for_requests(2)
        report("desktop", login(tmp_path / "desktop", token="sk-ant-oat01-desktop"), api=other)
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"desktop": "ok", "laptop": "ok"})
        endpoint.wait_for_requests(endpoint.count + 3)
        assert other.count == 0
        mark = watcher.mark()
        laptop.stop()
        other.wait_for_requests(2)
        watcher.settle()
        statuses = {message.json()["status"] for message in watcher.messages(HEALTH, since=mark)}
    assert statuses == {"ok"}


def test_a_login_of_somebody_else_is_rejected(house: House, tmp_path: Path, watcher: Watcher) -> None:
    """A machine where somebody else is logged in does not change the numbers, and is named."""
    with house() as (service, report), Endpoint(sample_usage(five_hour=99.0)) as other:
        laptop = report("laptop")
        watcher.wait_topic(STATE, session_is(42))
        report("desktop", login(tmp_path / "desktop", organization="77777777"), api=other)
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()).get("desktop") == "other_account")
        mark = watcher.mark()
        laptop.stop()
        health = watcher.wait_topic(HEALTH, has_status("no_reporter"), since=mark).json()
        assert "desktop (logged in with another account" in health["detail"]
        service.log.wait_for("desktop")
        assert other.count == 0
    assert not [each for each in watcher.messages(STATE) if session_is(99)(each)]


def test_a_login_that_changes_between_announcement_and_answer_is_rejected(
    house: House, tmp_path: Path, watcher: Watcher, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login that made the request decides, not the one that was announced."""
    monkeypatch.setattr(LoginWatch, "look_now", lambda _: None)  # so that no announcement comes before the next ask
    with house() as (service, report):
        report("laptop")
        watcher.wait_topic(STATE, session_is(42))
        mark = watcher.mark()
        login(tmp_path / "laptop", organization="77777777")
        endpoint.document = sample_usage(five_hour=99.0)
        watcher.wait_topic(HEALTH, has_status("no_reporter"), since=mark)
        service.log.wait_for("the reading of laptop is rejected")
    numbers = [each.json()["windows"]["five_hour"]["utilization"] for each in watcher.messages(STATE)]
    assert 99 not in numbers


def test_all_machines_with_another_login_replace_it_after_a_while(
    house: House, tmp_path: Path, watcher: Watcher, endpoint: Endpoint
) -> None:
    """After all machines have logged in to another account, its numbers are shown ten minutes later."""
    with house(60.0, clock=Clock(speed=600)) as (_, report):
        report("laptop")
        watcher.wait_topic(STATE, session_is(42))
        endpoint.document = sample_usage(five_hour=3.0)
        mark = watcher.mark()
        login(tmp_path / "laptop", organization="77777777")
        watcher.wait_topic(HEALTH, has_status("no_reporter"), since=mark)
        watcher.wait_topic(STATE, session_is(3))
    assert not watcher.messages("claude-usage/default/event/#")


def test_one_reporter_for_two_accounts(house: House, tmp_path: Path, watcher: Watcher, endpoint: Endpoint) -> None:
    """A machine with two logins reports both, each for its own account."""
    endpoint.document = lambda request: sample_usage(five_hour=10.0 if request.bearer.endswith("one") else 20.0)
    with house(accounts=("home", "work")) as (_, report):
        folders = {
            "home": login(tmp_path / "one", token="sk-ant-oat01-one"),
            "work": login(tmp_path / "two", token="sk-ant-oat01-two", organization="77777777"),
        }
        report("laptop", folders)
        watcher.wait_topic(f"{BASE}/home/state", session_is(10))
        watcher.wait_topic("claude-usage/work/state", session_is(20))


def test_a_machine_whose_accounts_have_other_names_is_named(house: House, tmp_path: Path, watcher: Watcher) -> None:
    """If accounts have names at one end only, the status says that, and not that there is no reporter."""
    with house() as (_, report):
        report("laptop", {"work": login(tmp_path / "laptop")})
        wanted = "The reporter on laptop has none of this service's accounts (default)"
        watcher.wait_topic(HEALTH, lambda each: wanted in (each.json()["detail"] or ""))


@needs_mosquitto
def test_a_lost_connection_is_not_the_machines_fault(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker is away the log says so, and not that no machine can be asked."""
    with (
        Mosquitto() as mosquitto,
        Watcher(mosquitto.port) as watcher,
        household(mosquitto, endpoint, tmp_path) as (service, report),
    ):
        report("laptop")
        watcher.wait_topic(HEALTH, is_ok)
        mosquitto.kill()
        service.log.wait_for("was lost")
        polls: list[Any] = []
        finish = AccountState.finish_poll
        monkeypatch.setattr(AccountState, "finish_poll", lambda *about: polls.append(about) or finish(*about))
        eventually(lambda: len(polls) > 3)
        assert "No machine can be asked" not in service.log.text


def test_a_login_that_becomes_usable_is_used(
    house: House, tmp_path: Path, watcher: Watcher, endpoint: Endpoint
) -> None:
    """An expired token is the machine's status; as soon as Claude Code has renewed it, the numbers are there."""
    clock = Clock(speed=60)
    login(tmp_path / "laptop", expires_in=dt.timedelta(hours=-1), now=clock.now())
    with house(3600.0, clock=clock) as (_, report):
        report("laptop", tmp_path / "laptop")
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"laptop": "token_expired"})
        assert endpoint.count == 0
        login(tmp_path / "laptop", now=clock.now())
        watcher.wait_topic(STATE, session_is(42))


def test_what_is_wrong_there_is_shown_here(house: House, watcher: Watcher, endpoint: Endpoint) -> None:
    """A refused login, or an API that is away, is the status, with the machine's name in the sentence."""
    endpoint.tokens = set()
    with house() as (_, report):
        report("laptop")
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"laptop": "unauthorized"})
        health = watcher.wait_topic(HEALTH, lambda each: "its login was refused" in (each.json()["detail"] or ""))
        assert health.json()["status"] == "no_reporter"


def test_an_api_that_is_away_is_the_status_while_the_machines_wait(
    house: House, tmp_path: Path, running_broker: Broker, watcher: Watcher
) -> None:
    """If the network is down everywhere, the status says so, also between two attempts."""
    with house(0.2), running_reporter(running_broker.port, "http://127.0.0.1:1", login(tmp_path / "laptop")):
        watcher.wait_topic(HEALTH, has_status("network_error"))
        mark = watcher.mark()
        watcher.publish(command("refresh"), "")
        again = watcher.wait_topic(HEALTH, lambda each: each.json()["consecutive_failures"] > 1, since=mark).json()
        assert (again["status"], again["requests_last_hour"]) == ("network_error", 1)


def test_requests_that_somebody_else_asked_for_count(house: House, watcher: Watcher, endpoint: Endpoint) -> None:
    """Whoever asks a reporter, its requests use the account's login: they count toward the account's budget."""
    with house(600.0) as (_, report):
        report("laptop")
        watcher.wait_topic(HEALTH, is_ok)
        for _ in range(3):
            ask(watcher)
        watcher.wait_topic(HEALTH, lambda each: each.json()["requests_last_hour"] == 4)
    assert endpoint.count == 4


def test_a_restart_of_the_service_forgets_nobody(house: House, watcher: Watcher) -> None:
    """A sleeping machine is still listed after a restart of the service, with the time it was last seen."""
    with house() as (_, report):
        report("laptop")
        watcher.wait_topic(STATE, session_is(42))
        seen = watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"laptop": "ok"}).json()["reporters"]
    mark = watcher.mark()
    with house():
        health = watcher.wait_topic(HEALTH, has_status("no_reporter"), since=mark).json()
    assert health["reporters"][0]["seen_at"] >= seen[0]["seen_at"]
    assert "laptop (away" in health["detail"]


def test_a_machine_that_announces_itself_after_a_restart_was_never_offline(house: House, watcher: Watcher) -> None:
    """Not every broker replays to a wildcard: until the machine is seen again its entity does not flap."""
    clock = Clock()
    presence = {"online": True, "accounts": {"default": {"source": "oauth", "status": "token_expired"}}}
    with house(600.0, clock=clock):
        watcher.wait_topic(STATUS, lambda each: each.payload == "online")
        watcher.publish(DESKTOP.presence, json.dumps(presence))  # not retained: so it is not replayed
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"desktop": "token_expired"})
    clock.sleep(dt.timedelta(hours=3))
    mark = watcher.mark()
    with house(600.0, clock=clock):
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) != {}, since=mark)
        watcher.publish(DESKTOP.presence, json.dumps(presence))
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"desktop": "token_expired"}, since=mark)
    said = [machines(each.json()) for each in watcher.messages(HEALTH, since=mark)]
    assert {"desktop": "away"} in said
    assert {"desktop": "offline"} not in said


def test_a_usable_login_on_this_machine_comes_first(
    serve: Serve, tmp_path: Path, running_broker: Broker, watcher: Watcher, endpoint: Endpoint
) -> None:
    """With a login here and a reporter there, the reporter is asked only while this login cannot be used."""
    here, there = login(tmp_path / "here"), login(tmp_path / "there", token="sk-ant-oat01-there")
    clock = Clock(speed=200)
    with (
        Endpoint(sample_usage(five_hour=50.0)) as other,
        serve(here, selected=(OAUTH, REPORTER), interval=60.0, clock=clock),
        running_reporter(running_broker.port, other.url, there, clock=clock),
    ):
        watcher.wait_topic(HEALTH, lambda each: machines(each.json()) == {"laptop": "ok"})
        endpoint.wait_for_requests(3)
        assert other.count == 0
        login(here, expires_in=dt.timedelta(hours=-1), now=clock.now())
        state = watcher.wait_topic(STATE, session_is(50)).json()
        assert state["windows"]["five_hour"]["machine"] == "laptop"
        mark = watcher.mark()
        login(here, now=clock.now())
        watcher.wait_topic(STATE, session_is(42), since=mark)
        watcher.settle()
        assert {each.json()["status"] for each in watcher.messages(HEALTH)} <= {"starting", "ok"}


def test_a_refused_login_here_is_not_sent_again_while_a_machine_delivers(
    serve: Serve, tmp_path: Path, running_broker: Broker, watcher: Watcher, endpoint: Endpoint
) -> None:
    """An old login in some folder of the box does not cost a request per poll, and is not an error."""
    here, there = login(tmp_path / "here", token="sk-ant-oat01-dead"), login(tmp_path / "there")
    endpoint.tokens = {CANARY}
    with (
        serve(here, selected=(OAUTH, REPORTER), interval=0.2),
        running_reporter(running_broker.port, endpoint.url, there),
    ):
        watcher.wait_topic(HEALTH, is_ok)
        endpoint.wait_for_requests(6)
        watcher.settle()
        tokens = [request.bearer for request in endpoint.requests]
        assert watcher.last(HEALTH).json()["status"] == "ok"
    assert tokens.count("sk-ant-oat01-dead") == 1


FORGERIES = [
    b'{"online": true}',
    b'{"online": true, "accounts": {"default": {"status": "ok"}}}',
    b'{"online": true, "accounts": {"default": {"status": {"a": 1}, "organization": ["x"]}}}',
    b'{"id": "x", "account": "default", "reading": {"age": 0, "windows": {"five_hour": {"utilization": 99}}}}',
    b'{"online": true, "accounts": "' + b"z" * 200_000 + b'"}',
]


def test_nonsense_on_all_topics_changes_no_number(
    house: House, watcher: Watcher, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody who may publish can pretend to be a machine; numbers are shown only from machines that were asked."""
    monkeypatch.setattr(source, "ANSWER_WITHIN", 0.3)
    monkeypatch.setattr(reporter_machines, "MAX_MACHINES", 5)
    with house() as (service, report):
        report("laptop")
        watcher.wait_topic(STATE, session_is(42))
        topics = [LAPTOP.presence, LAPTOP.ask, LAPTOP.answer, DESKTOP.presence, DESKTOP.answer]
        strange = [f"{BASE}/reporter", f"{BASE}/reporter/../x", f"{BASE}/reporter/A b", f"{BASE}/reporter/x/y/z"]
        for payload in (*PAYLOADS, *FORGERIES):
            for topic in (*topics, *strange):
                watcher.publish(topic, payload)
        for number in range(10):
            presence = {"online": True, "accounts": {"default": {"source": "oauth", "status": "ok"}}}
            watcher.publish(f"{BASE}/reporter/m{number}", json.dumps(presence))
        mark = watcher.mark()
        endpoint.document = sample_usage(five_hour=43.0)
        watcher.wait_topic(STATE, session_is(43), since=mark)
        assert service.thread.is_alive()
        health = watcher.last(HEALTH).json()
    assert len(health["reporters"]) <= 5
    assert {"laptop"} <= {each["machine"] for each in health["reporters"]}
    shown = {each.json()["windows"]["five_hour"]["utilization"] for each in watcher.messages(STATE)}
    assert shown <= {42, 43}


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

ACL = """
user owner
topic readwrite #
user laptop
"""

ALL_RIGHTS = """
topic readwrite claude-usage/reporter/laptop
topic readwrite claude-usage/reporter/laptop/ask
topic readwrite claude-usage/reporter/laptop/answer
topic read claude-usage/reporter/+/answer
topic read claude-usage/+/health
topic read claude-usage/status
"""
"""Those that the README names."""

LEAST_RIGHTS = """
topic write claude-usage/reporter/laptop
topic write claude-usage/reporter/laptop/answer
topic read claude-usage/reporter/laptop/ask
"""


@needs_mosquitto
@pytest.mark.parametrize("rights", [ALL_RIGHTS, LEAST_RIGHTS])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_login_at_the_broker_that_may_do_little(
    tmp_path: Path, endpoint: Endpoint, rights: str, protocol: str
) -> None:
    """A stolen laptop's broker login can change nothing else there; with less than it needs, numbers still come."""
    with (
        Mosquitto(users={"owner": "o", "laptop": "l"}, acl=ACL + rights) as mosquitto,
        Watcher(mosquitto.port, username="owner", password="o") as watcher,
        household(mosquitto, endpoint, tmp_path, username="owner", password="o") as (_, report),
    ):
        reporter = report("laptop", login(tmp_path / "laptop"), username="laptop", password="l", protocol=protocol)
        watcher.wait_topic(STATE, session_is(42))
        assert rights == LEAST_RIGHTS or set(rights.split("\n")) <= {line.strip() for line in README.splitlines()}
        assert rights == LEAST_RIGHTS or not [line for line in reporter.log.lines if "refused" in line]
        reporter.stop()
        watcher.settle()
        assert LAPTOP.presence not in watcher.retained()


@needs_mosquitto
def test_a_broker_that_forgets_everything(tmp_path: Path, endpoint: Endpoint) -> None:
    """After a restart of the broker, without a saved message, machines and service find each other again."""
    with (
        Mosquitto(persistence=False) as mosquitto,
        Watcher(mosquitto.port) as watcher,
        household(mosquitto, endpoint, tmp_path) as (_, report),
    ):
        report("laptop")
        watcher.wait_topic(STATE, session_is(42))
        mosquitto.stop()
        endpoint.document = sample_usage(five_hour=44.0)
        mosquitto.start()
        watcher.wait_connected()
        watcher.wait_topic(STATUS, lambda each: each.payload == "online")
        watcher.wait_topic(STATE, session_is(44))
