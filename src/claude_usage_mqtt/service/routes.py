"""A table of topics and their handlers: it says what to subscribe to, and how to handle a message. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from claude_usage_mqtt.mqtt.client import Message


class Route(NamedTuple):
    """A topic and what to do with its messages: `handle` gets the message, and the level for each `+` in the topic."""

    topic: str
    handle: Callable[..., None]
    is_early: bool = False
    """Whether it is also handled before the service publishes."""
    takes_retained: bool = False
    """Whether it is also handled if it was retained: an old command would run again on each connection."""
    is_late: bool = False
    """Whether it is subscribed to when we publish ourselves, not with the connection."""


class Routes:
    """The table; if a message fits several topics, an exact one wins, and then the first."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[list[str], Route]] = []
        self.add(routes)

    def add(self, routes: Iterable[Route]) -> None:
        """Add rows."""
        for route in routes:
            if "+" in route.topic:
                self._patterns.append((route.topic.split("/"), route))
            else:
                self._exact[route.topic] = route

    def topics(self, *, late: bool = False) -> list[str]:
        """Return what to subscribe to."""
        routes = [*(route for _, route in self._patterns), *self._exact.values()]
        return [route.topic for route in routes if route.is_late == late]

    def handle(self, message: Message, *, is_early: bool) -> None:
        """Call the handler of a message's topic, unless it is not meant for such messages."""
        route, levels = self._find(message.topic)
        if route is not None and (route.is_early or not is_early) and (route.takes_retained or not message.retain):
            route.handle(message, *levels)

    def _find(self, topic: str) -> tuple[Route | None, list[str]]:
        if topic in self._exact:
            return self._exact[topic], []
        levels = topic.split("/")
        for pattern, route in self._patterns:
            pairs = list(zip(pattern, levels, strict=False))
            if len(pattern) == len(levels) and all(wanted in ("+", level) for wanted, level in pairs):
                return route, [level for wanted, level in pairs if wanted == "+"]
        return None, []
