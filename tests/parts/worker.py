"""The demo's account, of somebody who works more or less than its own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from claude_usage_mqtt.demo.simulated_account import SimulatedAccount


class Worker(SimulatedAccount):
    """The demo's account, if each minute of work costs so many `times` as much."""

    def __init__(self, clock: Callable[[], dt.datetime], times: float, seed: int = 7) -> None:
        super().__init__(clock, seed)
        self._rhythm = ((points * times, on_model) for points, on_model in self._rhythm)
