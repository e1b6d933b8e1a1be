"""What users copy: a dashboard, automation blueprints, a flow, a display, a unit. Each is a file beside this one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One recipe: `file` holds its text, `goes_to` says where a user puts it."""

    file: str
    about: str
    goes_to: str

    def text(self) -> str:
        """Return what is to be copied."""
        return files(__name__).joinpath(self.file).read_text(encoding="utf-8")


_BLUEPRINTS = "config/blueprints/automation/claude_usage/"

RECIPES = {
    "dashboard": Recipe(
        file="dashboard.yaml",
        about="a dashboard of Home Assistant's own cards",
        goes_to="its raw configuration editor",
    ),
    "blueprint-threshold": Recipe(
        file="blueprint-threshold.yaml",
        about="Home Assistant tells you when a threshold is reached",
        goes_to=f"{_BLUEPRINTS}threshold.yaml",
    ),
    "blueprint-reset": Recipe(
        file="blueprint-reset.yaml",
        about="Home Assistant tells you when a window that was nearly used up has reset",
        goes_to=f"{_BLUEPRINTS}reset.yaml",
    ),
    "blueprint-hold": Recipe(
        file="blueprint-hold.yaml",
        about="Home Assistant holds heavy jobs back while you are over pace",
        goes_to=f"{_BLUEPRINTS}hold.yaml",
    ),
    "nodered": Recipe(
        file="nodered.json",
        about="a Node-RED flow that acts on pace and resets",
        goes_to="Import in its menu",
    ),
    "esphome": Recipe(
        file="esphome.yaml",
        about="an ESPHome display that shows the usage, over MQTT",
        goes_to="a configuration of ESPHome",
    ),
    "systemd": Recipe(
        file="systemd.service",
        about="a sandboxed systemd unit",
        goes_to="/etc/systemd/system/claude-usage-mqtt.service",
    ),
}
