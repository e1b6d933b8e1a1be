"""The command line: one module per command, each imported only when needed."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["healthcheck"]:
        # The container runs this every minute: nothing else is imported for it.
        from claude_usage_mqtt.cli.healthcheck import healthcheck  # noqa: PLC0415

        return healthcheck()
    if arguments[:1] == ["statusline"]:
        # Somebody waits for its line; the parser, which is slow to import, is only for mistakes and `--help`.
        names, values = arguments[1::2], arguments[2::2]
        are_simple = len(names) == len(values) == len(set(names)) and not any(v.startswith("-") for v in values)
        if are_simple and set(names) <= {"--account", "--then"}:
            from claude_usage_mqtt.cli.statusline import statusline  # noqa: PLC0415

            return statusline(**{name[2:]: value for name, value in zip(names, values, strict=True)})
    # Until a command has been imported, which takes up to half a second, there is nothing to clean up: Ctrl-C would
    # show a traceback, and the kernel ignores SIGTERM for process 1, as in a container, unless there is a handler.
    handle_signals(_end_at_once)
    from claude_usage_mqtt.cli.commands import dispatch  # noqa: PLC0415

    return dispatch(arguments)


def handle_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle SIGTERM and Ctrl-C from now on, even if a script that started us in its background has Ctrl-C ignored."""
    import signal  # noqa: PLC0415 - `healthcheck` and `statusline` do not wait for this

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
