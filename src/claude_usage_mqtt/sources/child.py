"""Another program, run once: with limits on its time and output, in a process group that never outlives us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

MAX_OUTPUT = 2 * 1024 * 1024
"""Bytes; Claude Code's answer has a few thousand."""

ENDS_WITHIN = 2.0
"""Seconds that a program has to end once it has closed its output."""

GUARD = """
exec 3<&0 < /dev/null
folder=$1; shift
printf '%s\\n' "$1" | { shift; exec "$@" 3<&-; } &
program=$!
( read -r _ <&3; rm -rf "$folder"; kill -9 -$$ ) > /dev/null 2>&1 &
exec 3<&- > /dev/null 2>&1
wait "$program"
"""
"""Gives the program its input and waits for it. A guard next to it waits on a pipe whose other end only we have: when
we are gone, even by SIGKILL, that pipe ends, and the guard removes the folder and kills the whole group."""

IS_POSIX = os.name == "posix"


class Ended(NamedTuple):
    """How a program ended: its exit status, None if it had to be killed, and what it wrote, errors included."""

    status: int | None
    output: str


def run_child(command: Sequence[str], request: str, environment: Mapping[str, str], deadline: float) -> Ended:
    """Run a program in an empty temporary folder, for at most this long; raises OSError if it cannot be started.

    Its standard input is the one line `request`. Its own temporary files are removed with the folder.
    """
    with tempfile.TemporaryDirectory(prefix="claude-usage-", ignore_cleanup_errors=True) as folder:
        work, temporary = Path(folder, "work"), Path(folder, "tmp")
        work.mkdir()
        temporary.mkdir()
        environment = {**environment, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
        process = _start(command, request, environment, work)
        try:
            return _listen(process, deadline)
        finally:
            _kill(process)


def _start(
    command: Sequence[str], request: str, environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", GUARD, "guard", str(folder.parent), request, *command] if IS_POSIX else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
        start_new_session=IS_POSIX,
    )
    if not IS_POSIX and process.stdin is not None:
        with contextlib.suppress(OSError), process.stdin as standard_input:
            standard_input.write(f"{request}\n".encode())
    return process


def _listen(process: subprocess.Popen[bytes], deadline: float) -> Ended:
    """Return what a program writes until it closes its output; a thread reads, as a read may wait forever.

    The thread has its own descriptor: it may still read when we have given up and closed ours, because a process
    that left the group holds the other end.
    """
    chunks: list[bytes] = []
    own = os.dup(process.stdout.fileno())  # type: ignore[union-attr]
    reader = threading.Thread(target=_read, args=(own, chunks), name="child-output", daemon=True)
    reader.start()
    reader.join(deadline)
    status = None
    if not reader.is_alive():
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(ENDS_WITHIN)
    return Ended(status, b"".join(chunks).decode("utf-8", "replace"))


def _read(descriptor: int, chunks: list[bytes]) -> None:
    size = 0
    with open(descriptor, "rb", buffering=0) as output:
        while size < MAX_OUTPUT and (chunk := output.read(65536)):
            chunks.append(chunk)
            size += len(chunk)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group. The guard is part of it and still there, so the group's number is still its own."""
    with contextlib.suppress(OSError):
        if IS_POSIX:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ENDS_WITHIN)
    if process.stdout is not None:
        process.stdout.close()
