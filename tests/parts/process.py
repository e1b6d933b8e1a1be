"""Processes that tests start, and what they log, to be waited for."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from parts.waiting import REASONABLE

END_TIMEOUT: Final = 10.0
"""Seconds: container engines kill what has not ended by then."""


class Log:
    """Lines as they come, to be waited for; the last `kept` of them."""

    def __init__(self, kept: int = 20_000) -> None:
        self._lines: deque[str] = deque(maxlen=kept)
        self._changed = threading.Condition()
        self._has_ended = False

    def add(self, line: str) -> None:
        """Add a line."""
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def end(self) -> None:
        """End all waits for more lines."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        """Return all lines so far."""
        with self._changed:
            return list(self._lines)

    @property
    def text(self) -> str:
        """Return all lines so far as one text."""
        return "\n".join(self.lines)

    def count(self, part: str) -> int:
        """Return how many lines hold this."""
        return sum(part in line for line in self.lines)

    def wait_for(self, part: str, timeout: float = REASONABLE, *, count: int = 1) -> None:
        """Wait until that many lines hold this."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self.count(part) >= count, timeout)
        assert self.count(part) >= count, (
            f"no {part!r} in {timeout} s or before its end in the log:\n{self.text[-9000:]}"
        )


class LoggedProcess:
    """A process with a log of its standard error; a context manager that ends it, by SIGKILL if it must."""

    def __init__(self, command: Sequence[object], **how: Any) -> None:
        self.log = Log()
        self._start: Callable[[], subprocess.Popen[str]] = lambda: subprocess.Popen(
            list(map(str, command)),
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **how},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def __enter__(self) -> Self:
        self.process = self._start()
        self._reader = threading.Thread(target=self._read, name="process log")
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.stop()

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal, as fast as a container engine requires; return its exit status."""
        self.process.send_signal(by)
        status = self.process.wait(END_TIMEOUT)
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.log.add(line.rstrip("\n"))
        self.log.end()
