"""The command line: one module a command, each imported only when it is asked for."""

from __future__ import annotations

import os
import sys

INTERRUPTED, TERMINATED = 130, 143
"""The exit status of a process that SIGINT or SIGTERM ended, as shells and container engines count it."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    if os.getpid() == 1:
        # The kernel ignores SIGTERM for process 1, as in a container, unless there is a handler.
        import signal  # noqa: PLC0415 - not worth importing elsewhere

        signal.signal(signal.SIGTERM, _end_at_once)
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["healthcheck"]:
        # Asked every minute by the container: nothing else is imported for it.
        from claude_usage_mqtt.service.liveness import check  # noqa: PLC0415

        status, sentence = check()
        sys.stdout.write(sentence + "\n")
        return status
    if arguments[:1] == ["statusline"]:
        # Somebody waits for its line; the parser, which is slow to import, is for mistakes and `--help`.
        names, values = arguments[1::2], arguments[2::2]
        are_simple = len(names) == len(values) == len(set(names)) and not any(v.startswith("-") for v in values)
        if are_simple and set(names) <= {"--account", "--then"}:
            from claude_usage_mqtt.cli.statusline import statusline  # noqa: PLC0415

            return statusline(**{name[2:]: value for name, value in zip(names, values, strict=True)})
    import signal  # noqa: PLC0415 - whoever waits for the commands above does not wait for this

    # Until a command has been imported, which takes up to half a second, Ctrl-C would show where it hit.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)
    try:
        from claude_usage_mqtt.cli.commands import dispatch  # noqa: PLC0415

        return dispatch(arguments)
    finally:
        let_commands_end()


def let_commands_end() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again, if it ended the process at once: there is something to end."""
    import signal  # noqa: PLC0415

    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(number: int, _frame: object) -> None:
    os._exit(128 + number)
