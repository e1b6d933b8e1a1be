"""The log of the numbers: one flat JSON line per successful poll, for Loki and the like.

A problem with the file never stops the service: there is one warning, and lines are written again as soon as possible.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.logs import Outage

log = logging.getLogger(__name__)

EXTRA_USAGE = ("enabled", "used", "limit", "remaining", "utilization", "currency")

FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Non-blocking, for a named pipe that nobody reads."""

MAX_WAITING = 1000
"""Lines that wait while a write hangs."""

CLOSE_WITHIN = 0.3
"""Real seconds for the last lines."""


class UsageLog:
    """A file that lines are appended to; opened for each line, so that it may be rotated or removed at any time.

    Not logging's `WatchedFileHandler`, which prints a traceback for each line that fails and waits for a pipe's reader.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outage = Outage(log)
        self._is_torn = False
        self._waiting: queue.Queue[tuple[Mapping[str, Any], datetime] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def put(self, document: Mapping[str, Any], now: datetime) -> None:
        """Queue the line of a state document for a thread: a file on a dead mount must not stop the service."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="usage-log", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((document, now))
        except queue.Full:
            self._outage.down("hangs", f"USAGE_LOG ({self._path}): writing hangs; its lines are lost until it ends.")

    def close(self) -> None:
        """Write the waiting lines, if that takes only a moment."""
        if self._thread is not None and not self._waiting.full():
            self._waiting.put_nowait(None)
            self._thread.join(CLOSE_WITHIN)

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            self.write(*waiting)

    def write(self, document: Mapping[str, Any], now: datetime) -> None:
        """Append the line of a state document; if that fails, one warning is logged, and no error is raised."""
        line = json.dumps(flat(document, now)).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self._outage.down(
                reason, f"USAGE_LOG ({self._path}) cannot be written: {reason}; its lines are lost until it can be."
            )
        else:
            self._outage.up(f"USAGE_LOG ({self._path}) is written again.")

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self._path, FLAGS, 0o644)
        try:
            # A line that a full disk cut short is ended first, so that it does not damage the next one.
            line = b"\n" + line if self._is_torn else line
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def flat(document: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a state document as one flat object: `<window>_<number>` and `extra_usage_<number>`, null for unknown."""
    line: dict[str, Any] = {"timestamp": format_instant(now), "account": document["account"], "plan": document["plan"]}
    for key, window in document["windows"].items():
        line |= {f"{key}_{name}": value for name, value in window.items() if name != "label"}
    money = document["extra_usage"] or {}
    return line | {f"extra_usage_{name}": money.get(name) for name in EXTRA_USAGE}
