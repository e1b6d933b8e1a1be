"""The sources as people name them in a list, and as they are named in readings."""

from __future__ import annotations

from claude_usage_mqtt.usage import reading
from claude_usage_mqtt.usage.reading import OAUTH, REPORTER, STATUSLINE

AUTO = "auto"
"""The login on this machine if there is one, and whatever else is sent."""

SOURCES = {name.replace("_", "-"): name for name in reading.SOURCES}
"""The sources as the settings name them."""

LOCAL = frozenset(SOURCES.values()) - {REPORTER, STATUSLINE}
"""The sources that are polled on this machine."""


def parse_source(text: str) -> str:
    """Return the list of sources in its usual form, each once; raises ValueError."""
    names = [name.strip().lower() for name in text.replace("both", "oauth,statusline").split(",")]
    if names == [AUTO]:
        return AUTO
    if not names or not set(names) <= set(SOURCES):
        raise ValueError(f"a list of {', '.join(SOURCES)}, separated by commas, or {AUTO}")
    return ",".join(dict.fromkeys(names))


def selected_sources(text: str) -> tuple[str, ...]:
    """Return the names of the sources that a list selects, the preferred one first."""
    return (OAUTH, REPORTER, STATUSLINE) if text == AUTO else tuple(SOURCES[name] for name in text.split(","))
