"""What stops a long-running program: a signal, or the death of a thread."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def until_a_thread_dies(stop: Callable[[BaseException], None]) -> Iterator[None]:
    """Call `stop` with the error that ended a thread: no thread may be missing unnoticed."""

    def on_death(died: threading.ExceptHookArgs) -> None:
        if died.exc_value is not None:
            stop(died.exc_value)

    before, threading.excepthook = threading.excepthook, on_death
    try:
        yield
    finally:
        threading.excepthook = before


def until_signal(stop: Callable[[], object]) -> contextlib.AbstractContextManager[None]:
    """Call `stop` at SIGTERM or SIGINT."""
    return on_signals(lambda _number, _frame: stop())


@contextlib.contextmanager
def on_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT; the handlers that were there before are back afterwards."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
