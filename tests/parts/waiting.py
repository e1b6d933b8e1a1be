"""Waiting for what happens in another thread or process, for a reasonable time."""

import time
from collections.abc import Callable

REASONABLE = 30.0
"""Seconds, enough for a machine that is busy with something else."""


def eventually(is_true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    ends = time.monotonic() + REASONABLE
    while not is_true():
        assert time.monotonic() < ends
        time.sleep(0.01)
