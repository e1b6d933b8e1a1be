"""Signs of life of the loop: a file for `healthcheck`, and systemd's notify socket if there is one.

Imports little: `healthcheck` has to start in no time, and knows of the rest of the program only this module.
Each process has its own file and keeps it locked, so that the kernel itself shows who has ended. The folders
are open to everybody, so nothing is followed, and nothing believed, that another user could have put there.
"""

from __future__ import annotations

import os
import stat
import time

try:
    import fcntl
except ImportError:  # Windows: there only the age of a sign can be checked
    fcntl = None  # type: ignore[assignment]

BEAT_EVERY = 10.0
"""Real seconds between signs of life; less if systemd's watchdog wants more."""

STUCK_AFTER = 90.0
"""Real seconds without one until the loop counts as stuck: it never works that long without looking up."""

BEATS_PER_WATCHDOG = 3
"""Signs of life in systemd's `WatchdogSec`: one may be late."""

DEFAULT_BASE_TOPIC = "claude-usage"

MAX_SIGN, MAX_ENV_FILE = 4096, 100_000
"""Bytes and characters that are read."""

FOLDERS = ("/dev/shm", "/run", "/tmp", "/var/tmp")  # noqa: S108 - one of them is writable on a read-only root
NAME = "claude-usage-mqtt-heartbeat"
SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""How files in open folders are opened: through no link, and never waiting for the other end of a pipe."""


def own_base_topic() -> str:
    """Return the base topic that the environment, or `.env` in the working folder, says; the default without them."""
    given = os.environ.get("MQTT_BASE_TOPIC", "")
    if not given:
        try:
            with open(".env", encoding="utf-8", errors="replace") as file:
                lines = file.read(MAX_ENV_FILE).splitlines()
        except OSError:
            lines = []
        for line in lines:
            name, _, value = line.strip().removeprefix("export ").partition("=")
            if name.strip() == "MQTT_BASE_TOPIC":
                given = value.strip().strip("'\"")
    return given.strip("/ ") or DEFAULT_BASE_TOPIC


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _folders() -> list[str]:
    own = [os.environ[name] for name in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP") if os.environ.get(name)]
    return list(dict.fromkeys([*own, *FOLDERS]))


class Liveness:
    """Shows that the loop is running. If nothing can be written it stays silent: that must not stop the service."""

    def __init__(self, base_topic: str | None = None) -> None:
        """Prepare; `base_topic` distinguishes several services of a user, by default that of the environment."""
        self._base_topic = base_topic or own_base_topic()
        self._next: float | None = None
        self._descriptor: int | None = None
        self._path = ""
        self._notify = os.environ.pop("NOTIFY_SOCKET", None)
        self._every = BEAT_EVERY
        watchdog = os.environ.pop("WATCHDOG_USEC", "")
        if watchdog.isdecimal() and os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._every = min(BEAT_EVERY, int(watchdog) / 1e6 / BEATS_PER_WATCHDOG)

    def patience(self) -> float:
        """Return how many seconds may pass until the next sign of life."""
        return 0.0 if self._next is None else max(0.0, self._next - time.monotonic())

    def beat(self, *, alive: bool = True) -> None:
        """Give a sign of life if it is time for one; not `alive` if a part that nothing works without has died."""
        now = time.monotonic()
        if self._next is not None and now < self._next:
            return
        self._next = now + self._every
        if not alive:
            return
        self._write(f"{now:20.3f}\n{self._base_topic}\n".encode())
        self.notify("WATCHDOG=1")

    def _write(self, sign: bytes) -> None:
        try:
            if self._descriptor is not None and not os.fstat(self._descriptor).st_nlink:
                os.close(self._descriptor)  # somebody tidied the folder up
                self._descriptor = None
            if self._descriptor is None:
                self._open()
            if self._descriptor is not None:
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.write(self._descriptor, sign)
        except OSError:
            pass

    def _open(self) -> None:
        for folder in _folders():
            path = os.path.join(folder, f"{NAME}-{_user()}-{os.getpid()}")
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | SAFELY, 0o600)
            except OSError:
                continue
            if _is_ours(descriptor) and _lock(descriptor) is not False:
                self._descriptor, self._path = descriptor, path
                _tidy_up(folder)
                return
            os.close(descriptor)

    def notify(self, state: str) -> None:
        """Send systemd a state (`READY=1`, `STOPPING=1` …) if it listens."""
        if self._notify is None:
            return
        import socket  # noqa: PLC0415 - a third of what `healthcheck` would import

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
        if self._descriptor is not None:
            _unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = None


def _is_ours(descriptor: int) -> bool:
    """Return whether it is a plain file of this user's, under this one name."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_uid == _user() and found.st_nlink == 1


def _lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock the file until it is closed; return False if another process has it locked, None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _signs(folder: str) -> list[tuple[str, float | None, str]]:
    """Return path, age in seconds and base topic of each sign of life of this user; no age if its process has ended."""
    found: list[tuple[str, float | None, str]] = []
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in names:
        if not name.startswith(f"{NAME}-{_user()}-"):
            continue
        path = os.path.join(folder, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | SAFELY)
        except OSError:
            continue
        try:
            if _is_ours(descriptor):
                ended = _lock(descriptor, shared=True)  # the lock of one that lives cannot be had
                moment, _, base = os.read(descriptor, MAX_SIGN).decode("utf-8", "replace").partition("\n")
                age = time.monotonic() - float(moment)
                found.append((path, None if ended else age, base.partition("\n")[0]))
        except (OSError, ValueError):
            pass
        finally:
            os.close(descriptor)
    return found


def _tidy_up(folder: str) -> None:
    """Remove the signs of processes that were killed."""
    for path, age, _ in _signs(folder):
        if age is None:
            _unlink(path)


def check() -> tuple[int, str]:
    """Return the exit status of `healthcheck` (0 alive, 1 not) and a sentence, for the services with our base topic.

    The stalest of several counts.
    """
    own = own_base_topic()
    is_app = bool(os.environ.get("SUPERVISOR_TOKEN"))  # it runs alone, with settings that the environment lacks
    signs = [(age, base) for folder in _folders() for _, age, base in _signs(folder)]
    ages = [age for age, base in signs if is_app or base == own]
    others = sorted({base for age, base in signs if base != own and age is not None})
    alive = [age for age in ages if age is not None]
    if not alive and not ages and others:
        return 1, f"No service with the base topic {own} runs here, only with {', '.join(others)}; set MQTT_BASE_TOPIC."
    if not alive:
        return 1, (
            "claude-usage-mqtt crashed or was killed; restart it."
            if ages
            else "claude-usage-mqtt is not running here as this user."
        )
    age = max(alive)
    if age > STUCK_AFTER:
        return 1, f"claude-usage-mqtt is stuck: its last sign of life is {age:.0f} s old; restart it."
    return 0, f"claude-usage-mqtt is alive: its last sign of life is {age:.0f} s old."
