"""Which commands there are, and what they have in common: arguments, errors, exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from types import FrameType

from claude_usage_mqtt import __version__
from claude_usage_mqtt.cli import handle_signals
from claude_usage_mqtt.errors import NO_THREADS, ClaudeUsageError, is_lack_of_threads

EXIT_STATUSES = """\
exit status:
  0 fine                      5 rate limited
  2 settings or usage         6 network or server error
  3 no usable credentials     7 the response was not understood
  4 refused by the API        8 the broker could not be reached or refused us
  9, 10  guard: wait, unknown

Settings come from the environment and from a file .env in the working folder; see config.example.env."""


TRY_STATUSLINE = """\
To try it by hand, if MQTT_HOST is not set (otherwise these numbers are published):
  echo '{"rate_limits": {"five_hour": {"used_percentage": 42}}}' | claude-usage-mqtt statusline"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser for all commands."""
    parser = argparse.ArgumentParser(
        prog="claude-usage-mqtt",
        description="Keeps the usage of a Claude subscription on an MQTT broker.",
        epilog=EXIT_STATUSES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=18),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands.add_parser("run", help="publish the usage until stopped (the default)")
    commands.add_parser("report", help="answer the requests of a service on another machine, with this machine's login")
    once = commands.add_parser("once", help="print the usage once; needs no broker")
    once.add_argument("--json", action="store_true", dest="as_json", help="one line, as on the state topic")
    check = commands.add_parser("check", help="go through the whole chain and say what is wrong")
    check.add_argument("--dump", action="store_true", help="print the API's response, without anything personal")
    for asking in (once, check):
        asking.add_argument(
            "--force", action="store_true", help="ask the API even if the service on the broker may not"
        )
    may_start = commands.add_parser("guard", help="may heavy work start now? for scripts: 0 yes, 9 wait, 10 unknown")
    may_start.add_argument("--account", metavar="ID", help="whose usage, if there are several accounts")
    may_start.add_argument("--window", metavar="W", help="look at this window only, for example seven_day_opus")
    may_start.add_argument("--below", metavar="PERCENT", type=_percent, help="wait from this percentage on")
    commands.add_parser("watch", help="show the usage in this terminal, from the broker")
    line = commands.add_parser(
        "statusline",
        help="Claude Code's status-line command: reads its JSON, prints a line",
        epilog=TRY_STATUSLINE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    line.add_argument("--account", metavar="ID", help="whose usage it is, if there are several")
    line.add_argument("--then", metavar="COMMAND", help="run this with the same input and show its line instead")
    commands.add_parser("demo", help="show it all with a simulated account and an embedded broker")
    commands.add_parser("remove", help="remove all our retained topics from the broker")
    recipe = commands.add_parser("recipe", help="print a dashboard, a blueprint, a flow ... to copy")
    recipe.add_argument("name", metavar="NAME", nargs="?", help="which one; without it they are listed")
    recipe.add_argument("--account", metavar="ID", help="for which account, if there are several")
    recipe.add_argument("folder", metavar="FOLDER", nargs="?", help="where to write a Home Assistant app")
    commands.add_parser("healthcheck", help="say whether the service on this machine is alive")
    return parser


def _percent(text: str) -> float:
    """Return a percentage; raises ArgumentTypeError, whose text argparse shows."""
    with contextlib.suppress(ValueError):
        percent = float(text.removesuffix("%"))
        if 0 < percent <= 100:
            return percent
    raise argparse.ArgumentTypeError(f"{text} is not a percentage above 0 and up to 100")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Return the parsed arguments, and do not keep the parser: the command may run for months."""
    parser = make_parser()
    actions = parser._actions  # noqa: SLF001 - argparse has no other way to list the commands
    commands = next(action.choices for action in actions if action.dest == "command") or ()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        import difflib  # noqa: PLC0415 - rarely needed, and start-up time counts

        near = difflib.get_close_matches(arguments[0].lower(), list(commands), n=1)
        parser.error(f"unknown command {arguments[0]}" + (f"; did you mean {near[0]}?" if near else "; see --help"))
    return parser.parse_args(arguments)


def dispatch(arguments: list[str]) -> int:
    """Run the command that `arguments` name and return its exit status; no error ever shows a traceback."""
    try:
        parsed = _parse(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    options = vars(parsed)
    name = options.pop("command") or "run"
    try:
        module = importlib.import_module("claude_usage_mqtt.cli." + name)
        handle_signals(_interrupt)
        return int(getattr(module, name)(**options))  # both have the command's name
    except ClaudeUsageError as error:
        print(f"claude-usage-mqtt: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as end:
        return 128 + int(end.args[0])
    except BrokenPipeError:
        # the reader of our output has left; nothing more can be written, not even when the interpreter ends
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as fault:  # noqa: BLE001 - a traceback helps nobody who reads a container's log
        said = NO_THREADS if is_lack_of_threads(fault) else f"internal error, please report it: {_place(fault)}"
        print(f"claude-usage-mqtt: {said}", file=sys.stderr)
        return 1


def _place(fault: Exception) -> str:
    """Return the kind of an error and where it was raised, and nothing of its text, which could hold a secret."""
    import traceback  # noqa: PLC0415 - rarely needed, and start-up time counts

    last = traceback.extract_tb(fault.__traceback__)[-1]
    return f"{type(fault).__name__} in {os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Unwind: connections are closed, and what the command started ends. Long runs have their own handler."""
    raise KeyboardInterrupt(number)
