"""`healthcheck`, and what systemd is notified of."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from claude_usage_mqtt import cli
from claude_usage_mqtt.service import liveness
from claude_usage_mqtt.service.liveness import BEAT_EVERY, STUCK_AFTER, Liveness, check
from parts.credentials import write_credentials
from parts.process import END_TIMEOUT
from parts.service import ServiceProcess

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signs of life of other users and processes are POSIX")

INSTANCE = """
import sys
from claude_usage_mqtt.service import liveness
liveness.FOLDERS = (sys.argv[1],)
beats = liveness.Liveness()
beats.beat()
print("beats", flush=True)
sys.stdin.read()
beats.stop()
"""

Instance = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder for signs of life; those of this machine's real services are elsewhere."""
    for name in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    signs = tmp_path / "signs"
    signs.mkdir()
    monkeypatch.setattr(liveness, "FOLDERS", (str(signs),))
    return signs


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Instance]]:
    """Return a function that starts a process which has given one sign of life and stops when its input ends."""
    with ExitStack() as stack:

        def begin() -> Instance:
            instance = subprocess.Popen(
                [sys.executable, "-c", INSTANCE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(instance)
            stack.callback(instance.kill)
            assert instance.stdout is not None
            assert instance.stdout.readline() == "beats\n"
            return instance

        yield begin


def age(sign: Path, seconds: float) -> None:
    """Make a sign of life that much older."""
    moment, base = sign.read_text().split("\n", 1)
    sign.write_text(f"{float(moment) - seconds:.3f}\n{base}")


def sign_of(instance: Instance, folder: Path) -> Path:
    """Return the file of a process."""
    return next(folder.glob(f"*-{instance.pid}"))


def end(instance: Instance) -> None:
    """Let a process stop as it does by itself."""
    instance.communicate("")
    assert instance.returncode == 0


def test_alive_while_it_beats_and_gone_after_its_stop(
    start: Callable[[], Instance], capsys: pytest.CaptureFixture[str]
) -> None:
    """A container that runs is healthy; if nothing runs, the sentence says so, and the status is not 0."""
    instance = start()
    assert cli.main(["healthcheck"]) == 0
    assert "is alive" in capsys.readouterr().out
    end(instance)
    assert cli.main(["healthcheck"]) == 1
    assert "not running" in capsys.readouterr().out


def test_stuck_is_distinguished_from_alive(start: Callable[[], Instance], folder: Path) -> None:
    """A process that is there but no longer does anything is unhealthy: the container can be restarted."""
    instance = start()
    os.kill(instance.pid, signal.SIGSTOP)
    age(sign_of(instance, folder), STUCK_AFTER - 30)
    assert check()[0] == 0
    age(sign_of(instance, folder), 60)
    status, sentence = check()
    assert status == 1
    assert "stuck" in sentence


def test_the_file_of_a_killed_process_is_not_a_sign_of_life(start: Callable[[], Instance], folder: Path) -> None:
    """After a crash the file that it left does not count, and the next start removes it."""
    killed = start()
    killed.kill()
    killed.wait()
    status, sentence = check()
    assert status == 1
    assert "crashed or was killed" in sentence
    again = start()
    assert check()[0] == 0
    assert list(folder.iterdir()) == [sign_of(again, folder)]


def test_two_instances_do_not_hide_each_other(start: Callable[[], Instance], folder: Path) -> None:
    """With two services of one user on a host, a stuck one is found, and the end of one does not affect the other."""
    first, second = start(), start()
    assert check()[0] == 0
    age(sign_of(first, folder), STUCK_AFTER + 60)
    assert "stuck" in check()[1]
    end(first)
    assert check()[0] == 0
    end(second)
    assert check()[0] == 1


@pytest.mark.parametrize("trap", ["symlink", "hard link", "pipe", "folder"])
def test_nothing_of_others_is_written_through(folder: Path, tmp_path: Path, trap: str) -> None:
    """Whatever somebody else puts in place of our file, no other file is changed and nothing waits forever."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = folder / f"{liveness.NAME}-{os.getuid()}-{os.getpid()}"
    match trap:
        case "symlink":
            path.symlink_to(victim)
        case "hard link":
            path.hardlink_to(victim)
        case "pipe":
            os.mkfifo(path)
        case _:
            path.mkdir()
    beats = Liveness()
    beats.beat()
    assert victim.read_text() == "precious"
    assert check()[0] == 1
    beats.stop()
    assert os.path.lexists(path)


def test_another_folder_is_used_if_the_first_is_not_writable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only root file system the first writable folder is used."""
    monkeypatch.setattr(liveness, "FOLDERS", (str(tmp_path / "missing"), "/proc", str(folder)))
    beats = Liveness()
    beats.beat()
    assert len(list(folder.iterdir())) == 1
    beats.stop()


def test_a_forged_sign_of_another_user_is_not_believed(
    start: Callable[[], Instance], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody else can make a service look alive, or stuck."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    instance = start()
    os.chown(sign_of(instance, folder), 65534, 65534)
    assert cli.main(["healthcheck"]) == 1
    assert "not running" in capsys.readouterr().out


def test_it_continues_if_nothing_can_be_written(folder: Path) -> None:
    """A service that cannot write anywhere works anyway; only `healthcheck` cannot see it."""
    folder.rmdir()
    beats = Liveness()
    beats.beat()
    assert check()[0] == 1
    beats.stop()


def test_a_file_that_was_tidied_away_comes_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleaning temporary folders makes a healthy service unhealthy for no longer than a beat."""
    beats = Liveness()
    beats.beat()
    for sign in folder.iterdir():
        sign.unlink()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + BEAT_EVERY)
    beats.beat()
    assert len(list(folder.iterdir())) == 1
    beats.stop()


# systemd


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """Return a socket as systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        listener.bind(str(tmp_path / "notify"))
        yield listener


def test_systemd_is_notified_of_each_beat_and_of_the_stop(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Type=notify` and `WatchdogSec` work, and programs that we start are not mistaken for us."""
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    beats = Liveness()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    beats.notify("READY=1")
    beats.beat()
    beats.beat()
    beats.stop()
    assert [systemd.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]
    systemd.close()
    beats.notify("READY=1")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
def test_an_abstract_socket_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container engine that passes systemd's socket on gives an address without a file."""
    name = f"claude-usage-mqtt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        listener.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        Liveness().notify("READY=1")
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("usec", "pid", "every"),
    [
        ("3000000", None, 1.0),
        ("3000000", "ours", 1.0),
        ("3000000", "1", BEAT_EVERY),
        ("600000000", None, BEAT_EVERY),
        ("soon", None, BEAT_EVERY),
    ],
)
def test_it_beats_more_than_twice_as_often_as_the_watchdog_wants(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, every: float
) -> None:
    """Any `WatchdogSec` may be set; a watchdog meant for another process, or nonsense, changes nothing."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    monkeypatch.setattr(time, "monotonic", lambda: 5000.0)
    beats = Liveness()
    assert beats.patience() == 0
    beats.beat()
    assert beats.patience() == every
    beats.stop()


def test_the_service_notifies_systemd_though_no_broker_is_there(
    folder: Path, tmp_path: Path, systemd: socket.socket, closed_port: int
) -> None:
    """If the broker is away at boot, systemd does not give the service up, and its watchdog is still fed."""
    write_credentials(tmp_path)
    settings = {"MQTT_PORT": closed_port, "CLAUDE_API_URL": f"http://127.0.0.1:{closed_port}"}
    settings |= {"XDG_RUNTIME_DIR": folder, "NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": 300_000}
    with ServiceProcess(tmp_path, **settings) as service:
        assert [systemd.recv(100) for _ in range(4)] == [b"READY=1", *[b"WATCHDOG=1"] * 3]
        assert check()[0] == 0
        service.process.terminate()
        while (said := systemd.recv(100)) == b"WATCHDOG=1":
            pass
        assert said == b"STOPPING=1"
        assert service.process.wait(END_TIMEOUT) == 0
    assert check()[0] == 1


def test_another_services_sign_is_not_ours(folder: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`healthcheck` asks about the service with its own base topic, not about any service on the machine."""
    beats = Liveness("claude-usage")
    beats.beat()
    assert check()[0] == 0
    monkeypatch.setenv("MQTT_BASE_TOPIC", "second")
    status, sentence = check()
    assert status == 1
    assert "No service with the base topic second runs here, only with claude-usage" in sentence
    monkeypatch.delenv("MQTT_BASE_TOPIC")
    for written in (
        "MQTT_HOST=x\nMQTT_BASE_TOPIC='second'",
        "\ufeffMQTT_BASE_TOPIC=second",
        "mqtt_base_topic=second",
    ):
        (empty / ".env").write_text(written, encoding="utf-8")
        assert check()[0] == 1, written
    beats.stop()
    assert list(folder.iterdir()) == []


def test_a_service_with_other_accounts_is_not_ours(folder: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two services under one base topic, each with its accounts: the health of one says nothing about the other."""
    monkeypatch.setenv("CLAUDE_ACCOUNTS", '{"ann": "/claude/ann"}')
    beats = Liveness("claude-usage")
    beats.beat()
    assert check()[0] == 0
    monkeypatch.setenv("CLAUDE_ACCOUNTS", '{"ben": "/claude/ben"}')
    status, sentence = check()
    assert status == 1
    assert "has other accounts; check CLAUDE_ACCOUNTS" in sentence
    (empty / ".env").write_text('CLAUDE_ACCOUNTS=\'{ "ann": "/claude/ann" }\'\n')
    monkeypatch.delenv("CLAUDE_ACCOUNTS")
    assert check()[0] == 0
    (empty / ".env").unlink()
    assert check()[0] == 0, "without accounts, the base topic alone decides"
    beats.stop()
    assert list(folder.iterdir()) == []
