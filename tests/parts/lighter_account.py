"""The demo's account, if it works less hard."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from claude_usage_mqtt.demo.simulated_account import SimulatedAccount


class LighterAccount(SimulatedAccount):
    """The demo's account, of whose use only a `share` is shown."""

    def __init__(self, clock: Callable[[], dt.datetime], share: float, seed: int = 7) -> None:
        super().__init__(clock, seed)
        self._share = share

    def answer(self) -> dict[str, Any]:
        """Return what the usage endpoint would answer."""
        answer = super().answer()
        for window in (answer["five_hour"], answer["seven_day"], *answer["limits"]):
            key = "percent" if "percent" in window else "utilization"
            window[key] = type(window[key])(window[key] * self._share)
        return answer
