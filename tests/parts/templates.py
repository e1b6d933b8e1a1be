"""Templates of entities, rendered as Home Assistant does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest


def template(text: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Callable[..., str]:
    """Return a template as Home Assistant renders it."""
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.globals |= {"as_timestamp": as_timestamp, "now": now}
    render: Callable[..., str] = environment.from_string(text).render
    return render


def as_timestamp(value: str | datetime | None, default: float | None = None) -> float | None:
    """Return seconds since 1970 as Home Assistant's function of this name does."""
    if isinstance(value, datetime):
        return value.timestamp()
    try:
        return datetime.fromisoformat(value or "").timestamp()
    except ValueError:
        assert default is not None, value
        return default
