"""A few seconds of the soak; `python -m soak` runs it for as long as anybody likes."""

import sys

import pytest

import soak
from parts.broker import needs_mosquitto


@needs_mosquitto
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to look at the process")
def test_after_many_faults_it_is_as_before() -> None:
    """After faults of every kind the numbers are right, and no memory, thread or descriptor is left behind."""
    assert "faults" in soak.soak(seconds=2, seed=7, pause=0.15)
