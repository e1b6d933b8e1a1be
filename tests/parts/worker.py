"""The demo's account, with somebody who works more or less."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from claude_usage_mqtt.demo.simulated_account import SimulatedAccount


class Worker(SimulatedAccount):
    """The demo's account, with each minute of work costing `times` as much."""

    def __init__(self, clock: Callable[[], dt.datetime], times: float, seed: int = 7) -> None:
        super().__init__(clock, seed)
        self._rhythm = ((points * times, on_model) for points, on_model in self._rhythm)
