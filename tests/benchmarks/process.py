"""Processes, and what they have used, as the kernel counts it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(TESTS)}
"""Nothing else: a variable that is set here may keep Python from caching compiled code."""
TICK = 1 / os.sysconf("SC_CLK_TCK")

Process = subprocess.Popen[str]


def cpu_seconds(process: Process) -> float:
    """Return the CPU time of all its threads, user and system."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def resident_megabytes(process: Process) -> float:
    """Return its resident memory."""
    for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(process.pid)


def threads(process: Process) -> int:
    """Return how many it has."""
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def wakeups(process: Process) -> int:
    """Return how often its threads have waited for something, and so were woken up."""
    found = 0
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        status = (thread / "status").read_text(encoding="ascii")
        found += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


@contextmanager
def running(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run Python with these arguments, its output piped, until the end of the context."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=ENVIRONMENT | dict(environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def first_line(process: Process) -> str:
    """Wait for the first line it prints and return it."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"a process of the benchmark ended early: {process.args}")
    return line


def median(values: Sequence[float]) -> float:
    """Return the middle one."""
    return sorted(values)[len(values) // 2]
