"""`statusline --then`: the user's own status-line command, run with the same input, its line shown as it is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from types import FrameType

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable


def run_other(command: str, data: bytes, meanwhile: Callable[[], None]) -> int:
    """Run a shell command with `data` as its input and our output as its own; return its exit status.

    Claude Code ends us with SIGTERM when the next line is due: then the command ends too, with its children.
    `meanwhile` is called while it runs.
    """
    has_groups = hasattr(os, "killpg")
    process: subprocess.Popen[bytes] | None = None
    ended_by: int | None = None

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal ended_by
        ended_by = number
        if process is not None:  # else it is just being started
            end(process, number)

    def end(process: subprocess.Popen[bytes], number: int) -> None:
        with contextlib.suppress(OSError):
            if has_groups:
                os.killpg(process.pid, signal.SIGTERM)
            else:
                process.terminate()
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        process = subprocess.Popen(  # noqa: S602 - the command is the user's own
            command, shell=True, stdin=subprocess.PIPE, start_new_session=has_groups
        )
    except (OSError, ValueError):
        return 127
    with process:
        if ended_by is not None:
            end(process, ended_by)
        meanwhile()
        process.communicate(data)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode
