"""A reporter on a real broker: it announces itself, answers valid requests within its limits, and does nothing else."""

import datetime as dt
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.reporter import announcement, loop, publishing
from claude_usage_mqtt.reporter import answer as answering
from claude_usage_mqtt.reporter.answer import MAX_WORKERS
from claude_usage_mqtt.service import liveness
from claude_usage_mqtt.sources.claude_code import ClaudeCode
from claude_usage_mqtt.sources.claude_code_cache import FILE_NAME as CACHE_NAME
from claude_usage_mqtt.sources.claude_code_cache import UsageCache
from claude_usage_mqtt.sources.credentials import watch
from parts import faults
from parts.broker import Broker, Mosquitto, needs_mosquitto
from parts.claude_code import ACCOUNT, FakeClaudeCode
from parts.command import call_command, run_command
from parts.credentials import FILE_NAME, write_credentials, write_credentials_text
from parts.documents import sample_usage
from parts.endpoint import Endpoint
from parts.hostile import PAYLOADS
from parts.reporter import LAPTOP, ask, is_online, running_reporter
from parts.service import BASE, HEALTH, STATUS, Clock, Running, ServiceProcess, Start
from parts.waiting import REASONABLE
from parts.watcher import Message, Watcher

CANARY = "sk-ant-oat01-canary-7d1f"


def make_source(program: FakeClaudeCode) -> ClaudeCode:
    """Return a Claude Code program as a source."""
    secrets = program.folder / FILE_NAME
    return ClaudeCode(
        str(program.command), {"CLAUDE_CONFIG_DIR": str(program.folder)}, UsageCache(program.cache), secrets
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with a login."""
    write_credentials(tmp_path, CANARY)
    return tmp_path


Report = Callable[..., AbstractContextManager[Running]]
"""Runs a reporter with this test's broker and endpoint, and its login or others; it is online."""


@pytest.fixture
def report(running_broker: Broker, endpoint: Endpoint, home: Path, watcher: Watcher) -> Report:
    """Return what runs a reporter."""

    @contextmanager
    def report(folders: Path | Mapping[str, Path] = home, **more: Any) -> Iterator[Running]:
        since = watcher.mark()
        with running_reporter(running_broker.port, endpoint.url, folders, **more) as running:
            watcher.wait_topic(LAPTOP.presence, is_online, since=since)
            yield running

    return report


def test_it_announces_its_login_and_nothing_secret(report: Report, watcher: Watcher, home: Path) -> None:
    """The service sees which account can be asked for and until when; a token, or any part of it, never leaves."""
    with report():
        presence = watcher.wait_topic(LAPTOP.presence, is_online).json()
        answer = ask(watcher)
    account = presence["accounts"]["default"]
    assert (account["source"], account["status"], account["usable"]) == ("oauth", "ok", True)
    assert account["organization"]
    assert account["token_expires_at"]
    assert answer["reading"]["windows"]["five_hour"]["utilization"] > 0
    assert 0 <= answer["reading"]["age"] < 10
    everything = "".join(message.payload for message in watcher.messages())
    assert CANARY not in everything
    assert "sk-ant" not in everything
    assert str(home) not in everything


def test_it_makes_no_request_unless_asked(report: Report, watcher: Watcher, endpoint: Endpoint) -> None:
    """A reporter that nobody asks costs the account nothing."""
    clock = Clock(speed=100)
    with report(clock=clock):
        clock.sleep(dt.timedelta(hours=5))
        watcher.publish(STATUS, "online", retain=True)
        watcher.settle()
    assert endpoint.requests == []


def test_the_command_ends_at_once_and_tidily(start: Start, watcher: Watcher, home: Path) -> None:
    """The command runs like the service: its log says what it does, a signal ends it with status 0, leaving nothing."""
    with start(home, "report", MACHINE_NAME="My Laptop") as process:
        watcher.wait_topic("claude-usage/reporter/my_laptop", is_online)
        process.log.wait_for("Reporting as my_laptop")
        ask(watcher, "my_laptop")
        assert run_command(home, "healthcheck").returncode == 0
        assert process.stop() == 0
        assert CANARY not in process.log.text
    watcher.settle()
    assert not [topic for topic in watcher.retained() if "reporter" in topic]


def test_the_same_id_is_answered_once(report: Report, watcher: Watcher, endpoint: Endpoint) -> None:
    """A request that arrives twice (QoS 1) is answered once."""
    with report():
        ask(watcher, id="one")
        watcher.publish(LAPTOP.ask, json.dumps({"id": "one", "account": "default"}))
        ask(watcher, id="two")
    assert len(endpoint.requests) == 2


def test_a_retained_request_is_never_answered(report: Report, watcher: Watcher, endpoint: Endpoint) -> None:
    """A request that somebody retained would be repeated at every connection; it is ignored."""
    watcher.publish(LAPTOP.ask, json.dumps({"id": "old", "account": "default"}), retain=True)
    with report():
        ask(watcher, id="new")
    assert len(endpoint.requests) == 1


def test_its_own_limit_holds_whatever_it_is_asked(report: Report, watcher: Watcher, endpoint: Endpoint) -> None:
    """Whoever asks, however often: 20 requests an hour, a minute apart, and a refusal that says how long to wait."""
    clock = Clock()
    with report(clock=clock, limited=True):
        refused = 0
        for _ in range(40):
            answer = ask(watcher)
            refused += answer.get("error", {}).get("status") == "busy"
            clock.sleep(dt.timedelta(seconds=25))  # a little at a time: more would look like a machine that slept
    assert 10 <= len(endpoint.requests) <= 20
    assert refused == 40 - len(endpoint.requests)


def test_requests_that_others_made_while_it_slept_count(report: Report, watcher: Watcher, endpoint: Endpoint) -> None:
    """A machine that was away reads in the service's retained health how many requests the others made."""
    watcher.publish(HEALTH, '{"status": "ok", "requests_last_hour": 19}', retain=True)
    with report(limited=True):
        assert ask(watcher)["error"]["status"] == "busy"
        for payload in ("", "[]", "{", '{"requests_last_hour": true}', '{"requests_last_hour": 12}'):
            watcher.publish(HEALTH, payload, retain=True)
        assert "reading" in ask(watcher)
    assert len(endpoint.requests) == 1


def test_right_after_a_restart_it_waits_if_claude_code_has_just_asked(
    running_broker: Broker, watcher: Watcher, home: Path
) -> None:
    """A reporter that is restarted over and over makes no request in the minute after one that it cannot remember."""
    program = FakeClaudeCode(home / "claude")
    program.cache.write_text(program.keeps(sample_usage(), dt.datetime.now(dt.UTC) - dt.timedelta(seconds=20)))
    # no address of an API on loopback: a reporter's own limit would not apply
    settings = {"CLAUDE_CODE_COMMAND": program.command, "CLAUDE_CONFIG_DIR": program.folder, "MACHINE_NAME": "laptop"}
    settings |= {"CLAUDE_SOURCE": "claude-code", "MQTT_PORT": running_broker.port}
    with ServiceProcess(home, ("report",), **settings):
        watcher.wait_topic(LAPTOP.presence, is_online)
        assert ask(watcher)["error"]["status"] == "busy"
    assert program.calls == []


def test_claude_code_behind_a_reporter(report: Report, watcher: Watcher, home: Path) -> None:
    """Claude Code itself can answer; old numbers that it returns are not an error, but nothing new."""
    program = FakeClaudeCode(home / "claude")
    program.answers(sample_usage(), dt.datetime.now(dt.UTC) - dt.timedelta(seconds=5))
    with report(sources={"default": make_source(program)}):
        account = watcher.wait_topic(LAPTOP.presence, is_online).json()["accounts"]["default"]
        answer = ask(watcher)
        assert answer["reading"]["windows"]["five_hour"]["utilization"] == 42
        assert answer["reading"]["age"] >= 4
        again = ask(watcher)
    assert (account["source"], account["usable"]) == ("claude_code", True)
    assert (again["error"]["status"], again["requests"]) == ("busy", 0)
    everything = "".join(message.payload for message in watcher.messages())
    assert "example.org" not in everything
    assert ACCOUNT not in everything


def test_requests_to_a_sleeping_machine_are_not_answered_when_it_wakes_up(
    report: Report, watcher: Watcher, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that waited in a buffer while the lid was closed was given up long ago: answering costs a request."""
    monkeypatch.setattr(loop, "IGNORE_FOR", 0.5)
    clock = Clock()
    with report(clock=clock):
        mark = watcher.mark()
        clock.sleep(dt.timedelta(hours=1))
        watcher.publish(LAPTOP.ask, json.dumps({"id": "stale", "account": "default"}))
        watcher.wait_topic(LAPTOP.presence, is_online, since=mark)  # it announces itself, and listens again
        ask(watcher, id="fresh")
    assert len(endpoint.requests) == 1


@needs_mosquitto
def test_a_machine_that_lost_its_connection_asleep_answers_at_once(
    endpoint: Endpoint, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service asks as soon as the machine is back; nothing old can come over the new connection."""
    monkeypatch.setattr(loop, "IGNORE_FOR", 600.0)
    clock = Clock()
    with (
        Mosquitto() as mosquitto,
        Watcher(mosquitto.port) as watcher,
        running_reporter(mosquitto.port, endpoint.url, home, clock=clock) as running,
    ):
        watcher.wait_topic(LAPTOP.presence, is_online)
        clock.sleep(dt.timedelta(hours=1))
        mosquitto.restart()
        running.log.wait_for("again")
        watcher.wait_connected()
        assert ask(watcher)["reading"]


def test_errors_come_from_the_tree(report: Report, watcher: Watcher, endpoint: Endpoint, home: Path) -> None:
    """The service shows what goes wrong on the laptop, with its sentence; unknown accounts are named."""
    with report():
        assert ask(watcher, account="work")["error"]["status"] == "no_credentials"
        write_credentials(home, CANARY, expires_in=dt.timedelta(hours=-1))
        answer = ask(watcher)
    assert answer["error"]["status"] == "token_expired"
    assert answer["requests"] == 0
    assert endpoint.requests == []


def test_a_login_that_changes_is_announced(report: Report, watcher: Watcher, home: Path) -> None:
    """A token that expires, and one that is renewed, are announced within half a minute, without being asked."""
    clock = Clock(speed=60)
    write_credentials(home, CANARY, expires_in=dt.timedelta(minutes=6), now=clock.now())
    with report(clock=clock):
        watcher.wait_topic(LAPTOP.presence, announces("default", "token_expired"))
        mark = watcher.mark()
        write_credentials(home, CANARY, now=clock.now())
        watcher.wait_topic(LAPTOP.presence, announces("default", "ok"), since=mark)


def announces(account: str, status: str) -> Callable[[Message], bool]:
    """Return whether a message is a presence in which an account has this status."""
    return lambda each: is_online(each) and each.json()["accounts"][account]["status"] == status


def test_a_login_on_a_dead_mount_delays_no_other(
    report: Report, watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other accounts are announced, answered and watched; the one that hangs is shown until it works again."""
    monkeypatch.setattr(watch, "HANGS_AFTER", 0.2)
    monkeypatch.setattr(liveness, "BEAT_EVERY", 0.2)
    clock, folders = Clock(speed=60), {name: tmp_path / name for name in ("mounted", "personal")}
    for name, folder in folders.items():
        write_credentials(folder, f"token-{name}", now=clock.now())
    mounted = folders["mounted"] / FILE_NAME
    text = mounted.read_text()
    mounted.unlink()
    os.mkfifo(mounted)  # opening it waits for a writer
    with report(folders, clock=clock) as running:
        watcher.wait_topic(LAPTOP.presence, announces("personal", "ok"))
        watcher.wait_topic(LAPTOP.presence, announces("mounted", "credentials_unreadable"))
        assert ask(watcher, account="personal")["reading"]
        write_credentials(folders["personal"], "token-personal", expires_in=dt.timedelta(hours=-1), now=clock.now())
        watcher.wait_topic(LAPTOP.presence, announces("personal", "token_expired"))
        assert sum(thread.name == "login-watch" for thread in threading.enumerate()) == 2
        mounted.rename(mounted.with_name("pipe"))
        write_credentials_text(folders["mounted"], text)
        mounted.with_name("pipe").write_text(text)  # what waits for a writer gets one
        watcher.wait_topic(LAPTOP.presence, announces("mounted", "ok"))
        assert running.log.count("Account mounted: the login cannot be checked: reading it hangs.") == 1


def test_polls_that_hang_keep_no_other_account_waiting(
    report: Report, watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many accounts on a dead mount are asked for, one that is elsewhere is answered."""
    monkeypatch.setattr(answering, "HANGS_AFTER", 0.0)
    folders = {name: tmp_path / name for name in ("personal", *(f"mounted{number}" for number in range(MAX_WORKERS)))}
    for name, folder in folders.items():
        folder.mkdir()
        os.mkfifo(folder / FILE_NAME) if name != "personal" else write_credentials(folder)
    with report(folders):
        watcher.wait_topic(LAPTOP.presence, announces("personal", "ok"))
        for name in folders:
            if name != "personal":
                watcher.publish(LAPTOP.ask, json.dumps({"id": name, "account": name}))
        assert "reading" in ask(watcher, account="personal")


def test_it_starts_and_stops_whatever_hangs(start: Start, watcher: Watcher, tmp_path: Path) -> None:
    """A dead mount with one account's login and Claude Code's own numbers delays neither the start nor the stop."""
    folders = {name: tmp_path / name for name in ("personal", "mounted")}
    write_credentials(folders["personal"])
    folders["mounted"].mkdir()
    for name in (FILE_NAME, CACHE_NAME):
        os.mkfifo(folders["mounted"] / name)
    accounts = json.dumps({name: str(folder) for name, folder in folders.items()})
    settings = {"CLAUDE_ACCOUNTS": accounts, "CLAUDE_CONFIG_DIR": "", "MACHINE_NAME": "laptop"}
    with start(tmp_path, "report", **settings) as process:
        watcher.wait_topic(LAPTOP.presence, announces("personal", "ok"))
        watcher.publish(LAPTOP.ask, '{"id": "hangs", "account": "mounted"}')
        assert ask(watcher, account="personal")["reading"]
        assert process.stop() == 0


@pytest.mark.parametrize("payload", ["", '{"online": false}', '{"online": true, "accounts": {}}', "nonsense"])
def test_it_corrects_what_others_say_of_it(report: Report, watcher: Watcher, payload: str) -> None:
    """A late will of an earlier connection, or a stranger, cannot make a running reporter look away for long."""
    with report():
        announced = watcher.wait_topic(LAPTOP.presence, is_online).payload
        mark = watcher.mark()
        watcher.publish(LAPTOP.presence, payload, retain=True)
        watcher.wait_topic(LAPTOP.presence, lambda each: each.payload == announced, since=mark)


def test_it_announces_itself_when_the_service_comes_online(report: Report, watcher: Watcher) -> None:
    """Even if the broker does not replay to wildcards, the service knows every reporter a second after its start."""
    with report():
        mark = watcher.mark()
        watcher.publish(STATUS, "online", retain=True)
        watcher.wait_topic(LAPTOP.presence, is_online, since=mark)


def test_a_second_reporter_of_the_same_name_is_refused(
    report: Report,
    running_broker: Broker,
    endpoint: Endpoint,
    watcher: Watcher,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two machines of one name would answer twice; the second ends with a message, and the first stays online."""
    with report():
        monkeypatch.setattr(publishing, "NAME_CHECK", REASONABLE)  # the first one's answer ends it
        with running_reporter(running_broker.port, endpoint.url, home) as second:
            second.thread.join(REASONABLE)
        assert isinstance(second.error, SettingsError)
        assert "MACHINE_NAME" in str(second.error)
        watcher.settle()
        assert json.loads(watcher.retained()[LAPTOP.presence])["online"] is True


@pytest.mark.parametrize("other", ["-", "z"])
def test_of_two_that_start_at_the_same_moment_one_is_refused(report: Report, watcher: Watcher, other: str) -> None:
    """Both asked for the name before either could answer: both agree on which of them ends."""
    with report() as running:
        mark = watcher.mark()
        watcher.publish(LAPTOP.presence, json.dumps({"online": True, "instance": other, "accounts": {}}), retain=True)
        if other == "z":
            running.log.wait_for("Another reporter named laptop is running")
            assert ask(watcher)["reading"]
        else:
            running.thread.join(10)
            assert "MACHINE_NAME" in str(running.error)
    watcher.settle()
    assert not [each for each in watcher.messages(LAPTOP.presence, since=mark) if not each.payload and other == "-"]


def test_the_requests_of_another_one_of_the_same_name_count(
    report: Report, watcher: Watcher, endpoint: Endpoint
) -> None:
    """Two machines of one name both answer each ask: together they still stay within the hourly limit."""
    with report(limited=True):
        for number in range(20):
            answer = {"id": str(number), "account": "default", "requests": 1, "error": {"status": "network_error"}}
            watcher.publish(LAPTOP.answer, json.dumps(answer))
        watcher.settle()
        assert "reading" not in ask(watcher)
    assert endpoint.count == 0


def test_a_reporter_that_comes_back_under_a_name_that_was_taken_says_so(
    report: Report, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the name was taken while this machine was away, it is not refused; both run, and the log says so."""
    monkeypatch.setattr(announcement, "BOTH_NEW", 0.0)
    with report() as running:
        watcher.publish(LAPTOP.presence, '{"online": true, "instance": "another", "accounts": {}}', retain=True)
        running.log.wait_for("Another reporter named laptop is running; set MACHINE_NAME")


def test_a_name_that_a_dead_process_left_is_taken(report: Report, watcher: Watcher) -> None:
    """After a power cut of broker and laptop the old presence is still retained; that does not block the name."""
    watcher.publish(LAPTOP.presence, '{"online": true, "instance": "old", "accounts": {}}', retain=True)
    mark = watcher.mark()
    with report():
        watcher.wait_topic(LAPTOP.presence, lambda each: "default" in each.payload, since=mark)


def test_remove_takes_reporters_too(running_broker: Broker, watcher: Watcher, home: Path) -> None:
    """`remove` removes everything of a reporter that was killed; one that seems to run is named."""
    watcher.publish(LAPTOP.presence, '{"online": false}', retain=True)
    watcher.publish(LAPTOP.ask, '{"id": "x", "account": "default"}', retain=True)
    watcher.publish(f"{BASE}/reporter/desktop", '{"online": true, "accounts": {}}', retain=True)
    watcher.publish(f"{BASE}/reporter/notes/mine", "somebody's", retain=True)
    ended = call_command(home, "remove", MQTT_HOST="127.0.0.1", MQTT_PORT=running_broker.port)
    assert ended.returncode == 0
    assert "A reporter still runs (claude-usage/reporter/desktop says online)" in ended.stderr
    assert watcher.retained() == {f"{BASE}/reporter/notes/mine": "somebody's"}


def test_check_lists_the_reporters(report: Report, running_broker: Broker, watcher: Watcher, home: Path) -> None:
    """`check` on the publisher's machine shows the machines and their logins, and fails if none could be asked."""
    settings = {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": running_broker.port, "CLAUDE_SOURCE": "reporter"}
    assert "reporters    -     none has announced itself" in call_command(home, "check", **settings).stdout
    watcher.publish(f"{BASE}/reporter/desktop", '{"online": false}', retain=True)
    with report():
        checked = call_command(home, "check", **settings)
    assert checked.returncode == 0
    assert "reporters    ok    desktop (offline), laptop (default oauth ok)" in checked.stdout
    logged_out = '{"online": true, "accounts": {"default": {"source": "oauth", "status": "no_credentials"}}}'
    watcher.publish(LAPTOP.presence, logged_out, retain=True)
    checked = call_command(home, "check", **settings)
    assert "reporters    -     no machine can be asked now: desktop (offline), laptop" in checked.stdout
    watcher.publish(f"{BASE}/reporter/desktop", "", retain=True)
    checked = call_command(home, "check", **settings)
    assert checked.returncode == 3
    assert "reporters    FAIL  No machine can be asked: laptop (default oauth no_credentials); log in" in checked.stdout


def test_check_says_that_the_last_request_of_a_reporter_failed(
    running_broker: Broker, watcher: Watcher, home: Path
) -> None:
    """A reporter that announces a good login and gets no answer is not ok; what a dead publisher said is not shown."""
    settings = {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": running_broker.port, "CLAUDE_SOURCE": "reporter"}
    announced = '{"online": true, "accounts": {"default": {"source": "oauth", "status": "ok", "usable": true}}}'
    watcher.publish(LAPTOP.presence, announced, retain=True)
    said = {}
    for age in (-60, 60):
        alive_until = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age)).isoformat()
        machines = [{"machine": "laptop", "status": "network_error", "seen_at": alive_until}]
        health = json.dumps({"alive_until": alive_until, "reporters": machines})
        watcher.publish(f"{BASE}/default/health", health, retain=True)
        said[age] = call_command(home, "check", **settings).stdout
    remedy = "run 'claude-usage-mqtt check' there"
    assert f"reporters    -     the last request failed: laptop (default oauth network_error); {remedy}" in said[-60]
    assert "reporters    ok    laptop (default oauth ok)" in said[60]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"MACHINE_NAME": "laptop", "CLAUDE_ACCOUNTS": '{"work": null}'}, "A reporter needs a login on this machine"),
        # The host name of a container changes with each update.
        ({"container": "oci"}, "MACHINE_NAME"),
    ],
)
def test_without_a_login_or_a_name_it_says_so(home: Path, settings: dict[str, str], said: str) -> None:
    """A reporter whose accounts are all on other machines, or in a container without a name, ends with a message."""
    ended = call_command(home, "report", MQTT_HOST="127.0.0.1", **settings)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_a_login_that_cannot_be_used_is_logged_here_too(report: Report, home: Path) -> None:
    """A reporter whose login is missing, or has ended, says so in this terminal too."""
    (home / ".credentials.json").unlink()
    clock = Clock(speed=60)
    with report(clock=clock) as reporter:
        reporter.log.wait_for("Account default: ")
        assert "log in with Claude Code" in reporter.log.text
        assert "claude-usage-mqtt report" not in reporter.log.text  # this is what runs here
        write_credentials(home, CANARY, now=clock.now())
        reporter.log.wait_for("the login can be used again")
        write_credentials(home, CANARY, expires_in=dt.timedelta(hours=-1), now=clock.now())
        reporter.log.wait_for("the login cannot be used (token_expired); start Claude Code once")
    assert CANARY not in reporter.log.text


def test_requests_that_fail_are_logged_here_too(report: Report, watcher: Watcher, endpoint: Endpoint) -> None:
    """The log of this machine says why the API gave nothing, once, and once that it works again."""
    with report() as running:
        ask(watcher)
        assert "again" not in running.log.text
        endpoint.fault = faults.unauthorized()
        for _ in range(2):
            assert ask(watcher)["error"]["status"] == "unauthorized"
        endpoint.fault = faults.server_error()
        for _ in range(2):
            assert ask(watcher)["error"]["status"] == "server_error"
        endpoint.fault = None
        for _ in range(2):
            assert ask(watcher)["reading"]
    lines = [line for line in running.log.lines if "Account default" in line]
    assert [line.split(" ")[0] for line in lines] == ["WARNING", "WARNING", "INFO"]
    assert "HTTP 401" in lines[0]
    assert "HTTP 500" in lines[1]
    assert lines[2] == "INFO Account default: the usage can be read again."
    assert CANARY not in running.log.text


ASKS = [
    b'{"id": 1, "account": "default"}',
    b'{"id": "x", "account": 7}',
    b'{"id": "x/+/#", "account": "default"}',
    b'{"id": "' + b"z" * 100_000 + b'", "account": "default"}',
    b'{"id": "w", "account": "../../etc/passwd"}',
]


def test_nonsense_on_its_topics_is_ignored(report: Report, watcher: Watcher, endpoint: Endpoint) -> None:
    """Whatever anybody sends: no request, no answer, and the next valid request is answered."""
    with report():
        for payload in (*PAYLOADS, *ASKS):
            for topic in (LAPTOP.ask, LAPTOP.answer, STATUS):
                watcher.publish(topic, payload)
        watcher.settle()
        assert endpoint.requests == []
        ask(watcher)
    assert len(endpoint.requests) == 1
