"""A reporter's own limits: whatever it is asked, and by whom, these hold. Pure; instants are seconds of one clock.

The publisher has its own budget and asks less often than this allows. It is not trusted to: anybody who may
publish on the broker can ask.
"""

from __future__ import annotations

from collections import OrderedDict

REQUESTS_PER_HOUR = 20
"""Two thirds of what the API was seen to allow; the rest is Claude Code's own."""

HOUR = 3630.0
"""Seconds in which they are counted: a request may take half a minute to arrive where the API counts it."""

SIMULTANEOUS = 2
"""Left free if other machines are asked too: they may be making requests that are not known here yet."""

SPACING = 60.0
"""Seconds between two requests: the numbers do not change faster, and bursts are punished."""

AFTER_START = 60.0
"""Seconds after the start in which a request of the run before, which nobody remembers, may still be recent."""

MAX_IDS = 2000
"""Remembered ids of requests: more than can be honestly asked in a week."""


class RequestLimit:
    """When the API may be asked for one account.

    Requests of reporters on other machines count in the hour: their answers say how many there were.
    """

    def __init__(self) -> None:
        self._own: list[float] = []
        self._others: list[float] = []

    def wait(self, now: float) -> float:
        """Return how many seconds a request would have to wait from `now` on; 0 if it is allowed."""
        self._own, self._others = ([at for at in times if at > now - HOUR] for times in (self._own, self._others))
        earliest = max(now, self._own[-1] + SPACING) if self._own else now
        allowed = REQUESTS_PER_HOUR - (SIMULTANEOUS if self._others else 0)
        requests = sorted(self._own + self._others)
        if len(requests) >= allowed:
            earliest = max(earliest, requests[-allowed] + HOUR)
        return earliest - now

    def record(self, now: float) -> None:
        """Note a request that was made, or may have been."""
        self._own = [*self._own, now][-REQUESTS_PER_HOUR:]

    def record_elsewhere(self, now: float, count: int) -> None:
        """Note requests that another machine made for the account."""
        self._others = [*self._others, *[now] * count][-REQUESTS_PER_HOUR:]


class SeenIds:
    """The ids of the requests that were answered or refused, so that none is answered twice; the oldest are dropped."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, request: str) -> bool:
        """Note an id; return whether it is new."""
        if request in self._ids:
            return False
        self._ids[request] = None
        if len(self._ids) > MAX_IDS:
            self._ids.popitem(last=False)
        return True
