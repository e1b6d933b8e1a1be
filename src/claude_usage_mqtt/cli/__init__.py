"""The command line: one module a command, each imported only when it is asked for."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["healthcheck"]:
        # Asked every minute by the container: nothing else is imported for it.
        from claude_usage_mqtt.service.liveness import check  # noqa: PLC0415

        status, sentence = check()
        sys.stdout.write(sentence + "\n")
        return status
    if arguments[:1] == ["statusline"] and (len(arguments) == 1 or arguments[1:-1] == ["--account"]):
        # Somebody waits for its line; what else it may be given is for the parser.
        from claude_usage_mqtt.cli.statusline import statusline  # noqa: PLC0415

        return statusline(*arguments[2:])
    from claude_usage_mqtt.cli.commands import dispatch  # noqa: PLC0415

    return dispatch(arguments)
