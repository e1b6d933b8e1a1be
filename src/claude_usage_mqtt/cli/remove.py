"""`remove`: remove all our retained topics from the broker, and nothing else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.homeassistant.discovery import announced_by
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.service.former_devices import former_accounts
from claude_usage_mqtt.service.restore import alive_until
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.settings.load import load_settings
from claude_usage_mqtt.sources.reporter_messages import MACHINE, parse_presence
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, ONLINE, ReporterTopics
from claude_usage_mqtt.untrusted import json_object
from claude_usage_mqtt.usage.standing import clock_time

QUIET, WITHIN = 1.0, 15.0
"""Seconds without a message after which all retained ones have come, and the limit for all of them."""


def remove() -> int:
    """Empty our retained topics and say which; raises SettingsError while a publisher would fill them again.

    Announcements under a prefix that it no longer uses are removed even while it runs.
    """
    settings = load_settings()
    with Session(settings.broker()) as session:
        found = _retained(session, settings)
        ours = sorted(topic for topic, payload in found.items() if _is_ours(topic, payload, settings))
        until = _published_until(settings.mqtt_base_topic, found)
        if until is not None:
            ours = _left_behind(settings, found, ours)
            if not ours:
                raise SettingsError(
                    f"A publisher still runs ({settings.mqtt_base_topic}/status says online) and would publish "
                    "everything again; nothing was removed. Stop it first; if it was killed with the broker, wait "
                    f"until {clock_time(until, datetime.now(UTC))}."
                )
        presences = {topic: parse_presence(found[topic]) for topic in ours if "/reporter/" in topic}
        reporting = [topic for topic, presence in presences.items() if presence is not None and presence.online]
        for topic in reporting:
            print(
                f"A reporter still runs ({topic} says online); stop it, or it announces itself again.", file=sys.stderr
            )
        # Home Assistant's entities go first, then what they showed.
        for topic in sorted(ours, key=lambda topic: not topic.endswith("/config")):
            session.publish(Message(topic=topic, payload=b"", retain=True))
            print(f"removed {topic}")
    if not ours:
        print("None of our topics were on the broker.")
    elif not reporting and until is None:
        print("None of our topics are left on the broker.")
    return 0


def _published_until(base: str, found: Mapping[str, bytes]) -> datetime | None:
    """Return until when a publisher is alive: after a power cut the broker alone still says `online`."""
    now = datetime.now(UTC)
    signs = [alive_until(payload, now) for payload in _of_accounts(base, "health", found)]
    alive = [until for until in signs if until is not None]
    return max(alive, default=None) if found.get(f"{base}/status") == ONLINE else None


def _of_accounts(base: str, kind: str, found: Mapping[str, bytes]) -> list[bytes]:
    topic_of_kind = re.compile(rf"{re.escape(base)}/[a-z0-9_]+/{kind}")
    return [payload for topic, payload in found.items() if topic_of_kind.fullmatch(topic)]


def _left_behind(settings: Settings, found: Mapping[str, bytes], ours: list[str]) -> list[str]:
    """Return the announcements under our prefix if the running publisher has another one."""
    memories = _of_accounts(settings.mqtt_base_topic, "memory", found)
    announced = [json_object(memory).get("discovery_topic") for memory in memories]
    prefix = f"{settings.homeassistant_prefix}/device/"
    if not announced or any(not isinstance(topic, str) or topic.startswith(prefix) for topic in announced):
        return []
    return [topic for topic in ours if topic.startswith(prefix)]


def _retained(session: Session, settings: Settings) -> dict[str, bytes]:
    """Return what is retained under our topics: by exact topic, and by wildcard if the broker supports it."""
    base, prefix = settings.mqtt_base_topic, settings.homeassistant_prefix
    known = [account.id for account in settings.accounts(with_logins=False)]
    found = _collect(session, [f"{base}/#", f"{prefix}/device/+/config", f"{base}/status"])
    found |= _collect(session, _exact(settings, [*known, SUMMARY, DEFAULT_ACCOUNT]))
    former = former_accounts(found.get(settings.topics(SUMMARY).state))
    found |= _collect(session, _exact(settings, [name for name in former if name not in known]))
    machines = {machine for name in [*known, *former] for machine in _machines(found.get(settings.topics(name).health))}
    return found | _collect(session, [ReporterTopics(base=base, machine=machine).presence for machine in machines])


def _machines(health: bytes | None) -> Iterable[str]:
    """Return the machines that a health document names, untrusted."""
    reporters = json_object(health).get("reporters")
    names = [
        entry.get("machine") for entry in (reporters if isinstance(reporters, list) else ()) if isinstance(entry, dict)
    ]
    return [name for name in names if isinstance(name, str) and MACHINE.fullmatch(name)]


def _exact(settings: Settings, accounts: Iterable[str]) -> list[str]:
    places = [settings.topics(name) for name in dict.fromkeys(accounts)]
    return [topic for own in places for topic in (own.config, own.state, own.health, own.memory, own.statusline)]


def _collect(session: Session, filters: list[str]) -> dict[str, bytes]:
    session.subscribe(filters)
    messages = session.collect(QUIET, WITHIN) if filters else []
    return {message.topic: message.payload for message in messages if message.retain and message.payload}


def _is_ours(topic: str, payload: bytes, settings: Settings) -> bool:
    base, prefix = re.escape(settings.mqtt_base_topic), re.escape(settings.homeassistant_prefix)
    if re.fullmatch(rf"{prefix}/device/claude_usage_[a-z0-9_]+/config", topic):
        return announced_by(payload) == f"{settings.mqtt_base_topic}/status"
    return bool(
        re.fullmatch(rf"{base}/reporter/{MACHINE.pattern}(/ask|/answer)?", topic)
        or re.fullmatch(rf"{base}/(status|[a-z0-9_]+/(state|health|memory|statusline|command/[a-z]+|event/\w+))", topic)
    )
