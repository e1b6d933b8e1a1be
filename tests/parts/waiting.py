"""Waiting for what happens in another thread or process, as long as it takes within reason."""

import time
from collections.abc import Callable

REASONABLE = 30.0
"""Seconds, on a machine that is busy with something else."""


def eventually(is_true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    ends = time.monotonic() + REASONABLE
    while not is_true():
        assert time.monotonic() < ends
        time.sleep(0.01)
