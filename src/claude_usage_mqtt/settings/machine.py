"""What this machine is called on the broker: by the setting, else by its host name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.untrusted import slug

CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
CONTAINER_VARIABLES = ("container", "KUBERNETES_SERVICE_HOST")

NO_NAMES = frozenset({"localhost", "localdomain"})
"""Host names that many machines have."""


def machine_name(setting: str | None) -> str:
    """Return the name as it is used in topics; raises SettingsError if there is no permanent one."""
    if setting is not None:
        if not slug(setting):
            raise SettingsError("MACHINE_NAME needs letters or digits; set it to a name for this machine.")
        return slug(setting)
    if is_container():
        raise SettingsError(
            "MACHINE_NAME is not set, and the host name of a container changes; set it to the name of this machine."
        )
    name = slug(socket.gethostname().partition(".")[0])
    if not name or name in NO_NAMES:
        raise SettingsError("This machine has no host name; set MACHINE_NAME to a name for it.")
    return name


def is_container() -> bool:
    """Whether this process runs in a container."""
    return any(Path(path).exists() for path in CONTAINER_FILES) or any(map(os.environ.get, CONTAINER_VARIABLES))
