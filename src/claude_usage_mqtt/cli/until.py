"""Long-running programs: how one starts, and what stops it, a signal or the death of a thread."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from claude_usage_mqtt.logs import set_up_logging
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.settings.load import doubts, load_settings

if TYPE_CHECKING:
    from claude_usage_mqtt.reporter.loop import Reporter
    from claude_usage_mqtt.service.loop import Service

log = logging.getLogger(__name__)


def run_until_stopped(make: Callable[[Settings], Service | Reporter]) -> int:
    """Run what `make` returns for the settings until SIGTERM or SIGINT; raises SettingsError."""
    settings = load_settings()
    set_up_logging(settings.log_level, settings.log_format)
    for sentence in doubts():
        log.warning("%s", sentence)
    program = make(settings)
    with until_signal(program.stop), until_a_thread_dies(program.stop):
        program.run()
    log.info("Stopped")
    return 0


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
