"""The status line: one line, at once, whatever the broker does; and numbers that are checked before use."""

import json
import math
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.cli.statusline import countdown, line
from claude_usage_mqtt.cli.statusline_cache import MAX_SESSIONS, PendingReading, cache_folder, note_session
from claude_usage_mqtt.cli.statusline_publish import is_new, take_in
from claude_usage_mqtt.sources.rate_limits import MAX_MESSAGE, OLDEST, Limit, Mark, StatusLineMessage, parse_limits
from claude_usage_mqtt.sources.status_line import parse_statusline
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.reading import ExtraUsage, Reading
from parts.broker import Broker, Mosquitto, needs_mosquitto
from parts.hostile import PAYLOADS
from parts.net import LOOPBACK
from parts.process import LoggedProcess
from parts.readings import make_account, shown, take
from parts.waiting import eventually
from parts.watcher import Watcher

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
RESET = NOW + timedelta(hours=2, minutes=11)
TOPIC = "claude-usage/default/statusline"
HUNG = 30.0
"""Seconds that are exceeded only if something hangs."""


def limits(five_hour: float = 42.0, seven_day: float = 19.0, *, now: datetime = NOW, left: float = 7865) -> Any:
    """Return Claude Code's object."""
    return {
        "session_id": "x",
        "rate_limits": {
            "five_hour": {"used_percentage": five_hour, "resets_at": int(now.timestamp() + left)},
            "seven_day": {"used_percentage": seven_day, "resets_at": int(now.timestamp() + 3 * 86400)},
        },
    }


def sections(document: Any, now: datetime = NOW) -> dict[str, Limit]:
    """Return the sections of Claude Code's object as the command reads them."""
    return parse_limits(document["rate_limits"], now, now)


def handed_over(document: Any, at: datetime = NOW, *, is_response: bool | None = False) -> StatusLineMessage:
    """Return what the command hands over for Claude Code's object."""
    return StatusLineMessage(at, sections(document, at), is_response=is_response)


def read(document: Any, at: datetime = NOW, *, is_response: bool | None = False) -> Reading:
    """Return what the service reads, a moment later, of Claude Code's object."""
    found = parse_statusline(handed_over(document, at, is_response=is_response).encode(), at + timedelta(minutes=1))
    assert found is not None
    return found


def message(at: datetime = NOW, **windows: Any) -> bytes:
    """Return a message with these windows."""
    return json.dumps({"at": at.timestamp(), "rate_limits": windows}).encode()


class Program:
    """The command, with its own environment and folder."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
        self.cache = folder / ".cache" / "claude-usage-mqtt"
        self.stamp = self.cache / "statusline-default.json"
        self.lock = self.cache / "statusline-default.lock"
        self.folder = folder

    def command(self, *arguments: str) -> list[str]:
        """Return its command line."""
        return [sys.executable, "-m", "claude_usage_mqtt", "statusline", *arguments]

    def run(self, document: Any, *arguments: str, **environment: str) -> str:
        """Pass it a document, or bytes, and return its line; it must print nothing else and not fail."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        ran = subprocess.run(
            self.command(*arguments),
            input=data,
            capture_output=True,
            cwd=self.folder,
            env={**self.environment, **environment},
            timeout=HUNG,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, b"")
        return ran.stdout.decode()

    def run_on_terminal(self, data: bytes, stream: str, **environment: str) -> tuple[bytes | None, str]:
        """Pass it bytes while one of its streams is a terminal; return what it printed elsewhere, and there."""
        ours, its = pty.openpty()
        try:
            ran = subprocess.run(
                self.command(),
                input=data,
                env={**self.environment, **environment},
                timeout=HUNG,
                check=True,
                **{"stdout": subprocess.PIPE, stream: its},
            )
            os.close(its)
            return ran.stdout, os.read(ours, 1000).decode()
        finally:
            os.close(ours)

    def use(self, port: int, **more: str) -> None:
        """Let it publish its numbers to a broker."""
        self.environment |= {"MQTT_HOST": LOOPBACK, "MQTT_PORT": str(port), **more}

    def rest(self) -> None:
        """Return when no process of it is running."""
        eventually(lambda: not self.lock.exists())


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Return a program that leaves nothing behind."""
    made = Program(tmp_path)
    yield made
    made.rest()


# -- what Claude Code says, and what a message says


def test_both_forms_of_a_reset_are_read() -> None:
    """Seconds and ISO text mean the same reset, and a missing window does not affect the other."""
    text = {"rate_limits": {"five_hour": {"used_percentage": 23.5, "resets_at": RESET.isoformat()}, "seven_day": None}}
    found = read(text)
    assert found.seven_day is None
    assert found.five_hour is not None
    assert (found.five_hour.utilization, found.five_hour.resets_at) == (23.5, RESET)
    assert (found.five_hour.source, found.five_hour.read_at) == ("statusline", NOW)
    assert read(limits(left=7860)).windows["five_hour"].resets_at == RESET


@pytest.mark.parametrize(("said", "known"), [(100, 104), (99, 99), (106, 106)])
def test_a_hundred_percent_means_at_least_that(said: float, known: float) -> None:
    """Claude Code cuts the percentage off at 100, so it never lowers a number that the API gave; a lower one does."""
    account = make_account()
    take(account, read(limits(104.0)), (75,))
    later = NOW + timedelta(minutes=2)
    take(account, read(limits(said), later, is_response=True), (75,))
    assert shown(account, later)["utilization"] == known


@pytest.mark.parametrize(
    "section",
    [
        *({"used_percentage": percent} for percent in (-1, 1e9, "42", True, None, math.nan, math.inf, [42])),
        *({"used_percentage": 42, "resets_at": reset} for reset in ("soon", -1, 1e300, True)),
        {"used_percentage": 42, "resets_at": NOW.timestamp()},  # that window is over
        {"used_percentage": 42, "resets_at": NOW.timestamp() + 7 * 3600},  # no such window lasts that long
        *({}, [], "42", None),
    ],
)
def test_a_malformed_window_is_not_a_window(section: object) -> None:
    """Nonsense in one window never becomes a number, and the other one is still read."""
    other = {"used_percentage": 19, "resets_at": None}
    found = parse_statusline(message(five_hour=section, seven_day=other), NOW)
    assert found is not None
    assert list(found.windows) == ["seven_day"]
    assert parse_statusline(message(five_hour=section), NOW) is None


@pytest.mark.parametrize(
    "payload",
    [
        *PAYLOADS,
        b"[" * 4000,
        b'{"at": 1}',
        b'{"at":' + b"9" * 4000,
        b'{"at": 1e999, "rate_limits": {}}',
        b'{"at": NaN, "rate_limits": {}}',
        message(NOW + timedelta(seconds=61), five_hour={"used_percentage": 1}),
        message(NOW - OLDEST - timedelta(seconds=1), five_hour={"used_percentage": 1}),
        message(five_hour={"used_percentage": 1}) + b" " * MAX_MESSAGE,
    ],
)
def test_what_is_not_a_message_is_ignored(payload: bytes) -> None:
    """Garbage, the future, the past and what is far too long change nothing and crash nothing."""
    assert parse_statusline(payload, NOW) is None


def test_a_replay_changes_nothing() -> None:
    """A repeated or older message undoes no number and makes nothing fresh."""
    account = make_account()
    first, second = read(limits(40)), read(limits(41), NOW + timedelta(minutes=5))
    take(account, first, partial=True)
    take(account, second, partial=True)
    before = state_document(account, NOW)
    for replay in (first, second):
        assert take(account, replay, partial=True) == []
    assert state_document(account, NOW) == before


@pytest.mark.parametrize(
    ("given", "published"),
    [
        # Terminals that were open before the command was set up: together, their old numbers
        # neither make a refill nor refute one.
        ([(62, True), (45, False), (47, False), (44, False), (63, True)], [62, 62, 62, 62, 63]),
        ([(62, True), (15, True), (17, False), (62, False), (16, True)], [62, 62, 62, 62, 16]),
        # An old number and a single near-zero response confirm nothing either.
        ([(62, True), (45, False), (0, True), (63, True)], [62, 62, 62, 63]),
        # Without a session's id it is unclear what is new: two lower numbers are believed.
        ([(60, None), (2, None), (8, None)], [60, 60, 8]),
    ],
)
def test_what_a_terminal_shows_first_decides_nothing(
    given: list[tuple[int, bool | None]], published: list[float]
) -> None:
    """Only a new response confirms or refutes an unlikely number."""
    account, found = make_account(timedelta(hours=1)), []
    for minute, (utilization, is_response) in enumerate(given):
        at = NOW + timedelta(minutes=minute)
        take(account, read(limits(utilization), at, is_response=is_response), partial=True)
        found.append(shown(account, at)["utilization"])
    assert found == published


# -- the line


def test_the_line_is_compact() -> None:
    """The line has both windows, the time to the session's reset, and the organization's spend limit, if any."""
    assert line(sections(limits()), NOW, in_color=False) == "5h 42% ↻ 2h11m · 7d 19%"
    assert line(sections(limits(99.7, 100)), NOW, in_color=False) == "5h 99% ↻ 2h11m · 7d 100%"
    assert line(sections(limits(80, 95)), NOW, in_color=True) == "5h \x1b[33m80%\x1b[0m ↻ 2h11m · 7d \x1b[31m95%\x1b[0m"
    spend = {"used_percentage": 130, "resets_at": NOW.timestamp() + 5e5, "used_usd": 65.0, "limit_usd": 50.0}
    found = sections(limits()) | parse_limits({"spend_limit": spend}, NOW, NOW)
    assert line(found, NOW, in_color=False) == "5h 42% ↻ 2h11m · 7d 19% · spend 130% ($65 of $50)"


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "<1m"), (60, "1m"), (3599, "59m"), (3600, "1h00m"), (17999, "4h59m"), (-5, "<1m")]
)
def test_the_countdown_is_short(seconds: int, text: str) -> None:
    """The time left is shown in hours and minutes, and never below zero."""
    assert countdown(timedelta(seconds=seconds)) == text


def test_a_spend_limit_is_published(program: Program, running_broker: Broker, watcher: Watcher) -> None:
    """It is the account's extra usage as soon as a response has it; an old session's amount is not believed."""
    program.use(running_broker.port)
    now = datetime.now(UTC)
    account = make_account()
    for session, duration, dollars in (("a", 1, 60), ("a", 2, 65), ("b", 1, 30)):
        spend = {"used_percentage": 2 * dollars, "used_usd": dollars, "limit_usd": 50}
        spend["resets_at"] = int(now.timestamp()) + 10**6
        mark = {"session_id": session, "cost": {"total_api_duration_ms": duration}}
        program.run({"rate_limits": {"spend_limit": spend}} | mark)
        program.rest()
    watcher.wait_topic(TOPIC, lambda m: "65" in m.payload)
    watcher.settle()
    for message in watcher.messages(TOPIC):
        reading = parse_statusline(message.payload.encode(), now)
        if reading is not None:
            account.update(reading, now)
    document = state_document(account, now)
    assert document["windows"] == {}
    assert document["blocked"] is None  # what other limits look like is not known
    extra = document["extra_usage"]
    assert (extra["used"], extra["limit"], extra["utilization"], extra["currency"]) == (65, 50, 130, "USD")


def test_the_api_knows_the_money_better() -> None:
    """While complete responses come, a status line's spend limit changes neither amounts nor currency."""
    account = make_account(stale_after=timedelta(hours=1))
    euros = ExtraUsage(enabled=True, used=5.0, limit=20.0, utilization=25.0, currency="EUR")
    dollars = ExtraUsage(enabled=True, used=65.0, limit=50.0, utilization=130.0, currency="USD")
    account.update(Reading(read_at=NOW, windows={}, extra_usage=euros), NOW)
    for minutes, currency in ((1, "EUR"), (61, "USD")):
        at = NOW + timedelta(minutes=minutes)
        account.update(Reading(read_at=at, windows={}, extra_usage=dollars, is_partial=True), at)
        assert account.currency == currency


def test_ascii_only(program: Program) -> None:
    """If the encoding allows nothing else, the line is plain ASCII."""
    document = limits(80, 95, now=datetime.now(UTC))
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    assert program.run(document, NO_COLOR="1") == "5h 80% ↻ 2h11m · 7d 95%\n"
    assert program.run(document, **ascii_only) == "5h 80% reset 2h11m | 7d 95%\n"


COLORS = [
    ({"TERM": "xterm"}, True),
    ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ({"TERM": "xterm", "NO_COLOR": ""}, True),
    ({"TERM": "dumb"}, False),
]


@pytest.mark.parametrize(("environment", "has_colors"), [*COLORS, ({}, True)])
def test_colors_inside_claude_code(program: Program, environment: dict[str, str], has_colors: bool) -> None:  # noqa: FBT001
    """Claude Code's pipe is not a terminal, but it renders colors: high numbers have one, unless NO_COLOR is set."""
    shown = program.run(limits(80, 95, now=datetime.now(UTC)), **environment)
    expected = "5h \x1b[33m80%\x1b[0m ↻ 2h11m · 7d \x1b[31m95%\x1b[0m\n"
    assert shown == (expected if has_colors else "5h 80% ↻ 2h11m · 7d 95%\n")


@pytest.mark.parametrize(("environment", "has_colors"), COLORS)
def test_colors_on_a_terminal(program: Program, environment: dict[str, str], has_colors: bool) -> None:  # noqa: FBT001
    """On a terminal high numbers are colored, unless NO_COLOR or the terminal forbids it."""
    data = json.dumps(limits(95, now=datetime.now(UTC))).encode()
    _, shown = program.run_on_terminal(data, "stdout", **environment)
    assert "95%" in shown
    assert ("\x1b[31m95%\x1b[0m" in shown) == has_colors


@pytest.mark.parametrize("rubbish", [b"", b"{", b"\xff", b"[" * 100_000, b"null", b'{"rate_limits": 3}'])
def test_rubbish_never_shows_a_traceback(program: Program, rubbish: bytes) -> None:
    """A status line has no room for an error: at most it says that it knows nothing."""
    program.use(9)
    assert program.run(rubbish) == "5h – · 7d –\n"  # noqa: RUF001
    assert not program.cache.exists()


@pytest.mark.parametrize("rubbish", [b"hello", b"{}"])
def test_a_terminal_shows_what_is_missing(program: Program, rubbish: bytes) -> None:
    """On a terminal it says why it prints so little; Claude Code, which reads pipes, gets the line alone."""
    printed, said = program.run_on_terminal(rubbish, "stderr")
    assert printed == "5h – · 7d –\n".encode()  # noqa: RUF001
    assert "no usable rate_limits" in said
    assert "statusline --help" in said


def test_the_help_has_an_input_to_try(program: Program) -> None:
    """The command that `statusline --help` shows prints a line, with nothing else set."""
    shown = subprocess.run(program.command("--help"), capture_output=True, text=True, check=True)
    example = shown.stdout.splitlines()[-1].replace("claude-usage-mqtt", f"{sys.executable} -m claude_usage_mqtt")
    ran = subprocess.run(example, shell=True, env=program.environment, capture_output=True, text=True, check=True)  # noqa: S602
    assert (ran.stdout, ran.stderr) == ("5h 42%\n", "")


def test_a_closed_pipe_is_not_an_error(program: Program) -> None:
    """If Claude Code no longer reads the line, the command ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        program.command(),
        input=json.dumps(limits(now=datetime.now(UTC))).encode(),
        stdout=writer,
        stderr=subprocess.PIPE,
        env=program.environment,
        timeout=HUNG,
        check=False,
    )
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_without_a_broker_it_only_prints(program: Program, closed_port: int) -> None:
    """If MQTT_HOST is not set, or no file can be kept, no process is started; one that found no broker is gone."""
    document = limits(now=datetime.now(UTC))
    assert program.run(document).startswith("5h 42%")
    assert not program.cache.exists()
    program.use(closed_port)
    program.cache.parent.write_text("no folder")
    assert program.run(document).startswith("5h 42%")
    program.cache.parent.unlink()
    assert program.run(document).startswith("5h 42%")
    assert program.cache.exists()


def test_the_line_needs_little(program: Program) -> None:
    """Nothing that is slow to import is imported before the line is printed."""
    code = (
        "import sys\nfrom claude_usage_mqtt.cli import main\nmain(['statusline'])\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], input=b"{}", capture_output=True, env=program.environment, check=True
    )
    loaded = set(ran.stdout.decode().splitlines()[-1].split())
    slow = {"pydantic", "pydantic_settings", "paho", "httpx", "rich", "argparse", "logging", "subprocess", "asyncio"}
    assert loaded & slow == set()


# -- handing over


def test_the_numbers_reach_the_broker_once(program: Program, running_broker: Broker, watcher: Watcher) -> None:
    """What the line shows is on the broker, and the same numbers are not sent again at the next line."""
    program.use(running_broker.port)
    document = limits(now=datetime.now(UTC))
    program.run(document)
    came = watcher.wait_topic(TOPIC)
    assert not came.retain
    found = parse_statusline(came.payload.encode(), datetime.now(UTC))
    assert found is not None
    assert {window.key: window.utilization for window in found} == {"five_hour": 42, "seven_day": 19}
    program.rest()
    shown = program.stamp.read_bytes()
    program.run(document)
    assert not program.lock.exists()
    assert program.stamp.read_bytes() == shown
    document["rate_limits"]["five_hour"]["used_percentage"] = 43
    program.run(document)
    watcher.wait_topic(TOPIC, lambda m: "43" in m.payload)
    program.rest()
    watcher.settle()
    assert len(watcher.messages(TOPIC)) == 2


def test_the_folder_somebody_works_in_is_not_read(program: Program, running_broker: Broker, watcher: Watcher) -> None:
    """A project's own `.env` neither redirects the numbers nor stops them."""
    program.use(running_broker.port)
    (program.folder / ".env").write_text("LOG_LEVEL=chatty\nMQTT_TLS=true\n")
    (program.folder / "json.py").write_text("raise SystemExit(9)\n")
    program.environment["PYTHONSAFEPATH"] = "1"  # as the installed command has it
    program.run(limits(now=datetime.now(UTC)))
    watcher.wait_topic(TOPIC)


@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 10_000])
def test_a_broken_file_is_replaced(program: Program, running_broker: Broker, content: bytes) -> None:
    """Garbage in the file with the last numbers counts as no file."""
    program.use(running_broker.port)
    program.cache.mkdir(parents=True)
    program.stamp.write_bytes(content)
    program.run(limits(now=datetime.now(UTC)))
    assert parse_statusline(program.stamp.read_bytes(), datetime.now(UTC)) is not None


@needs_mosquitto
def test_a_frozen_broker_delays_nothing(program: Program, mosquitto: Mosquitto) -> None:
    """While the broker hangs every line comes at once; one process waits for it, and sends the newest numbers."""
    now = datetime.now(UTC)
    program.use(mosquitto.port)
    with Watcher(mosquitto.port) as watcher:
        mosquitto.freeze()
        for percent in (41, 42, 43, 44, 45):
            assert program.run(limits(percent, now=now)).startswith(f"5h {percent}%")
        assert program.lock.exists()
        mosquitto.thaw()
        watcher.wait_topic(TOPIC, lambda m: '"used_percentage": 45' in m.payload)
        program.rest()
        watcher.settle()
        assert len(watcher.messages(TOPIC)) <= 2


@needs_mosquitto
def test_what_was_refused_is_sent_later(program: Program) -> None:
    """The line does not show a refusal; the numbers arrive with the next line after a minute, with their own time."""
    now = datetime.now(UTC)
    with (
        Mosquitto(users={"me": "right"}) as mosquitto,
        Watcher(mosquitto.port, username="me", password="right") as watcher,
    ):
        program.use(mosquitto.port, MQTT_USERNAME="me", MQTT_PASSWORD="wrong")
        assert program.run(limits(now=now)).startswith("5h 42%")
        mosquitto.log.wait_for("not authorised")
        program.rest()
        message = program.stamp.read_text()
        program.environment["MQTT_PASSWORD"] = "right"
        make_older(program.stamp, 60)
        program.run(limits(now=now))
        assert watcher.wait_topic(TOPIC).payload == message


def ends_by_itself(folder: Path, code: str, **settings: str) -> None:
    """Run the process that hands over, with half a second to live; it ends by itself, and not by a crash."""
    ran = subprocess.run(
        [sys.executable, "-c", f"from claude_usage_mqtt.cli.statusline_publish import main; {code}"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "MQTT_HOST": LOOPBACK, **settings},
        capture_output=True,
        timeout=HUNG,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, b"", b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_the_process_ends_whatever_it_hangs_in(tmp_path: Path) -> None:
    """A password file that never answers leaves no process behind, and other busy threads crash nothing."""
    os.mkfifo(tmp_path / "password")
    now = datetime.now(UTC)
    (tmp_path / "statusline-default.json").write_bytes(handed_over(limits(now=now), now).encode())
    busy = "import threading; spin = lambda n: n and spin(n - 1)\n"
    busy += "def work():\n  while True: spin(50)\n"
    busy += "for _ in range(3): threading.Thread(target=work, daemon=True).start()\n"
    for more in ("", busy):
        settings = {"MQTT_USERNAME": "me", "MQTT_PASSWORD_FILE": str(tmp_path / "password")}
        ends_by_itself(tmp_path, f"{more}main('default', 0.5)", **settings)


def test_the_process_ends_although_a_thread_does_not(tmp_path: Path) -> None:
    """Threads that the connection to the broker leaves running do not keep the process alive after the work."""
    ends_by_itself(
        tmp_path,
        "import threading, time; threading.Thread(target=time.sleep, args=[600]).start(); main('default', 0.5)",
    )


@pytest.mark.parametrize(
    ("new", "is_response", "age", "expected"),
    [
        (limits(), False, 999.0, False),  # another session with the same numbers says nothing new
        (limits(), True, 999.0, True),  # a response confirms them
        (limits(), True, 59.0, False),
        (limits(43), False, 1.0, True),
        (limits(42, 20), False, 1.0, True),
        (limits(41), False, 999.0, False),  # another session's older response
        (limits(41), True, 1.0, True),
        (limits(43, 2), False, 1.0, True),
        (limits(1, left=7865 + 2 * 3600), False, 1.0, True),  # the next window
        (limits(60, left=7865 - 3600), False, 1.0, False),  # the window before
        (limits(left=7865 + 2), False, 1.0, False),  # the reset jitters
    ],
)
def test_what_is_new(new: Any, is_response: bool, age: float, expected: bool) -> None:  # noqa: FBT001
    """Only new numbers, or a response that confirms them, are sent; several open sessions do not cause a storm."""
    known = handed_over(limits(now=NOW - timedelta(minutes=1), left=7865 + 60), NOW - timedelta(minutes=1))
    assert is_new(handed_over(new, is_response=is_response), known, age) is expected
    assert is_new(handed_over(new, is_response=is_response), None, age)
    assert not is_new(handed_over(limits(43), NOW - timedelta(minutes=2), is_response=True), known, 999)


def make_older(file: Path, seconds: float) -> None:
    """Let a file look as if it had been written earlier."""
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


@pytest.mark.parametrize(("is_taken", "wait"), [(False, 60), (True, 300)])
def test_a_message_is_repeated_as_it_was(tmp_path: Path, is_taken: bool, wait: float) -> None:  # noqa: FBT001
    """It is sent again after a minute if the broker did not take it, after five if it did, with the same time."""
    pending, mark = PendingReading("default", tmp_path), Mark(limits())
    assert take_in(pending, mark, sections(limits()), NOW)
    message = pending.read()
    if is_taken:
        pending.note_sent(message)
    file = tmp_path / "statusline-default.json"
    for _ in range(2):
        make_older(file, wait - 5)
        assert not take_in(pending, mark, sections(limits()), NOW + timedelta(minutes=1))
        make_older(file, 6)
        assert take_in(pending, mark, sections(limits()), NOW + timedelta(minutes=1))
        assert pending.read() == message


def seen(folder: Path, minutes: float, percent: float = 42, **mark: Any) -> tuple[float, bool]:
    """Let a session show a percentage; return the minute of the reading, and whether a response is certain."""
    now = NOW + timedelta(minutes=minutes)
    document = {"session_id": "a"} | mark
    if "ms" in mark:
        document["cost"] = {"total_api_duration_ms": mark["ms"]}
    read_at, is_response = note_session(folder, Mark(document), sections(limits(percent)), now)
    return (read_at - NOW) / timedelta(minutes=1), is_response


SHOWN: dict[str, list[tuple[float, float, dict[str, Any], tuple[float, bool | None]]]] = {
    "a rerun is as old as the response that had its numbers": [
        (0, 42, {"ms": 10, "prompt_id": "p"}, (0, False)),
        (9, 42, {"ms": 10, "prompt_id": "p"}, (0, False)),
        (10, 42, {"ms": 10, "prompt_id": "q"}, (0, False)),  # sent, and not answered yet
        (11, 42, {"ms": 20, "prompt_id": "q"}, (11, True)),
        (12, 42, {"ms": 20, "prompt_id": "q"}, (11, False)),
        (13, 41, {"ms": 20, "prompt_id": "q"}, (13, True)),
    ],
    "a rerun is not a response, whatever other sessions showed in between": [
        (0, 58, {"ms": 10}, (0, False)),
        (1, 54, {"ms": 99, "session_id": "b"}, (1, False)),
        (2, 58, {"ms": 10}, (0, False)),
        (3, 54, {"ms": 99, "session_id": "b"}, (1, False)),
    ],
    "after /clear the last numbers come under another session id, as old as before": [
        (0, 47, {"ms": 222}, (0, False)),
        (1, 50, {"ms": 9, "session_id": "other"}, (1, False)),
        (50, 47, {"ms": 0, "session_id": "cleared"}, (0, False)),
        (51, 47, {"ms": 0, "session_id": "cleared"}, (0, False)),
        (52, 47, {"ms": 21, "session_id": "cleared"}, (52, True)),
        (53, 47, {"ms": 0, "session_id": "cleared again"}, (52, False)),
    ],
    "several sessions without an id may take turns: a lower number proves no response": [
        (0, 58, {"session_id": None, "ms": 1}, (0, None)),
        (1, 54, {"session_id": None, "ms": 2}, (1, None)),
    ],
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_when_numbers_were_read(tmp_path: Path, shown: list[Any]) -> None:
    """Claude Code repeats old numbers every minute, in each session: their age is that of their response."""
    for minute, percent, mark, expected in shown:
        assert seen(tmp_path, minute, percent, **mark) == expected


def test_a_session_known_before_its_first_response(tmp_path: Path) -> None:
    """Claude Code runs the command before the first response too: then the first numbers are certainly new."""
    note_session(tmp_path, Mark({"session_id": "a"}), {}, NOW)
    assert seen(tmp_path, 1, ms=10) == (1, True)


def test_numbers_that_nobody_takes_are_not_sent(tmp_path: Path) -> None:
    """A terminal that sits idle for more than an hour starts no more processes, however often it is asked."""
    pending, mark = PendingReading("default", tmp_path), Mark(limits())
    started = []
    for minute in range(120):
        if take_in(pending, mark, sections(limits()), NOW + timedelta(minutes=minute)):
            started.append(minute)
        make_older(tmp_path / "statusline-default.json", 60)
    assert started[0] == 0
    assert started[-1] in range(55, 61)


def test_few_sessions_are_remembered(tmp_path: Path) -> None:
    """However many sessions there were, and whatever they are called, the cache stays small."""
    for number in range(MAX_SESSIONS + 20):
        note_session(tmp_path, Mark({"session_id": f"../{number}" * 9}), sections(limits()), NOW)
    files = list(tmp_path.iterdir())
    assert len(files) == MAX_SESSIONS
    assert sum(file.stat().st_size for file in files) < 100_000
    assert list(tmp_path.parent.glob("session*")) == []


def test_a_refill_reaches_the_broker(program: Program, running_broker: Broker, watcher: Watcher) -> None:
    """A lower number from a new response is sent, one from an older session is not."""
    program.use(running_broker.port)
    now = datetime.now(UTC)
    for percent, session, duration in ((60, "a", 1), (54, "b", 1), (60, "a", 1), (54, "b", 1), (50, "a", 2)):
        program.run(limits(percent, now=now) | {"session_id": session, "cost": {"total_api_duration_ms": duration}})
        program.rest()
    watcher.wait_topic(TOPIC, lambda m: "50.0" in m.payload)
    sent = [message.json() for message in watcher.messages(TOPIC)]
    assert [message["rate_limits"]["five_hour"]["used_percentage"] for message in sent] == [60, 50]
    assert [message["response"] for message in sent] == [False, True]


# -- another status line next to ours


def test_another_command_shows_its_line(program: Program, running_broker: Broker, watcher: Watcher) -> None:
    """With --then the user's own command gets the same input and its lines are shown; the numbers arrive too."""
    program.use(running_broker.port)
    document = limits(now=datetime.now(UTC))
    shown = program.run(document, "--account", "My Work", "--then", "echo mine; cat")
    watcher.wait_topic("claude-usage/my_work/statusline")
    assert shown == "mine\n" + json.dumps(document)
    program.lock = program.cache / "statusline-my_work.lock"


def test_another_command_gets_what_we_do_not_understand(program: Program) -> None:
    """Whatever Claude Code sends, the user's command gets it; one that reads nothing is not an error."""
    assert program.run(b"\xff{", "--then", "cat | wc -c | tr -d ' '") == "2\n"
    assert program.run(b" " * 900_000, "--then", "echo mine") == "mine\n"


def test_another_command_ends_with_us(program: Program, tmp_path: Path) -> None:
    """Claude Code ends a status line that is still running: nothing that it started stays behind."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = program.command("--then", f"echo started; sleep 60 > {fifo}; true")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with LoggedProcess(command, env=program.environment, **pipes) as process:
        process.process.stdin.write("{}")
        process.process.stdin.close()
        with fifo.open("rb") as held:
            assert process.process.stdout.readline() == "started\n"
            assert process.stop() == 143
            assert held.read() == b""  # ends only when the last writer has ended


def test_one_at_a_time(tmp_path: Path) -> None:
    """Of two lines at once, one starts a process; a lock left by one that was killed does not last forever."""
    pending = PendingReading("default", tmp_path)
    assert pending.claim()
    assert not PendingReading("default", tmp_path).claim()
    long_ago = time.time() - 3600
    os.utime(tmp_path / "statusline-default.lock", (long_ago, long_ago))
    assert pending.claim()
    pending.release()
    assert pending.claim()


def test_a_lock_of_just_now_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that claims it after we saw no lock keeps it."""
    pending, look = PendingReading("default", tmp_path), Path.stat

    def look_too_early(path: Path, **more: bool) -> os.stat_result:
        try:
            return look(path, **more)
        except FileNotFoundError:
            path.touch()
            raise

    monkeypatch.setattr(Path, "stat", look_too_early)
    assert not pending.claim()


def test_a_message_that_is_repeated_does_not_replace_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session may hand over its numbers while we decide that the last ones are due again."""
    pending, newer = PendingReading("default", tmp_path), b"newer"
    take_in(pending, Mark({}), parse_limits(limits(42)["rate_limits"], NOW, NOW), NOW)
    long_ago = time.time() - 3600
    os.utime(tmp_path / "statusline-default.json", (long_ago, long_ago))
    monkeypatch.setattr(PendingReading, "is_sent", lambda it, _message: it.write(newer))
    take_in(pending, Mark({}), parse_limits(limits(42)["rate_limits"], NOW, NOW), NOW)
    assert pending.read() == newer


def test_where_the_file_is() -> None:
    """The file is where each system keeps such files."""
    assert cache_folder({"XDG_CACHE_HOME": "/x"}, "linux") == Path("/x/claude-usage-mqtt")
    assert cache_folder({"XDG_CACHE_HOME": "not/absolute"}, "linux").parts[-2:] == (".cache", "claude-usage-mqtt")
    assert cache_folder({"LOCALAPPDATA": "/l"}, "win32") == Path("/l/claude-usage-mqtt")
