"""`check`: the whole chain, one line per link: ok, or what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

from claude_usage_mqtt.cli.api_block import blocks
from claude_usage_mqtt.cli.check_broker import check_broker
from claude_usage_mqtt.cli.check_report import Report
from claude_usage_mqtt.cli.check_sources import check_sources, suffix
from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.secret_file import current_user
from claude_usage_mqtt.settings.load import doubts, load_settings
from claude_usage_mqtt.sources.api.redact import redacted


def check(*, force: bool = False, dump: bool = False) -> int:
    """Go through settings, credentials, API, broker and discovery; return the exit status of the first failure.

    With `dump` the responses of the API are printed, without anything personal.
    """
    report = Report()
    try:
        settings = load_settings()
        accounts = settings.accounts()
    except SettingsError as error:
        report.fail("settings", error)
        return report.end()
    report.width = max(report.width, *(len(f"credentials{suffix(account)}") for account in accounts))
    count = f"{len(accounts)} account{'s' if len(accounts) > 1 else ''}"
    report.ok("settings", f"{count}, poll interval {settings.poll_interval} s")
    for sentence in doubts():
        report.skip("variables", sentence)
    try:
        settings.machine()
    except SettingsError as error:
        report.skip("machine", f"{error} 'claude-usage-mqtt report' does not start without it.")
    report.link("usage_log", lambda: _may_append(settings.usage_log))
    blocked = {} if force else blocks(settings, accounts)
    responses: list[object] = []
    for account in accounts:
        check_sources(report, settings, account, blocked.get(account.id), responses)
    check_broker(report, settings)
    for response in responses if dump else ():
        print(json.dumps(redacted(response), indent=2))
    return report.end()


def _may_append(path: Path | None) -> str | None:
    """Check whether a line could be added to the log of the numbers, if there is one, without making a file."""
    if path is None:
        return None
    folder = path.parent
    if os.path.isdir(path):  # noqa: PTH112 - Path's raises on a mount that is gone
        raise SettingsError(f"USAGE_LOG ({path}) is a folder; name a file in it.")
    if not os.path.isdir(folder):  # noqa: PTH112 - as above
        raise SettingsError(f"USAGE_LOG ({path}) cannot be written: the folder {folder} does not exist; create it.")
    is_there = os.path.exists(path)  # noqa: PTH110 - as above
    if not (os.access(path, os.W_OK) if is_there else os.access(folder, os.W_OK | os.X_OK)):
        raise SettingsError(f"USAGE_LOG ({path}) may not be written by {current_user()}; allow that user to write it.")
    return f"{path} can be written"
