"""`recipe`: what users copy, printed."""

from __future__ import annotations

import difflib
import sys

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.recipes import RECIPES


def recipe(name: str | None) -> int:
    """Print a recipe as it is, or a line about each; raises SettingsError for a name that is none."""
    if name is None:
        for each, known in RECIPES.items():
            print(f"{each:<20} {known.about}")
        return 0
    if name not in RECIPES:
        near = difflib.get_close_matches(name.lower(), RECIPES, n=3, cutoff=0.5)
        near = near or [each for each in RECIPES if name.lower() in each] or list(RECIPES)
        raise SettingsError(f"There is no recipe of this name; did you mean {_either(near)}?")
    sys.stdout.write(RECIPES[name].text())
    return 0


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
