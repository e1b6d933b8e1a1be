"""What users copy: a dashboard, automation blueprints, a flow, a display, units. Each is a file next to this one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files

from claude_usage_mqtt.recipes import started


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe; its `file` says at its top what to do with it. `values` replace the marks in it."""

    file: str
    about: str
    values: Callable[[], Mapping[str, str]] = dict

    def text(self, account: str | None = None) -> str:
        """Return what is to be copied, for the account with this id if there are several."""
        text = files(__name__).joinpath(self.file).read_text(encoding="utf-8")
        for mark, value in self.values().items():
            text = text.replace(mark, value)
        return text if account is None else _of_account(text, account)

    @property
    def starts_the_program(self) -> bool:
        """Whether it names the program's place on this machine."""
        return self.values is not dict

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
    "dashboard": Recipe("dashboard.yaml", "a dashboard of Home Assistant's own cards"),
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
    "systemd": Recipe(
        "systemd.service", "a sandboxed systemd unit for the publisher (`run`)", partial(started.for_systemd, "run")
    ),
    "systemd-report": Recipe(
        "systemd-report.service",
        "a systemd user unit for the reporter (`report`)",
        partial(started.for_systemd, "report"),
    ),
    "launchd": Recipe(
        "launchd.plist", "a launchd agent for the publisher on macOS", partial(started.for_launchd, "run")
    ),
    "launchd-report": Recipe(
        "launchd.plist", "a launchd agent for the reporter", partial(started.for_launchd, "report")
    ),
    "task-scheduler": Recipe(
        "task-scheduler.xml", "a Windows task for the publisher", partial(started.for_windows, "run")
    ),
    "task-scheduler-report": Recipe(
        "task-scheduler.xml", "a Windows task for the reporter", partial(started.for_windows, "report")
    ),
}
