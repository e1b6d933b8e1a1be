"""The command line: one module a command, each imported only when it is asked for."""

from __future__ import annotations

import os
import sys

TERMINATED = 143
"""The exit status of a process that SIGTERM ended, as shells and container engines count it."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    if os.getpid() == 1:
        _end_at_sigterm()
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
    from claude_usage_mqtt.cli.commands import dispatch  # noqa: PLC0415

    return dispatch(arguments)


def _end_at_sigterm() -> None:
    """End at SIGTERM from now on: the kernel ignores it for process 1, as in a container, unless there is a handler.

    `run` needs half a second for its imports before it installs its own.
    """
    import signal  # noqa: PLC0415 - not worth importing elsewhere

    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
