"""The part of `check` about who else is on the broker: another instance for these accounts, and the reporters."""

from __future__ import annotations

from datetime import UTC, datetime

from claude_usage_mqtt.cli.check_report import NotChecked
from claude_usage_mqtt.cli.check_rights import retained
from claude_usage_mqtt.cli.run import instance_of
from claude_usage_mqtt.errors import NoReporter
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.service.liveness import publishes_here
from claude_usage_mqtt.service.restore import alive_until, lives_elsewhere
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.sources.names import AUTO
from claude_usage_mqtt.sources.reporter_machines import advice
from claude_usage_mqtt.sources.reporter_messages import USABLE, parse_presence
from claude_usage_mqtt.topics import ONLINE
from claude_usage_mqtt.untrusted import clean_text, json_object
from claude_usage_mqtt.usage.reading import REPORTER


def other_instance(session: Session, settings: Settings) -> None:
    """Raise NotChecked if another instance publishes these accounts; if none does, there is no line."""
    address = settings.broker().address
    if publishes_here(settings.mqtt_base_topic, address):
        return
    places = [settings.topics(account.id) for account in settings.accounts()]
    found = retained(
        session, [places[0].status, *(topic for place in places for topic in (place.health, place.memory))]
    )
    if found.get(places[0].status) != ONLINE:
        return
    instance, now = instance_of(settings, address), datetime.now(UTC)
    names = [place.account for place in places if lives_elsewhere(found, place, instance, now) is not None]
    if names:
        raise NotChecked(
            f"{', '.join(names)} is published already: another 'claude-usage-mqtt run' would stand by; "
            "'claude-usage-mqtt report' serves the one that runs"
        )


def reporters(session: Session, settings: Settings) -> str | None:
    """Return what is known of the reporters; if there are none, there is a line only if they are selected.

    If none can be asked, that is a failure only if none is asleep.
    """
    if REPORTER not in settings.sources:
        return None
    accounts, now = [account.id for account in settings.accounts()], datetime.now(UTC)
    topics = {name: settings.topics(name).health for name in accounts}
    found = retained(session, [f"{settings.mqtt_base_topic}/reporter/+", *topics.values()])
    healths = {name: found.pop(topic, None) for name, topic in topics.items()}
    presences = {topic.rpartition("/")[2]: parse_presence(payload) for topic, payload in sorted(found.items())}
    machines = {name: presence for name, presence in presences.items() if presence is not None}
    if not machines:
        if settings.claude_source == AUTO:
            return None
        raise NotChecked("none has announced itself; run 'claude-usage-mqtt report' on a machine")
    words: list[str] = []
    answers: list[str] = []
    for machine, presence in machines.items():
        logins: list[str] = []
        for account, login in presence.accounts.items():
            status = login.status
            if presence.online and login.is_usable and account in healths:
                status = _last_status(machine, healths[account], now)
                answers.append(status)
            logins.append(f"{account} {login.source} {status}")
        words.append(f"{machine} ({', '.join(logins) if presence.online else 'offline'})")
    listed = ", ".join(words)
    if USABLE in answers:
        return listed
    if answers:
        raise NotChecked(f"the last request failed: {listed}; run 'claude-usage-mqtt check' there")
    if settings.claude_source != AUTO and all(presence.online for presence in machines.values()):
        helps = advice(login.status for presence in machines.values() for login in presence.accounts.values())
        raise NoReporter(f"No machine can be asked: {listed}; {helps}, for each of {', '.join(sorted(accounts))}.")
    raise NotChecked(f"no machine can be asked now: {listed}")


def _last_status(machine: str, health: bytes | None, now: datetime) -> str:
    """Return the status of a machine's last answer for an account; `ok` unless a running service says otherwise."""
    reporters = json_object(health).get("reporters") if alive_until(health, now) is not None else None
    for reporter in reporters if isinstance(reporters, list) else ():
        if isinstance(reporter, dict) and reporter.get("machine") == machine:
            return clean_text(reporter.get("status")) or USABLE
    return USABLE
