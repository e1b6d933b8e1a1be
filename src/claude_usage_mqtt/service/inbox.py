"""What the loop is told, from paho's thread, from workers and from signal handlers."""

from __future__ import annotations

import queue

from claude_usage_mqtt.mqtt.attempt import Notice
from claude_usage_mqtt.mqtt.connection import Message
from claude_usage_mqtt.service.worker import Noticed, Outcome

MAX_INBOX = 2000
"""Incoming messages beyond this many unread items are dropped: nobody sends us that much in earnest."""


class Stop:
    """Ask the loop to end."""


Item = Notice | Outcome | Noticed | Stop


class Inbox:
    """A queue that any thread, and a signal handler, may put into."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def put(self, item: Item) -> None:
        """Add an item; incoming messages are dropped where too many wait."""
        if isinstance(item, Message) and self._queue.qsize() >= MAX_INBOX:
            return
        self._queue.put(item)

    def get(self, timeout: float) -> Item | None:
        """Return the next item, None after `timeout` seconds."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None
