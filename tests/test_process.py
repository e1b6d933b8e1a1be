"""The process as a container sees it: it ends when asked to, and says why it cannot run."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_usage_mqtt.mqtt import connector
from claude_usage_mqtt.service import liveness
from parts.broker import Broker
from parts.command import clean_environment, command_line
from parts.credentials import write_credentials
from parts.net import LOOPBACK
from parts.process import LoggedProcess
from parts.proxy import FaultyProxy
from parts.service import Serve
from parts.waiting import eventually

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")


def may_make_namespaces() -> bool:
    """Return whether this user may make a PID namespace."""
    program = shutil.which("unshare")
    if program is None:
        return False
    return subprocess.run([program, "-pf", "true"], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def process_1(folder: Path, *arguments: str, **settings: object) -> Iterator[tuple[LoggedProcess, int]]:
    """Run a command as process 1 of a PID namespace; return the outer process, and the command's id out here."""
    command = ["unshare", "-pf", "--kill-child", *command_line(*arguments)]
    with LoggedProcess(command, env=clean_environment(folder, settings), cwd=folder) as started:
        children = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children")
        eventually(lambda: bool(children.read_text()))
        yield started, int(children.read_text().split()[0])


WAITS = "open('imports', 'w').close()\nimport time\n{}time.sleep(3600)\n"
CONVERTS = "try: time.sleep(3600)\nexcept KeyboardInterrupt: raise RuntimeError\n"
"""What Python before 3.12 makes of Ctrl-C while a class is made."""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("module", ["argparse", "paho"])
@pytest.mark.parametrize("arguments", [(), ("once",), ("check",), ("remove",)])
def test_ctrl_c_while_it_still_imports(tmp_path: Path, module: str, arguments: tuple[str, ...]) -> None:
    """Ctrl-C right after the start shows no traceback and no internal error, whatever is being imported."""
    (tmp_path / f"{module}.py").write_text(WAITS.format(CONVERTS))
    started = subprocess.Popen(
        command_line(*arguments),
        env=clean_environment(tmp_path, {"MQTT_HOST": LOOPBACK, "PYTHONPATH": tmp_path}),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually((tmp_path / "imports").exists)
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=20)
    assert (started.returncode, stderr) == (130, "")


@linux
@pytest.mark.skipif(not may_make_namespaces(), reason="needs a PID namespace")
@pytest.mark.parametrize(
    ("module", "by"), [("argparse", signal.SIGTERM), ("argparse", signal.SIGINT), ("paho", signal.SIGTERM)]
)
def test_process_1_ends_while_it_still_imports(tmp_path: Path, module: str, by: signal.Signals) -> None:
    """`docker stop` right after the start, or Ctrl-C in `docker run -it`, does not take ten seconds and a kill."""
    (tmp_path / f"{module}.py").write_text(WAITS.format(""))
    with process_1(tmp_path, "run", MQTT_HOST=LOOPBACK, PYTHONPATH=tmp_path) as (started, pid):
        eventually((tmp_path / "imports").exists)
        os.kill(pid, by)
        assert started.process.wait(20) == 128 + by
    assert started.log.text == ""


@linux
@pytest.mark.skipif(not may_make_namespaces(), reason="needs a PID namespace")
def test_process_1_publishes_offline_when_it_is_stopped(tmp_path: Path, closed_port: int) -> None:
    """After the imports, SIGTERM ends it cleanly, with exit status 0."""
    write_credentials(tmp_path / ".claude")
    settings = {"MQTT_HOST": LOOPBACK, "MQTT_PORT": closed_port}
    with process_1(tmp_path, "run", **settings) as (started, pid):
        started.log.wait_for("No connection to the broker")
        os.kill(pid, signal.SIGTERM)
        assert started.process.wait(20) == 0


@linux
@pytest.mark.parametrize("command", ["run", "report"])
def test_no_thread_can_be_started(tmp_path: Path, command: str) -> None:
    """If the container engine or a limit forbids threads, the message says so and what to do: it is not our bug."""
    write_credentials(tmp_path / ".claude")
    huge = 1 << 46  # bytes of each thread's stack: more than the address space has
    started = subprocess.run(
        ["prlimit", f"--stack={huge}:", *command_line(command)],
        env=clean_environment(tmp_path, {"MQTT_HOST": LOOPBACK, "MACHINE_NAME": "laptop"}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 1
    assert "This system does not let the program start a thread: update the container engine" in started.stderr
    assert "report it" not in started.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_connection_thread_is_noticed(
    running_broker: Broker, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that can never connect again is unhealthy, however well its loop runs."""
    folder = tmp_path / "signs"
    folder.mkdir()
    for name in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(liveness, "FOLDERS", (str(folder),))
    monkeypatch.setattr(liveness, "BEAT_EVERY", 0.05)
    with FaultyProxy(running_broker.port) as proxy, serve(port=proxy.port) as running:
        running.log.wait_for("Publishing at")
        assert liveness.check()[0] == 0
        monkeypatch.setattr(connector.Connection, "run", end_the_thread)
        monkeypatch.setattr(liveness, "STUCK_AFTER", 1.0)
        proxy.drop()
        eventually(lambda: liveness.check()[0] != 0)
        assert "stuck" in liveness.check()[1]


def end_the_thread(*_: object) -> None:
    """End the calling thread without reporting anything."""
    raise SystemExit
