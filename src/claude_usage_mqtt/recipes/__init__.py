"""What users copy: a dashboard, automation blueprints, a flow, a display, units. Each is a file next to this one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from claude_usage_mqtt.recipes import started


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe; its `file` says at its top what to do with it.

    If it starts the program, with a `command`, `values` replace its marks: where the program is on this machine.
    """

    file: str
    about: str
    values: Callable[[str], Mapping[str, str]] | None = None
    command: str = "run"

    def text(self, account: str | None = None) -> str:
        """Return the text to copy, for the account with this id if there are several."""
        text = Path(__file__).with_name(self.file).read_text(encoding="utf-8")
        for mark, value in self.values(self.command).items() if self.values else ():
            text = text.replace(mark, value)
        return text if account is None else _of_account(text, account)

    @property
    def is_of_an_account(self) -> bool:
        """Whether it names entities or topics of an account."""
        text = self.text()
        return _of_account(text, "x") != text


def _of_account(text: str, account: str) -> str:
    text = re.sub(r"\b(sensor|binary_sensor|event|button)\.claude_", rf"\1.claude_{account}_", text)
    text = text.replace("claude-usage/default/", f"claude-usage/{account}/")
    text = re.sub(
        r"^( *-? ?title): Claude$", rf"\1: Claude {account.replace('_', ' ').capitalize()}", text, flags=re.MULTILINE
    )
    return text.replace("path: claude\n", f"path: claude-{account.replace('_', '-')}\n")


RECIPES = {
    "dashboard": Recipe("dashboard.yaml", "a dashboard made with Home Assistant's own cards"),
    "blueprint-threshold": Recipe(
        "blueprint-threshold.yaml", "Home Assistant notifies you when a threshold is reached"
    ),
    "blueprint-reset": Recipe(
        "blueprint-reset.yaml", "Home Assistant notifies you when a nearly used up window resets"
    ),
    "blueprint-hold": Recipe("blueprint-hold.yaml", "Home Assistant holds heavy jobs while you are over pace"),
    "blueprint-reminder": Recipe(
        "blueprint-reminder.yaml", "Home Assistant reminds you if much is left before the weekly reset"
    ),
    "blueprint-extra-usage": Recipe(
        "blueprint-extra-usage.yaml", "Home Assistant notifies you when work begins to cost money"
    ),
    "blueprint-login": Recipe("blueprint-login.yaml", "Home Assistant notifies you before the login ends"),
    "nodered": Recipe("nodered.json", "a Node-RED flow that acts on pace and resets, to import"),
    "esphome": Recipe("esphome.yaml", "an ESPHome display that shows the usage, over MQTT"),
    "systemd": Recipe("systemd.service", "a sandboxed systemd unit for the publisher (`run`)", started.for_systemd),
    "systemd-report": Recipe(
        "systemd-report.service", "a systemd user unit for the reporter (`report`)", started.for_systemd, "report"
    ),
    "launchd": Recipe("launchd.plist", "a launchd agent for the publisher on macOS", started.for_launchd),
    "launchd-report": Recipe("launchd.plist", "a launchd agent for the reporter", started.for_launchd, "report"),
    "task-scheduler": Recipe("task-scheduler.xml", "a Windows task for the publisher", started.for_windows),
    "task-scheduler-report": Recipe(
        "task-scheduler.xml", "a Windows task for the reporter", started.for_windows, "report"
    ),
}
