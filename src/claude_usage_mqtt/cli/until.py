"""Long-running programs: how they start, and what stops them: a signal, or a thread that died."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from claude_usage_mqtt.cli import handle_signals
from claude_usage_mqtt.logs import set_up_logging
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.settings.load import doubts, load_settings

if TYPE_CHECKING:
    from claude_usage_mqtt.reporter.loop import Reporter
    from claude_usage_mqtt.service.loop import Service

log = logging.getLogger(__name__)


def run_until_stopped(make: Callable[[Settings], Service | Reporter]) -> int:
    """Run what `make` returns for the settings until SIGTERM or SIGINT; raises SettingsError.

    It also stops with the error that ended a thread: no thread may end unnoticed.
    """
    settings = load_settings()
    set_up_logging(settings.log_level, settings.log_format)
    for sentence in doubts():
        log.warning("%s", sentence)
    program = make(settings)
    handle_signals(lambda _number, _frame: program.stop())
    threading.excepthook = lambda died: program.stop(died.exc_value)
    program.run()
    log.info("Stopped")
    return 0
