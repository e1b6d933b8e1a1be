"""The retained documents of one account: they follow from its state and the time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from claude_usage_mqtt import __version__
from claude_usage_mqtt.instants import format_instant
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.account_log import ANOTHER_LOGIN, unlikely_sentence
from claude_usage_mqtt.topics import PAUSED, encode
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.saved_state import save


def documents(state: AccountState, now: datetime) -> Iterator[tuple[str, bytes]]:
    """Yield topics and payloads in the order to publish them.

    The state comes before the discovery message, so that no entity is announced before it has a value, and the health
    last, so that nothing is called fresh too early.
    """
    topics, how = state.options.topics, health_document(state, now)
    if state.usage.is_known:
        yield topics.state, encode(state_document(state.usage, now))
    owner = state.discovery.owner
    if state.options.discovery and owner in (None, topics.status):
        machines, has_expiry = [entry["machine"] for entry in how["reporters"]], how["login_expires_at"] is not None
        message = state.discovery.update(state.usage, now, has_login_expiry=has_expiry, reporters=machines)
        yield topics.config, message
    elif owner == topics.status:
        yield topics.config, b""  # it was announced before discovery was switched off
    yield topics.memory, encode(memory_document(state))
    yield topics.health, encode(how)


def health_document(state: AccountState, now: datetime) -> dict[str, Any]:
    """Return how polling is going.

    `retry_at`: before this the API must not be asked. `alive_until`: after this, a reader of this retained message must
    not trust what this service published.
    """
    shown, policy, login = state.health, state.polling.policy, state.health.login.known
    retry_at = policy.rate_limit.blocked_until
    parts = [shown.detail, shown.hint, shown.login.sentence(now)]
    if state.usage.history.saw_foreign(now):
        parts.append(ANOTHER_LOGIN)
    if not state.options.is_polled:  # if we poll, the confirming poll comes within a minute or so
        parts += map(unlikely_sentence, state.usage.windows.suspects().values())
    parts.append(shown.other_instance.sentence)
    return {
        "status": shown.status if state.polling.is_on else PAUSED,
        "detail": " ".join(part for part in parts if part) or None,
        "fresh": state.usage.is_fresh(now),
        "alive_until": format_instant(shown.alive_until),
        "last_success": format_instant(shown.last_success),
        "next_poll": format_instant(policy.next_regular if state.polling.is_under_way else state.due(now)),
        "retry_at": format_instant(retry_at) if retry_at is not None and retry_at > now else None,
        "token_expires_at": format_instant(login.token_expires_at),
        "login_expires_at": format_instant(login.login_expires_at),
        "poll_interval": int(policy.interval.total_seconds()),
        "polling": state.polling.is_on,
        "requests_last_hour": policy.requests.last_hour(now),
        "consecutive_failures": policy.failures.count,
        "reporters": [] if state.reporters is None else state.reporters.documents(now),
        "other_instance": shown.other_instance.sentence is not None,
        "version": __version__,
    }


def memory_document(state: AccountState) -> dict[str, Any]:
    """Return what our own next start needs."""
    return {
        "account": state.name,
        "instance": state.options.instance,
        "entity_ids_of": state.discovery.entity_ids_of,
        "discovery_topic": state.options.topics.config if state.options.discovery else None,
        "interval_setting": int(state.options.interval.total_seconds()),
        "currency": state.discovery.first_currency,
        "policy": state.polling.policy.save(),
        "events": state.delivery.save(),
        "login_notice": state.health.login.save(),
        "usage": save(state.usage),
        "reporters": None if state.reporters is None else state.reporters.save(),
    }
