"""The accounts that the tests of this folder use."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from parts.credentials import write_credentials
from parts.documents import make_extra_usage, sample_usage
from real.home import State

EUR = make_extra_usage(1234.0, 5000, "EUR")


def document(**changes: Any) -> dict[str, Any]:
    """Make an answer: a session two hours before its reset, half a week, a model's week, and some money."""
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    arguments: dict[str, Any] = {
        "five_hour": 42.5,
        "resets_at": soon,
        "seven_day": 61.0,
        "seven_day_resets_at": soon + dt.timedelta(days=2),
        "scoped": {"Fable": 31},
        "extra_usage": EUR,
    }
    return sample_usage(**arguments | changes)


def two_accounts(folder: Path) -> dict[str, str]:
    """Return the settings of two accounts, each with a login."""
    folders = {name: str(write_credentials(folder / name).parent) for name in ("personal", "work")}
    return {"CLAUDE_ACCOUNTS": json.dumps(folders), "CLAUDE_CONFIG_DIR": ""}


def value(states: dict[str, State], entity_id: str) -> str:
    """Return an entity's state."""
    return str(states[entity_id]["state"])
