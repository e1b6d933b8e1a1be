"""The queue of everything that happened, for the loop: from paho's thread, workers and signal handlers."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Generic, NamedTuple, TypeVar

from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.connection import ConnectionEvent
from claude_usage_mqtt.sources.credentials.watch import CachedReading, LoginChanged
from claude_usage_mqtt.sources.source import PollResult

MAX_INBOX = 2000
"""Incoming messages beyond this many unread items are dropped: no legitimate sender does that."""


class Outgoing(NamedTuple):
    """A message that a worker wants to send."""

    message: Message


class Stop(NamedTuple):
    """Asks the loop to end, raising the `cause` if there is one."""

    cause: BaseException | None = None

    def obey(self) -> None:
        """Raise the cause, the error that ended a thread: without that thread nothing is certain."""
        if self.cause is not None:
            raise self.cause


Item = ConnectionEvent | PollResult | LoginChanged | CachedReading | Outgoing | Stop

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue that any thread, and a signal handler, may put into, and one thread takes from.

    The standard library has none whose waits always end: `queue.Queue` takes a lock that the thread a signal interrupts
    may hold, and `queue.SimpleQueue`, up to Python 3.12, waits forever if its time runs out while it is interrupted.
    asyncio would not replace the threads: paho's network loop, a blocking request, a file on a dead mount need them.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._wake = threading.Lock()  # held as long as nothing has been put since the last wait

    def put(self, item: T) -> None:
        """Add an item; incoming messages are dropped if too many wait."""
        if isinstance(item, Message) and len(self._items) >= MAX_INBOX:
            return
        self._items.append(item)
        with contextlib.suppress(RuntimeError):  # it is already released
            self._wake.release()

    def get(self, timeout: float) -> T | None:
        """Return the next item, None if none came within `timeout` seconds; it may return None sooner."""
        if self._items:
            self._wake.acquire(blocking=False)  # put while nobody waited: otherwise the next wait would end at once
        else:
            self._wake.acquire(timeout=timeout)
        return self._items.popleft() if self._items else None
