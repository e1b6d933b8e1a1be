"""The program's commands, run as a person runs them: in a folder, with a clean environment."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from claude_usage_mqtt.cli import main

# What a process needs to start at all; none of the tester's own settings may reach the program.
KEPT = ("PATH", "SYSTEMROOT", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")


def clean_environment(home: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Return an environment that holds `settings`, a home folder, and nothing else of ours or Claude Code's."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"HOME": str(home), "TMPDIR": str(home)} | {name: str(value) for name, value in settings.items()}


def command_line(*arguments: str) -> list[str]:
    """Return the command line of a command; warnings are errors in it too."""
    return [sys.executable, "-W", "error", "-m", "claude_usage_mqtt", *arguments]


QUICK_REPORTER = """
from claude_usage_mqtt.cli import main
from claude_usage_mqtt.reporter import publishing
publishing.NAME_CHECK = 0.3
raise SystemExit(main(["report"]))
"""
"""`report` without the wait of two seconds for another one of its name."""


def run_command(home: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a process, in `home` with settings as its environment; return exit status and output."""
    return run_python(home, *command_line(*arguments)[1:], **more)


def run_python(
    home: Path, *arguments: str, stdin: str = "", timeout: float = 60, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Do the same with any arguments of the interpreter."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=clean_environment(home, settings),
        cwd=home,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def call_command(home: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Do the same inside this process, which saves the start of an interpreter; for commands that end by themselves."""
    output, errors = io.StringIO(), io.StringIO()
    with _in_place_of_ours(home, settings), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(list(arguments))
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


@contextlib.contextmanager
def _in_place_of_ours(home: Path, settings: Mapping[str, object]) -> Iterator[None]:
    """Set a command's environment, folder and signal handlers in this process, and restore them afterward."""
    environment, folder = dict(os.environ), Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    wanted = clean_environment(home, settings)
    try:
        os.environ.clear()
        os.environ.update(wanted)
        os.chdir(home)
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
