"""A real Mosquitto for each test that wants one, and the embedded broker if there is none."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Protocol, Self

import pytest

from parts.certificates import Authority, KeyPair
from parts.net import LOOPBACK, HeldPort, Server
from parts.waiting import REASONABLE

START_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 10.0
REMEMBERED_LOG_LINES: Final = 20_000
BEYOND_PATH: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/sbin", "/opt/homebrew/bin")


class Broker(Protocol):
    """What every broker here has: a port for plain TCP on loopback."""

    @property
    def port(self) -> int:
        """Return the TCP port."""


def _program(name: str) -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *BEYOND_PATH])
    return shutil.which(name, path=path)


def available() -> bool:
    """Return whether Mosquitto is installed."""
    return _program("mosquitto") is not None


needs_mosquitto = pytest.mark.skipif(not available(), reason="Mosquitto is not installed")


@contextlib.contextmanager
def any_broker() -> Iterator[Broker]:
    """Run a broker of whatever kind this machine has."""
    if available():
        with Mosquitto() as mosquitto:
            yield mosquitto
    else:
        from claude_usage_mqtt.demo.broker import EmbeddedBroker  # needs an extra

        with EmbeddedBroker(port=0) as embedded:
            yield embedded


class Mosquitto(Server):
    """A separate Mosquitto process, with its own folder and ports; a context manager.

    `port` is always there and plain; `tls`, `websockets` and `unix_socket` add listeners next to it, so that a
    test can watch on the plain one. Settings hold for all listeners: with `users` nobody is anonymous.
    The ports stay the same, and stay reserved, until the end of the context.
    """

    def __init__(
        self,
        *,
        persistence: bool = True,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        tls: bool = False,
        server_certificate: KeyPair | None = None,
        require_client_certificate: bool = False,
        websockets: bool = False,
        unix_socket: bool = False,
        max_packet_size: int | None = None,
        message_size_limit: int | None = None,
        extra_lines: Sequence[str] = (),
    ) -> None:
        """Take the settings; `start` runs it.

        `persistence` keeps retained messages over a `stop`, not over a `kill`. `server_certificate` replaces the
        good one, by an expired one of another `Authority` for instance. `extra_lines` are global lines of
        mosquitto.conf.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="mosquitto-"))
        self.log: deque[str] = deque(maxlen=REMEMBERED_LOG_LINES)
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._exhausted = False
        has_tls = bool(tls or server_certificate or require_client_certificate)
        kinds = {"plain": True, "tls": has_tls, "websockets": websockets, "secure websockets": websockets and has_tls}
        self._ports = {kind: HeldPort() for kind, is_wanted in kinds.items() if is_wanted}
        self.socket_path = self.folder / "socket" if unix_socket else None
        self.authority = Authority(self.folder / "tls") if has_tls else None
        lines = [
            *_general_lines(self.folder, persistence=persistence),
            f"allow_anonymous {_word(users is None)}",
            *extra_lines,
        ]
        if max_packet_size is not None:
            lines.append(f"max_packet_size {max_packet_size}")
        if message_size_limit is not None:
            lines.append(f"message_size_limit {message_size_limit}")
        if users is not None:
            lines.append(f"password_file {write_passwords(self.folder / 'passwords', users)}")
        if acl is not None:
            lines.append(f"acl_file {_write_secret(self.folder / 'acl', acl)}")
        lines += self._listener_lines(server_certificate, require_client_certificate)
        self._configuration = _write_secret(self.folder / "mosquitto.conf", "\n".join([*lines, ""]))

    # -- where it is

    @property
    def port(self) -> int:
        """Return the port of the plain listener."""
        return self._ports["plain"].number

    @property
    def tls_port(self) -> int:
        """Return the port of the TLS listener; its certificate is for localhost and 127.0.0.1."""
        return self._ports["tls"].number

    @property
    def websockets_port(self) -> int:
        """Return the port of the websockets listener."""
        return self._ports["websockets"].number

    @property
    def secure_websockets_port(self) -> int:
        """Return the port of the websockets listener with TLS, which exists if both were asked for."""
        return self._ports["secure websockets"].number

    @property
    def ca_path(self) -> Path:
        """Return the file that a client has to trust."""
        assert self.authority is not None, "this Mosquitto has no TLS listener"
        return self.authority.ca_path

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Return whether the process lives, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def client_certificate(self) -> KeyPair:
        """Issue a client certificate that the broker accepts."""
        assert self.authority is not None, "this Mosquitto has no TLS listener"
        return self.authority.issue("client.invalid", common_name="client")

    # -- its life

    def start(self) -> Self:
        """Start it; returns when it has accepted a connection, which is the first one in its log."""
        if self.running:
            raise RuntimeError("this Mosquitto runs already")
        program = _program("mosquitto")
        if program is None:
            raise RuntimeError("Mosquitto is not installed")
        self.log.clear()
        self._exhausted = False
        self._process = subprocess.Popen(
            [program, "-c", str(self._configuration)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), name="mosquitto log")
        self._reader.start()
        try:
            self.wait_for_log(" running", START_TIMEOUT)
            # it says so before its loop runs, and until then it would lose a signal: wait for what the loop does
            socket.create_connection((LOOPBACK, self.port), START_TIMEOUT).close()
            self.wait_for_log("New connection from", START_TIMEOUT)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it by SIGTERM, as a service manager does, and wait for the end. Thaws it if it is frozen."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL: it says and saves nothing."""
        self._end(signal.SIGKILL)

    def restart(self, *, wipe: bool = False) -> None:
        """Stop it and start it on the same ports; `wipe` makes it forget what it had retained."""
        self.stop()
        if wipe:
            (self.folder / "mosquitto.db").unlink(missing_ok=True)
        self.start()

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, without letting it save anything, and remove its folder and ports."""
        self.kill()
        for port in self._ports.values():
            port.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what it says

    def wait_for_log(self, text: str, timeout: float = REASONABLE, *, count: int = 1) -> None:
        """Wait until `text` was in that many lines of its log since the last start."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: self._exhausted or sum(text in line for line in self.log) >= count, timeout
            )
            if not found or sum(text in line for line in self.log) < count:
                end = "it ended" if self._exhausted else f"waited {timeout} s"
                raise AssertionError(f"{end} without {text!r} in its log:\n" + "\n".join(list(self.log)[-30:]))

    # -- inside

    def _listener_lines(self, certificate: KeyPair | None, require_client_certificate: bool) -> list[str]:  # noqa: FBT001
        secure: list[str] = []
        if self.authority:
            certificate = certificate or self.authority.issue()
            secure = [
                f"certfile {certificate.certificate}",
                f"keyfile {certificate.key}",
                f"cafile {self.authority.ca_path}",
                f"require_certificate {_word(require_client_certificate)}",
            ]
        lines: list[str] = []
        for kind, port in self._ports.items():
            lines.append(f"listener {port.number} {LOOPBACK}")
            lines += ["protocol websockets"] if "websockets" in kind else []
            lines += secure if kind in ("tls", "secure websockets") else []
        if self.socket_path:
            lines.append(f"listener 0 {self.socket_path}")
        return lines

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("this Mosquitto does not run")
        return self._process

    def _end(self, by: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(by)
        process.send_signal(signal.SIGCONT)  # a frozen one could not end
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self.log.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._exhausted = True
            self._changed.notify_all()


def _general_lines(folder: Path, *, persistence: bool) -> list[str]:
    lines = [
        "per_listener_settings false",
        "log_dest stderr",
        "log_type all",
        "log_timestamp false",
        "connection_messages true",
        "sys_interval 0",
        "set_tcp_nodelay true",
        "max_queued_messages 0",  # a watcher that subscribes to everything loses nothing
        f"persistence {_word(persistence)}",
        f"persistence_location {folder}/",
    ]
    if os.name == "posix" and os.geteuid() == 0:
        lines.append(f"user {getpass.getuser()}")  # else it becomes a user that may not read its folder
    return lines


def _write_secret(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text, encoding="utf-8")
    return path


def write_passwords(path: Path, users: Mapping[str, str]) -> Path:
    """Write the password file of Mosquitto."""
    program = _program("mosquitto_passwd")
    if program is None:
        raise RuntimeError("mosquitto_passwd is not installed")
    _write_secret(path, "".join(f"{user}:{password}\n" for user, password in users.items()))
    subprocess.run([program, "-U", str(path)], check=True, capture_output=True)
    return path


def _word(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"
