"""A real Mosquitto for each test that wants one, and the embedded broker if there is none."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

import pytest

from parts.certificates import Authority, KeyPair
from parts.net import LOOPBACK, HeldPort, Server
from parts.process import END_TIMEOUT, Log, LoggedProcess

START_TIMEOUT: Final = 10.0
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
    """Run a broker of the kind that this machine has."""
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
    test can watch on the plain one. Settings hold for all listeners: with `users` there are no anonymous clients.
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
        extra_lines: Sequence[str] = (),
    ) -> None:
        """Take the settings; `start` runs it.

        `persistence` keeps retained messages across a `stop`, not across a `kill`. `server_certificate` replaces the
        good one, by an expired one of another `Authority` for instance. `extra_lines` are global lines of
        mosquitto.conf.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="mosquitto-"))
        self._process: LoggedProcess | None = None
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
    def log(self) -> Log:
        """Return its log since the last start."""
        return self._running().log

    # -- its life

    def start(self) -> Self:
        """Start it; returns when it has accepted a connection, the first one in its log."""
        program = _program("mosquitto")
        assert program is not None, "Mosquitto is not installed"
        assert self._process is None, "this Mosquitto runs already"
        self._process = LoggedProcess([program, "-c", self._configuration], cwd=self.folder).__enter__()
        try:
            self.log.wait_for(" running", START_TIMEOUT)
            # it logs that before its loop runs, and until then it would lose a signal: wait for the loop's first act
            socket.create_connection((LOOPBACK, self.port), START_TIMEOUT).close()
            self.log.wait_for("New connection from", START_TIMEOUT)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it by SIGTERM, as a service manager does, and wait for the end. Thaws it if it is frozen."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL: it sends and saves nothing."""
        self._end(signal.SIGKILL)

    def restart(self, *, wipe: bool = False) -> None:
        """Stop it and start it on the same ports; `wipe` makes it forget what it had retained."""
        self.stop()
        if wipe:
            (self.folder / "mosquitto.db").unlink(missing_ok=True)
        self.start()

    def freeze(self) -> None:
        """Suspend it: connections stay open and nothing answers."""
        self._running().process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one continue."""
        self._running().process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, without letting it save anything, and remove its folder and ports."""
        self.kill()
        for port in self._ports.values():
            port.close()
        shutil.rmtree(self.folder, ignore_errors=True)

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

    def _running(self) -> LoggedProcess:
        assert self._process is not None, "this Mosquitto does not run"
        return self._process

    def _end(self, by: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.process.send_signal(by)
            process.process.send_signal(signal.SIGCONT)  # a frozen one could not end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.process.wait(END_TIMEOUT)
            process.__exit__()


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
        lines.append(f"user {getpass.getuser()}")  # else it changes to a user that may not read its folder
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
