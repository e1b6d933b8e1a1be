"""`healthcheck`: whether the service on this machine is alive."""

from __future__ import annotations

import sys

from claude_usage_mqtt.service.liveness import check


def healthcheck() -> int:
    """Print a sentence; the status is 0 if it is alive."""
    status, sentence = check()
    sys.stdout.write(sentence + "\n")
    return status
