"""Say whether the service on this machine is alive."""

from __future__ import annotations

from claude_usage_mqtt.cli import main


def healthcheck() -> int:
    """Print a sentence; the status is 0 if it is alive."""
    return main(["healthcheck"])
