"""Signs of life of the loop: a file for `healthcheck`, and systemd's notify socket where there is one.

Imports little: `healthcheck` has to start in no time, and knows of the rest of the program only this module.
"""

from __future__ import annotations

import os
import socket
import time

BEAT_EVERY = 10.0
"""Real seconds between signs of life."""

STUCK_AFTER = 90.0
"""Real seconds without one until the loop counts as stuck: it never works that long without looking up."""

FOLDERS = ("/dev/shm", "/run", "/tmp", "/var/tmp")  # noqa: S108 - one of them is writable on a read-only root
NAME = "claude-usage-mqtt-heartbeat"


def _folders() -> list[str]:
    own = [os.environ[name] for name in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP") if os.environ.get(name)]
    return own + [folder for folder in FOLDERS if os.path.isdir(folder)]


def _path(folder: str) -> str:
    user = os.getuid() if hasattr(os, "getuid") else 0
    return os.path.join(folder, f"{NAME}-{user}")


class Heartbeat:
    """Tells that the loop goes round. Where nothing can be written it stays silent: that must not stop the service."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._file: str | None = None
        self._notify = os.environ.pop("NOTIFY_SOCKET", None)

    def beat(self) -> None:
        """Give a sign of life, at most every `BEAT_EVERY` seconds."""
        now = time.monotonic()
        if self._last is not None and now - self._last < BEAT_EVERY:
            return
        self._last = now
        self._write(f"{os.getpid()} {now:.0f}\n".encode())
        self.notify("WATCHDOG=1")

    def _write(self, sign: bytes) -> None:
        for path in [self._file] if self._file else map(_path, _folders()):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
            try:
                descriptor = os.open(path, flags, 0o600)
                try:
                    os.write(descriptor, sign)
                finally:
                    os.close(descriptor)
            except OSError:
                continue
            self._file = path
            return

    def notify(self, state: str) -> None:
        """Send systemd a state (`READY=1`, `STOPPING=1` …) where it listens."""
        if self._notify is None:
            return
        address = "\0" + self._notify[1:] if self._notify.startswith("@") else self._notify
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(1)
                channel.connect(address)
                channel.send(state.encode())
        except OSError:
            pass

    def stop(self) -> None:
        """Take the sign of life away."""
        self.notify("STOPPING=1")
        if self._file is not None:
            try:
                os.unlink(self._file)
            except OSError:
                pass


def last_sign() -> tuple[int, float] | None:
    """Return process id and age in seconds of the newest sign of life, None where there is none."""
    newest: tuple[int, float] | None = None
    for folder in _folders():
        try:
            descriptor = os.open(_path(folder), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                pid, moment = os.read(descriptor, 100).split()
            finally:
                os.close(descriptor)
            age = time.monotonic() - float(moment)
            if newest is None or age < newest[1]:
                newest = int(pid), age
        except (OSError, ValueError):
            continue
    return newest


def check() -> tuple[int, str]:
    """Return the exit status of `healthcheck` (0 alive, 1 not) and a sentence."""
    sign = last_sign()
    if sign is None:
        return 1, "claude-usage-mqtt is not running here."
    pid, age = sign
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 1, "claude-usage-mqtt has ended without a goodbye."
    except OSError:
        pass  # another user's process: it is there
    if age > STUCK_AFTER:
        return 1, f"claude-usage-mqtt is stuck: its last sign of life is {age:.0f} s old; restart it."
    return 0, f"claude-usage-mqtt is alive: its last sign of life is {age:.0f} s old."
