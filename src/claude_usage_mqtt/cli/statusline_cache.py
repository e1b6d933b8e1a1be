"""What the status line remembers between two runs, in the user's cache folder: numbers and times, no secret.

For each session, its last response: Claude Code runs the command again with the same numbers, every minute if it was
asked to, and these must keep the time at which they were read. For each account, the message that was handed over
last, and the one that the broker took last. The line is printed before any of this is needed, but it is still started
often: imports are few.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from datetime import datetime
from pathlib import Path

from claude_usage_mqtt.instants import from_epoch
from claude_usage_mqtt.sources.rate_limits import Limit, Mark
from claude_usage_mqtt.untrusted import json_object

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SESSIONS = 100
"""Sessions that are remembered; those not seen for the longest time are dropped first."""

MAX_RECORD = 4096
"""Bytes; a record has about 250."""

LIFE = 8.0
"""Seconds after which the publishing process ends, wherever it hangs."""


def cache_folder(environment: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Return our folder in the user's cache folder; raises RuntimeError without a home folder.

    On a Mac it is not in `~/Library/Caches`: most command-line programs use `~/.cache` there too.
    """
    own = environment.get("LOCALAPPDATA" if platform == "win32" else "XDG_CACHE_HOME")
    folder = Path(own) if own and Path(own).is_absolute() else Path("~/.cache").expanduser()
    return folder / "claude-usage-mqtt"


def read_file(file: Path) -> bytes:
    """Return what a file holds, at most a byte more than `MAX_RECORD`; empty if it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_RECORD + 1)
    except OSError:
        return b""


def write_file(file: Path, content: bytes) -> bool:
    """Replace a file, whole; return whether that was possible."""
    temporary = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False
    return True


def note_session(folder: Path, mark: Mark, limits: Mapping[str, Limit], now: datetime) -> tuple[datetime, bool | None]:
    """Return when a session's numbers were read, and whether they certainly come from a response just now.

    When a session is first seen its numbers may be hours old, so that is not certain: after `/clear` a terminal has
    another session, which begins with the numbers of the one before and is as old. Without a session's id it is not
    known at all (None): several may take turns.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "", mark.session[:64])
    file = folder / f"session-{name or 'unnamed'}.json"
    shown = {
        key: [limit.percent, limit.resets_at and int(limit.resets_at.timestamp())] for key, limit in limits.items()
    }
    known = json_object(read_file(file), MAX_RECORD)
    read_at, is_response = now, (False if name else None)
    if not known:
        read_at = _last_shown(folder, shown, now)
    elif not _shows(known, shown) or mark.is_other_than(known.get("duration"), known.get("prompt")):
        is_response = True if name else None
    else:
        read_at = _read_at(known, now)
    record = {
        "at": round(read_at.timestamp(), 3),
        "duration": mark.duration,
        "prompt": mark.prompt,
        "limits": shown,
    }
    if record != known:
        if not known:
            _forget_oldest(folder)
        write_file(file, json.dumps(record).encode())
    return read_at, is_response


def _read_at(record: Mapping[str, object], now: datetime) -> datetime:
    return min(from_epoch(record.get("at")) or now, now)


def _shows(record: Mapping[str, object], shown: Mapping[str, object]) -> bool:
    """Whether a session had these numbers, and perhaps one that has disappeared since: its window is over."""
    limits = record.get("limits")
    return isinstance(limits, dict) and limits.items() >= shown.items()


def _last_shown(folder: Path, shown: Mapping[str, object], now: datetime) -> datetime:
    """Return when a session last read exactly these numbers, now if none has."""
    records = [json_object(read_file(file), MAX_RECORD) for file in folder.glob("session-*")] if shown else []
    return max((_read_at(record, now) for record in records if _shows(record, shown)), default=now)


def _forget_oldest(folder: Path) -> None:
    """Make room for another session."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("session-*"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MAX_SESSIONS - 1 :]:
            file.unlink()


class PendingReading:
    """The message to publish for an account, and which process may do it."""

    def __init__(self, account: str, folder: Path) -> None:
        self.account = account
        self.folder = folder
        self._file = folder / f"statusline-{account}.json"
        self._sent = folder / f"statusline-{account}.sent"
        self._lock = folder / f"statusline-{account}.lock"

    def read(self) -> bytes:
        """Return the last message; empty if no readable one exists."""
        return read_file(self._file)

    def write(self, message: bytes) -> bool:
        """Replace the message, whole; return whether that was possible."""
        return write_file(self._file, message)

    def touch(self) -> bool:
        """Let the age start anew, whatever the message is by now; return whether that was possible."""
        try:
            os.utime(self._file)
        except OSError:
            return False
        return True

    def note_sent(self, message: bytes) -> None:
        """Note that the broker has accepted a message."""
        write_file(self._sent, message)

    def is_sent(self, message: bytes) -> bool:
        """Whether the broker has accepted this message."""
        return read_file(self._sent) == message

    def age(self) -> float:
        """Return seconds since the message was written; infinite if that is not known."""
        try:
            age = time.time() - self._file.stat().st_mtime
        except OSError:
            return float("inf")
        return age if age >= 0 else float("inf")

    def claim(self) -> bool:
        """Return whether this process may do it now; a claim older than any process can become is void."""
        try:
            with contextlib.suppress(FileNotFoundError):  # if it is not there, another process may be making it
                if not 0 <= time.time() - self._lock.stat().st_mtime <= LIFE + 2:
                    self._lock.unlink()
            self._lock.touch(0o600, exist_ok=False)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Let the next process do it."""
        with contextlib.suppress(OSError):
            self._lock.unlink()
