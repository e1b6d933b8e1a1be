"""The fast time, the same in every process of a measurement."""

import time
from datetime import UTC, datetime, timedelta


def fast_now(origin: float, speed: float) -> datetime:
    """Return the fast time; `origin` is the steady clock when it began."""
    return datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=(time.monotonic() - origin) * speed)
