"""`recipe`: what users copy, printed, or written if it is a folder."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.recipes import RECIPES, app_folder, started
from claude_usage_mqtt.untrusted import slug


def recipe(name: str | None, folder: str | None = None, account: str | None = None) -> int:
    """Print a recipe unchanged, or a line about each; raises SettingsError for an unknown name."""
    abouts = {key: known.about for key, known in RECIPES.items()} | {app_folder.NAME: app_folder.ABOUT}
    if name is None:
        for key, about in abouts.items():
            print(f"{key:<22} {about}")
        return 0
    if name == app_folder.NAME:
        return _write_app(folder)
    if folder is not None:
        raise SettingsError(f"Only {app_folder.NAME} is written to a folder; redirect the others into a file.")
    if name not in RECIPES:
        raise _unknown(name, list(abouts))
    if account is not None and not RECIPES[name].is_of_an_account:
        raise SettingsError(f"The recipe {name} is the same for every account; leave out --account.")
    if account is not None and not slug(account):
        raise SettingsError("--account: name the account as in CLAUDE_ACCOUNTS.")
    warning = started.warning() if RECIPES[name].values else None
    if warning is not None:
        print(f"claude-usage-mqtt: {warning}", file=sys.stderr)
    sys.stdout.write(RECIPES[name].text(None if account is None else slug(account)))
    return 0


def _write_app(folder: str | None) -> int:
    if folder is None:
        raise SettingsError(f"Add the folder to write the app to: claude-usage-mqtt recipe {app_folder.NAME} FOLDER.")
    for path in app_folder.write(Path(folder)):
        print(path)
    return 0


def _unknown(name: str, known: list[str]) -> SettingsError:
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    near = near or [recipe for recipe in known if name and name.lower() in recipe]
    either = " or ".join(filter(None, [", ".join(near[:-1]), *near[-1:]]))
    remedy = f"did you mean {either}?" if near else "'claude-usage-mqtt recipe' lists them."
    return SettingsError(f"Unknown recipe {name}; {remedy}")
