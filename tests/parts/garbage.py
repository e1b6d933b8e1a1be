"""What waits in memory for the garbage collector, because it refers to itself in a circle."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage(*kinds: type) -> Iterator[None]:
    """Fail if there are more objects of these kinds afterwards, though the collector did not run."""
    gc.collect()
    gc.disable()
    try:
        before = _count(kinds)
        yield
        end_of_requests()
        assert _count(kinds) <= before
    finally:
        gc.enable()


def end_of_requests() -> None:
    """Wait until no thread is left of a request to the API."""
    for thread in threading.enumerate():
        if thread.name == "usage-request":
            thread.join(10)
            assert not thread.is_alive()


def _count(kinds: tuple[type, ...]) -> int:
    return sum(isinstance(found, kinds) for found in gc.get_objects())
