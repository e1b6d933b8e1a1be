"""The demo's account, of somebody who works more or less than its own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from claude_usage_mqtt.demo.simulated_account import SimulatedAccount


class Worker(SimulatedAccount):
    """The demo's account, if each minute of work costs so many `times` as much."""

    def __init__(self, clock: Callable[[], dt.datetime], times: float, seed: int = 7) -> None:
        super().__init__(clock, seed)
        self._rhythm = _Rhythm(self._rhythm, times)  # type: ignore[assignment]


class _Rhythm:
    def __init__(self, rhythm: Any, times: float) -> None:
        self._rhythm = rhythm
        self._times = times

    @property
    def on_model(self) -> bool:
        """Whether the model that has its own week is used."""
        return bool(self._rhythm.on_model)

    def work(self) -> float:
        """Return what this minute costs."""
        return float(self._rhythm.work() * self._times)
