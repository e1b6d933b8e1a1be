"""Which messages go to which handler: rows of a table, looked up by topic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """A topic filter and what handles the messages whose topic matches it.

    The handler takes the message and, one by one, the levels in place of each `+`.
    """

    topic_filter: str
    handle: Callable[..., None]

    def levels(self, topic: str) -> list[str] | None:
        """Return the levels of a topic in place of each `+`, None if it does not match."""
        wanted, given = self.topic_filter.split("/"), topic.split("/")
        if len(wanted) != len(given) or any(one not in ("+", other) for one, other in zip(wanted, given, strict=True)):
            return None
        return [other for one, other in zip(wanted, given, strict=True) if one == "+"]
