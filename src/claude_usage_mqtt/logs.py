"""The log: text for people or JSON for machines, one line per message, and one per outage, not per attempt."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class _OneLine(logging.Formatter):
    """Text; unprintable characters (a terminal escape, a line break in outside data) become `?`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_info = record.exc_text = record.stack_info = None  # a traceback could show whatever the frames hold
        return "".join(c if c.isprintable() else "?" for c in super().format(record))


class _JsonLine(logging.Formatter):
    """One JSON object per line: `time`, `level`, `message`."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                "message": record.getMessage(),
            }
        )


def set_up_logging(level: str, form: str) -> None:
    """Log this package's messages to standard error; other libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine() if form == "json" else _OneLine())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("claude_usage_mqtt").setLevel(level.upper())


class Outage:
    """Something that may be broken: one line when it breaks, one when it is back.

    Another line comes only if it breaks in a way (`kind`) that was not reported yet.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._reported: set[str] = set()

    def down(self, kind: str, sentence: str) -> None:
        """Log that it is broken, unless that was logged."""
        if kind not in self._reported:
            self._reported.add(kind)
            self._log.warning("%s", sentence)

    def up(self, sentence: str) -> None:
        """Log that it works again, if it was broken."""
        if self._reported:
            self._reported.clear()
            self._log.info("%s", sentence)
