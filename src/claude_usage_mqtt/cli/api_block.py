"""What the service has published about the API: `once` and `check` must not ask while the service may not.

One request too many while the API refuses lengthens the refusal, for the service and for Claude Code. Otherwise their
requests are not in the service's budget: a person makes them, and the budget leaves 8 of the 28 that the API allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from claude_usage_mqtt.errors import BrokerError, RateLimited, SettingsError
from claude_usage_mqtt.instants import local_time, parse_instant
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.fields import Account, Settings
from claude_usage_mqtt.untrusted import json_object

WITHIN, QUIET = 3.0, 0.5
"""Seconds for everything, and seconds without a message until no more is expected: it works without a broker too."""


def blocks(settings: Settings, accounts: Iterable[Account]) -> dict[str, RateLimited]:
    """Return the accounts that must not be asked about now; none if the broker cannot be read."""
    wanted = {settings.topics(account.id).health: account.id for account in accounts}
    try:
        with Session(settings.broker(), WITHIN) as session:
            found = session.read(wanted, QUIET, WITHIN)
    except (BrokerError, SettingsError):
        return {}
    now, refusals = datetime.now(UTC), {}
    for topic, payload in found.items():
        retry_at = parse_instant(json_object(payload).get("retry_at"))
        if topic in wanted and retry_at is not None and retry_at > now:
            refusals[wanted[topic]] = RateLimited(
                f"The API must not be asked before {local_time(retry_at)}: the service was refused and waits; "
                "--force asks anyway.",
                retry_after=retry_at - now,
            )
    return refusals
