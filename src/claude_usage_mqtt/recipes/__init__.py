"""What users copy: a dashboard, automation blueprints, a flow, a display, a unit. Each is a file beside this one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One recipe; its `file` says at its top what to do with it."""

    file: str
    about: str

    def text(self) -> str:
        """Return what is to be copied."""
        return files(__name__).joinpath(self.file).read_text(encoding="utf-8")


RECIPES = {
    "dashboard": Recipe(file="dashboard.yaml", about="a dashboard of Home Assistant's own cards"),
    "blueprint-threshold": Recipe(
        file="blueprint-threshold.yaml", about="Home Assistant tells you when a threshold is reached"
    ),
    "blueprint-reset": Recipe(
        file="blueprint-reset.yaml", about="Home Assistant tells you when a nearly used up window resets"
    ),
    "blueprint-hold": Recipe(
        file="blueprint-hold.yaml", about="Home Assistant holds heavy jobs back while you are over pace"
    ),
    "nodered": Recipe(file="nodered.json", about="a Node-RED flow that acts on pace and resets, to import"),
    "esphome": Recipe(file="esphome.yaml", about="an ESPHome display that shows the usage, over MQTT"),
    "systemd": Recipe(file="systemd.service", about="a sandboxed systemd unit, claude-usage-mqtt.service"),
}
