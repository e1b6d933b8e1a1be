"""The program's waits in real seconds, as short as parts on one machine allow: the order of events stays the same."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from claude_usage_mqtt.cli import api_block, check_rights, guard, home_assistant_app, remove
from claude_usage_mqtt.mqtt import connection, connector
from claude_usage_mqtt.reporter import announcement, publishing
from claude_usage_mqtt.service import publishing as service_publishing
from claude_usage_mqtt.sources import child
from claude_usage_mqtt.sources import reporter as source
from claude_usage_mqtt.sources.credentials import watch

SHORT: Final[tuple[tuple[ModuleType, str, float], ...]] = (
    (connector, "FIRST_DELAY", 0.05),
    (connector, "LONGEST_DELAY", 0.2),
    (connection, "SETTLED_AFTER", 0.5),
    (connector, "SILENT_AFTER", 1.0),
    (service_publishing, "SETTLED_AFTER", 0.2),
    (api_block, "QUIET", 0.2),
    (check_rights, "QUIET", 0.2),
    (check_rights, "ANSWER_WITHIN", 1.0),
    (guard, "QUIET", 0.2),
    (remove, "QUIET", 0.2),
    (home_assistant_app, "ASK_EVERY", 0.05),
    (publishing, "NAME_CHECK", 0.3),
    (announcement, "REASSERT_AFTER", 0.5),
    (source, "ANSWER_WITHIN", 2.0),
    (source, "FIRST_WITHIN", 0.3),
    (child, "ENDS_WITHIN", 1.0),
    (watch, "PATIENCE", 1.0),
)
"""(where, what, seconds)"""
