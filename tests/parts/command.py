"""The program's commands, run as a person runs them: in a process of their own, with a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# What a process needs to start at all; nothing of the tester's own settings may reach the program.
KEPT = ("PATH", "SYSTEMROOT", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")


def clean_environment(home: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Return an environment that holds `settings`, a home folder, and nothing else of ours or Claude Code's."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"HOME": str(home), "TMPDIR": str(home)} | {name: str(value) for name, value in settings.items()}


def command_line(*arguments: str) -> list[str]:
    """Return the command line of a command; warnings are errors in it too."""
    return [sys.executable, "-W", "error", "-m", "claude_usage_mqtt", *arguments]


def run_command(
    home: Path, *arguments: str, stdin: str = "", timeout: float = 60, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a command in `home` with `settings` as its environment; return exit status and output."""
    return subprocess.run(
        command_line(*arguments),
        env=clean_environment(home, settings),
        cwd=home,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
