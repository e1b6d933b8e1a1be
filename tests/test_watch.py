"""The dashboard in a real terminal: fed by the broker alone, redrawn in place, narrow, and gone without a trace."""

import contextlib
import fcntl
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest

from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.usage.document import state_document
from parts.broker import Broker, Mosquitto, needs_mosquitto
from parts.command import run_command, run_python
from parts.documents import make_extra_usage, make_window, sample_usage
from parts.hostile import PAYLOADS
from parts.net import LOOPBACK
from parts.readings import make_account, take
from parts.service import BASE, HEALTH, STATE, STATUS
from parts.watcher import Watcher

pytest.importorskip("rich")
from rich.console import Console

from claude_usage_mqtt.cli.board import MAX_ACCOUNTS, Board

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
COLUMNS, ROWS = 40, 30
HUNG = 30.0
"""Seconds that are exceeded only if something hangs."""

TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"  # so that Ctrl-C works as usual
    "os.execv(sys.executable, [sys.executable, '-m', 'claude_usage_mqtt', 'watch'])"
)
CURSOR_ON, SCREEN_BACK = "\x1b[?25h", "\x1b[?1049l"


class Terminal:
    """`watch` in a terminal of 40 columns; a context manager."""

    def __init__(self, port: int, folder: Path, **settings: str) -> None:
        self._ours, its = os.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "MQTT_HOST": LOOPBACK,
            "MQTT_PORT": str(port),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL],
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            cwd=folder,
            env={**environment, **settings},
        )
        os.close(its)
        self._shown = b""
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="terminal")
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)

    @property
    def raw(self) -> str:
        """Everything that was written to the terminal."""
        return self._shown.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The lines of the last picture, without colors."""
        last = self.raw.rsplit("\x1b[H", 1)[-1]
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last).splitlines()]

    def wait(self, pattern: str) -> "re.Match[str]":
        """Wait until the picture has a line that matches, and return the match."""
        ends = time.monotonic() + HUNG
        while True:
            is_over = self._ended or time.monotonic() > ends
            for line in self.lines:
                if found := re.search(pattern, line):
                    return found
            assert not is_over, f"no {pattern!r} on the screen:\n" + "\n".join(self.lines)
            time.sleep(0.01)

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._ours, key)

    def end(self) -> int:
        """Return the exit status when it has ended and all it wrote has been read."""
        status = self.process.wait(HUNG)
        self._reader.join(HUNG)
        return status

    def _read(self) -> None:
        while not self._ended:
            data = b""
            with contextlib.suppress(OSError):
                data = os.read(self._ours, 65536)
            self._shown += data
            self._ended = not data


def state(five_hour: float = 80, *, now: datetime | None = None, **more: Any) -> str:
    """Return a state document."""
    now = now or datetime.now(UTC)
    usage = make_account()
    window = make_window(five_hour, now + timedelta(hours=2, minutes=30))
    take(usage, parse_usage(sample_usage(now=now, five_hour=window, **more), now, plan="max"))
    return json.dumps(state_document(usage, now))


def health(status: str = "ok", *, fresh: bool = True, detail: str | None = None) -> str:
    """Return a health document, as far as it is shown."""
    document = {"status": status, "fresh": fresh, "detail": detail, "last_success": datetime.now(UTC).isoformat()}
    return json.dumps(document)


def make_board(account: str = "default", *, is_online: bool | None = None, **documents: object) -> Board:
    """Return the board of a broker with the state and health of one account: JSON, or bytes."""
    board = Board(BASE, "broker", is_connected=True, is_online=is_online)
    for name, document in documents.items():
        payload = document if isinstance(document, bytes) else json.dumps(document).encode()
        board.take(Message(topic=f"{BASE}/{account}/{name}", payload=payload))
    return board


def drawn(board: Board, *, width: int = COLUMNS, encoding: str = "utf-8") -> str:
    """Return a board as it is drawn on a terminal, without colors."""
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=screen, force_terminal=True, width=width, height=100, _environ={})
    console.print(board.view(NOW, console.options))
    screen.flush()
    screen.seek(0)
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.read())


def test_accounts_are_shown_and_ctrl_c_leaves_no_trace(
    running_broker: Broker, watcher: Watcher, tmp_path: Path
) -> None:
    """Each account has its windows, money and health within 40 columns; Ctrl-C gives the terminal back."""
    retained = {
        STATUS: "online",
        f"{BASE}/personal/state": state(scoped={"Fable": 31}, extra_usage=make_extra_usage(190.0, 1700, "EUR")),
        f"{BASE}/personal/health": health(),
        f"{BASE}/office/state": state(95),
        f"{BASE}/office/health": health("token_expired", fresh=False, detail="Open Claude Code once on its machine."),
    }
    for topic, payload in retained.items():
        watcher.publish(topic, payload, retain=True)
    with Terminal(running_broker.port, tmp_path) as terminal:
        terminal.wait("Open Claude Code once")
        terminal.wait(r"^Claude personal \(max\)")
        terminal.wait(r"^Session .*80%$")
        terminal.wait(r"2:(29|30):\d\d  pace \+30  at reset 1(59|60|61)%$")
        terminal.wait(r"^Weekly Fable .*31%$")
        terminal.wait(r"^Extra usage  1.90 of 17.00 EUR \(11%\)$")
        terminal.wait(r"^ok, updated")
        terminal.wait(r"^Claude office")
        terminal.wait(r"^token expired")
        assert max(map(len, terminal.lines)) <= COLUMNS
        terminal.press(b"\x03")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.raw
        assert terminal.raw.rindex(CURSOR_ON) > terminal.raw.rindex("\x1b[?25l")
        assert terminal.raw.rindex(SCREEN_BACK) > terminal.raw.rindex("\x1b[?1049h")
    assert len(watcher.messages()) == len(retained), "watching publishes nothing"


def test_the_countdown_runs_and_messages_are_drawn(running_broker: Broker, watcher: Watcher, tmp_path: Path) -> None:
    """The countdown continues between two messages, and a message is on the screen as soon as it arrives."""
    watcher.publish(STATE, state(41), retain=True)
    watcher.publish(HEALTH, health(), retain=True)
    with Terminal(running_broker.port, tmp_path) as terminal:
        first = terminal.wait(r"2:(29|30):\d\d")[0]
        terminal.wait(rf"2:(29|30):(?!{first[-2:]})\d\d")
        terminal.wait("Session .* 41%")
        watcher.publish(STATE, state(42), retain=True)
        terminal.wait("Session .* 42%")
        watcher.publish(STATUS, "offline", retain=True)
        terminal.wait("The service is not running")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 0
        assert terminal.raw.rindex(CURSOR_ON) > terminal.raw.rindex("\x1b[?25l")


@needs_mosquitto
def test_a_broker_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """A broker that is not there yet, or goes away, is shown as that; the numbers come with the broker."""
    with Mosquitto() as mosquitto:
        mosquitto.stop()
        with Terminal(mosquitto.port, tmp_path) as terminal:
            terminal.wait("No connection to the broker")
            mosquitto.start()
            terminal.wait("No data under claude-usage/ yet")
            for topic in ("+/state", "+/health", "status", "default/state", "default/health"):
                mosquitto.log.wait_for(f"claude-usage/{topic} (QoS 1)")
            mosquitto.stop()
            terminal.wait("^Connecting to")
            terminal.press(b"\x03")
            assert terminal.end() == 0


@needs_mosquitto
def test_it_does_not_disconnect_the_service(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Started with the service's own settings, it is another client, whatever MQTT_CLIENT_ID says."""
    with Terminal(mosquitto.port, tmp_path, MQTT_CLIENT_ID="ours") as terminal:
        terminal.wait("No data under")
        mosquitto.log.wait_for("as ours-claude-usage-")


@needs_mosquitto
def test_a_wrong_login_ends_it(tmp_path: Path) -> None:
    """With a wrong password there is nothing to wait for: a sentence on the terminal, and exit status 8."""
    with (
        Mosquitto(users={"me": "right"}) as mosquitto,
        Terminal(mosquitto.port, tmp_path, MQTT_USERNAME="me", MQTT_PASSWORD="wrong") as terminal,
    ):
        assert terminal.end() == 8
        last = terminal.raw[terminal.raw.rindex(SCREEN_BACK) :]
        assert "check MQTT_USERNAME and MQTT_PASSWORD" in " ".join(last.split())
        assert "Traceback" not in terminal.raw


def test_a_broker_that_lets_it_read_nothing_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If every subscription is refused, the sentence says what to allow; waiting would not help."""
    amqtt = pytest.importorskip("amqtt.broker")
    from claude_usage_mqtt.demo.broker import EmbeddedBroker

    class BrokerWithRules(amqtt.Broker):  # type: ignore[misc]
        async def _topic_filtering(self, _session: Any, _topic: str, _action: Any) -> bool:
            return False

    monkeypatch.setattr(amqtt, "Broker", BrokerWithRules)
    with EmbeddedBroker(port=0) as broker, Terminal(broker.port, tmp_path, MQTT_PROTOCOL="3.1.1") as terminal:
        assert terminal.end() == 8
        assert "lets us read nothing; allow claude-usage/+/state" in " ".join(terminal.raw.split())


def test_without_its_extra_it_says_how_to_get_it(tmp_path: Path) -> None:
    """Without rich there is one sentence with the command to type."""
    code = "import sys; sys.modules['rich'] = None\nfrom claude_usage_mqtt.cli import main; sys.exit(main(['watch']))"
    ran = run_python(tmp_path, "-c", code)
    assert ran.returncode == 2
    assert ran.stderr == f"claude-usage-mqtt: watch needs the package rich: {sys.executable} -m pip install rich\n"


def test_without_a_terminal_it_says_what_to_use(tmp_path: Path) -> None:
    """Nothing is drawn into a pipe."""
    ran = run_command(tmp_path, "watch", MQTT_HOST=LOOPBACK)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "watch needs a terminal; 'claude-usage-mqtt guard' prints" in ran.stderr


EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m[red]bold[/red] \u202e:smile: {0}"


def test_nothing_from_the_broker_commands_the_terminal() -> None:
    """Escape sequences, markup and line breaks in any text are shown as harmless text or not at all."""
    window = {"label": EVIL, "utilization": 42, "resets_at": EVIL, "duration_hours": 5}
    state = {"plan": EVIL, "windows": {EVIL: window}, "extra_usage": {"enabled": True, "used": 1, "currency": EVIL}}
    board = make_board(state=state, health={"status": EVIL, "detail": EVIL * 100, "fresh": True, "last_success": EVIL})
    board.take(Message(topic=f"{BASE}/\x1b]0;owned\x07/state", payload=b'{"windows": {}}'))
    shown = drawn(board)
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert "[red]bold[/red]" in shown
    assert ":smile:" in shown
    assert all(len(line) <= COLUMNS for line in shown.splitlines())


@pytest.mark.parametrize(
    "payload",
    [
        *PAYLOADS,
        b'{"windows": 3}',
        b'{"windows": [1]}',
        b'{"windows": {"five_hour": 3}, "extra_usage": 3}',
        b'{"windows": {"five_hour": {"utilization": NaN, "duration_hours": 0, "resets_at": 3}}}',
        b'{"windows": {"w": {"utilization": 50, "duration_hours": 0, "resets_at": "2026-11-20T12:00:01"}}}',
        b'{"windows": {"five_hour": {"utilization": 1e308, "duration_hours": 1e308, "resets_at": "2199-01-01"}}}',
        b'{"windows": {"w": {"utilization": 100000, "duration_hours": 1e-9, "resets_at": "2026-11-20T12:00:01"}}}',
        b'{"windows": {"w": {"utilization": 50, "duration_hours": 5, "resets_at": "2199-11-20T12:00:01"}}}',
        b'{"extra_usage": {"enabled": true, "used": "1", "limit": -1, "currency": 3, "utilization": "x"}}',
        b'{"status": [], "detail": {}, "fresh": "yes", "last_success": "0001-01-01T00:00:00+23:59"}',
    ],
)
def test_nonsense_is_survived(payload: bytes) -> None:
    """Whatever is retained, the dashboard keeps running."""
    board = make_board(state=payload, health=payload)
    for topic in (STATUS, f"{BASE}/x", "other", f"{BASE}/a/b/c"):
        board.take(Message(topic=topic, payload=payload))
    for width in (1, 10, COLUMNS):
        drawn(board, width=width)


def test_a_flood_of_accounts_is_bounded() -> None:
    """Nobody can fill our memory with invented accounts."""
    board = make_board()
    for number in range(MAX_ACCOUNTS + 5):
        board.take(Message(topic=f"{BASE}/a{number}/state", payload=b'{"windows": {}}'))
    assert len(board.states) == MAX_ACCOUNTS


def test_a_removed_account_is_gone() -> None:
    """When the service removes an account, its part of the screen goes too."""
    board = make_board("old", state={"windows": {}}, health={"windows": {}})
    assert "Claude old" in drawn(board)
    for name in ("state", "health"):
        board.take(Message(topic=f"{BASE}/old/{name}", payload=b""))
    assert "Claude old" not in drawn(board)


def test_what_is_not_known_is_not_a_number() -> None:
    """Unknown numbers and a window that has not started are shown as such, and after a reset nothing is negative."""
    windows = {
        label: {"label": label, "utilization": utilization, "resets_at": resets_at, "duration_hours": 168}
        for label, utilization, resets_at in (
            ("Session", None, None),
            ("Weekly", 0, None),
            ("Weekly Opus", 5, (NOW - timedelta(minutes=1)).isoformat()),
        )
    }
    board = make_board(state={"windows": windows}, health={"status": "ok", "fresh": True})
    shown = drawn(board).splitlines()
    assert [line.split()[-1] for line in shown if line.startswith(("Session", "Weekly"))] == ["?", "0%", "5%"]
    assert any("not started" in line for line in shown)
    assert any("resets now" in line for line in shown)


def test_plain_ascii_if_the_terminal_has_nothing_else() -> None:
    """On a terminal without Unicode the bars are made of plain characters."""
    shown = drawn(make_board(state=state(50, now=NOW).encode()), encoding="ascii")
    assert "#" in shown
    assert shown.isascii()


def test_it_shows_whether_one_can_work() -> None:
    """Blocked or not, until when, the closest limit and the summary are at the top; a severity is shown if known."""
    document = json.loads(state(100, now=NOW))
    document |= {"blocked": True, "blocked_until": (NOW + timedelta(days=2)).isoformat()}
    document["summary"] = "Blocked until Thu. Session 100 %.\x1b[31m"
    document["windows"]["five_hour"]["severity"] = "critical"
    alive = {"status": "ok", "fresh": True, "alive_until": (NOW + timedelta(minutes=8)).isoformat()}
    until = (NOW + timedelta(days=2)).astimezone()
    shown = drawn(make_board(is_online=True, state=document, health=alive))
    assert f"Blocked until {until:%a %H:%M}" in shown
    assert "Closest to its limit: Session" in shown
    assert "Blocked until Thu. Session 100 %." in shown
    assert "critical" in shown


def test_without_a_sign_of_life_nothing_is_called_current() -> None:
    """After a power cut of broker and service the retained numbers are shown as old, and nobody is called blocked."""
    dead = {"status": "ok", "fresh": True, "alive_until": (NOW - timedelta(minutes=1)).isoformat()}
    shown = drawn(make_board(is_online=True, state=state(now=NOW).encode(), health=dead))
    assert "No sign of life" in shown
    assert "locked" not in shown
