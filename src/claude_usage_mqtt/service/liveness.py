"""Signs of life of the loop: a file for `healthcheck`, and systemd's notify socket if there is one.

Imports little: `healthcheck` has to start fast, and loads no other module of the program. A watchdog inside the process
could restart it, but Docker and people ask from outside. Each process has its own file (the time of its last sign of
life, and whose it is) and keeps it locked: the kernel releases the lock of one that was killed. The folders are open to
everybody, so links, and files that another user could have put there, are ignored.
"""

from __future__ import annotations

import os
import stat
import time
from zlib import crc32

try:
    import fcntl
except ImportError:  # Windows: there only the age of a sign can be checked
    fcntl = None  # type: ignore[assignment]

BEAT_EVERY = 10.0
"""Real seconds between signs of life; less if systemd's watchdog wants more."""

STUCK_AFTER = 90.0
"""Real seconds without one until the loop counts as stuck: one turn never takes that long."""

BEATS_PER_WATCHDOG = 3
"""Signs of life in systemd's `WatchdogSec`: one may be late."""

DEFAULT_BASE_TOPIC = "claude-usage"

MAX_SIGN, MAX_ENV_FILE = 4096, 100_000
"""Bytes and characters that are read."""

FOLDERS = ("/dev/shm", "/run", "/tmp", "/var/tmp")  # noqa: S108 - one of them is writable on a read-only root
NAME = "claude-usage-mqtt-heartbeat"
SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""How files in open folders are opened: never through a link, never waiting for the other end of a pipe."""


def _setting(variable: str) -> str:
    """Return what the environment, or `.env` in the working folder, says; empty without them."""
    given = os.environ.get(variable, "")
    if given:
        return given
    try:
        with open(".env", encoding="utf-8-sig", errors="replace") as file:
            lines = file.read(MAX_ENV_FILE).splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.strip().removeprefix("export ").partition("=")
        if name.strip().upper() == variable:
            given = value.strip().strip("'\"")
    return given


def own_base_topic() -> str:
    """Return this service's base topic."""
    return _setting("MQTT_BASE_TOPIC").strip("/ ") or DEFAULT_BASE_TOPIC


def own_accounts() -> str:
    """Return what distinguishes this service's accounts from another's, empty without `CLAUDE_ACCOUNTS`."""
    accounts = "".join(_setting("CLAUDE_ACCOUNTS").split())
    return f"{crc32(accounts.encode()):08x}" if accounts else ""


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _folders() -> list[str]:
    own = [os.environ[name] for name in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP") if os.environ.get(name)]
    return list(dict.fromkeys([*own, *FOLDERS]))


class Liveness:
    """Shows that the loop is running. If nothing can be written it does nothing: that must not stop the service."""

    def __init__(self, base_topic: str | None = None, publishes_at: str = "") -> None:
        """Prepare; `base_topic` distinguishes several services of a user, by default that of the environment.

        `publishes_at` is the address of the broker, empty if it does not publish the usage (a reporter).
        """
        self._identity = f"{base_topic or own_base_topic()}\n{own_accounts()}\n{publishes_at}"
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
        """Give a sign of life if it is time for one; not `alive` means that a vital part has died."""
        now = time.monotonic()
        if self._next is not None and now < self._next:
            return
        self._next = now + self._every
        if not alive:
            return
        self._write(f"{now:20.3f}\n{self._identity}\n".encode())
        self.notify("WATCHDOG=1")

    def _write(self, sign: bytes) -> None:
        try:
            if self._descriptor is not None and not os.fstat(self._descriptor).st_nlink:
                os.close(self._descriptor)  # somebody cleaned up the folder
                self._descriptor = None
            if self._descriptor is None:
                self._open()
            if self._descriptor is not None:
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.write(self._descriptor, sign)
        except OSError:
            pass

    def _open(self) -> None:
        """Open our file in the first usable folder, and remove those that killed processes left there."""
        for folder in _folders():
            path = os.path.join(folder, f"{NAME}-{_user()}-{os.getpid()}")
            descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
            if descriptor is None:
                continue
            if _lock(descriptor) is not False:
                self._descriptor, self._path = descriptor, path
                for sign in _signs([folder]):
                    if sign.age is None:
                        _unlink(sign.path)
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
        """Remove the sign of life."""
        self.notify("STOPPING=1")
        if self._descriptor is not None:
            _unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = None


def _opened(path: str, flags: int) -> int | None:
    """Return the descriptor of a plain file of this user's, under this one name; None if it is not one."""
    try:
        descriptor = os.open(path, flags | SAFELY, 0o600)
    except OSError:
        return None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_uid == _user() and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    return None


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


class _Sign:
    """A sign of life: how old it is in seconds, None if its process has ended, and whose it is."""

    def __init__(self, path: str, age: float | None, base_topic: str, accounts: str, publishes_at: str) -> None:
        self.path, self.age = path, age
        self.base_topic, self.accounts, self.publishes_at = base_topic, accounts, publishes_at


def _signs(folders: list[str]) -> list[_Sign]:
    """Return the signs of life of this user's services in some folders."""
    paths: list[str] = []
    prefix = f"{NAME}-{_user()}-"
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        paths += [os.path.join(folder, name) for name in names if name.startswith(prefix)]
    return [sign for sign in map(_sign, paths) if sign is not None]


def _sign(path: str) -> _Sign | None:
    descriptor = _opened(path, os.O_RDONLY)
    if descriptor is None:
        return None
    try:
        has_ended = _lock(descriptor, shared=True)  # the lock of a running process cannot be taken
        moment, *identity = os.read(descriptor, MAX_SIGN).decode("utf-8", "replace").split("\n")
        return _Sign(path, None if has_ended else time.monotonic() - float(moment), *identity[:3])
    except (OSError, TypeError, ValueError):
        return None
    finally:
        os.close(descriptor)


def publishes_here(base_topic: str, address: str) -> bool:
    """Whether a service of this user on this machine publishes under the base topic at that broker."""
    own = (base_topic, address)
    return any(sign.age is not None and (sign.base_topic, sign.publishes_at) == own for sign in _signs(_folders()))


def check() -> tuple[int, str]:
    """Return the exit status of `healthcheck` (0 alive, 1 not) and a sentence, for this service.

    It has our base topic and, if `CLAUDE_ACCOUNTS` is set, our accounts; the stalest of several counts.
    """
    own, accounts = own_base_topic(), own_accounts()
    is_app = bool(os.environ.get("SUPERVISOR_TOKEN"))  # only one runs, with settings that the environment lacks
    signs = _signs(_folders())
    ours = [
        sign for sign in signs if is_app or (sign.base_topic == own and (not accounts or sign.accounts == accounts))
    ]
    ages = [sign.age for sign in ours if sign.age is not None]
    if not ages:
        return 1, _why_none(own, ours, {sign.base_topic for sign in signs if sign.age is not None})
    age = max(ages)
    if age > STUCK_AFTER:
        return 1, f"claude-usage-mqtt is stuck: its last sign of life is {age:.0f} s old; restart it."
    return 0, f"claude-usage-mqtt is alive: its last sign of life is {age:.0f} s old."


def _why_none(base_topic: str, ours: list[_Sign], alive: set[str]) -> str:
    """Return why our service is not alive; `alive` are the base topics of those that are."""
    if ours:
        return "claude-usage-mqtt crashed or was killed; restart it."
    if base_topic in alive:
        return f"The service with the base topic {base_topic} that runs here has other accounts; check CLAUDE_ACCOUNTS."
    if alive:
        others = ", ".join(sorted(alive))
        return f"No service with the base topic {base_topic} runs here, only with {others}; set MQTT_BASE_TOPIC."
    return "claude-usage-mqtt is not running here as this user."
