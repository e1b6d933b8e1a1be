"""The part of `check` about who else is on the broker: another instance for these accounts, and the reporters."""

from __future__ import annotations

from collections.abc import Callable, Container

from claude_usage_mqtt.cli.check_report import NotChecked, Report
from claude_usage_mqtt.cli.run import instance_of, topics
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import BrokerUnreachable, NoReporter
from claude_usage_mqtt.service.liveness import publishes_here
from claude_usage_mqtt.service.restore import lives_elsewhere
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.sources.names import AUTO
from claude_usage_mqtt.sources.reporter_machine import advice
from claude_usage_mqtt.sources.reporter_messages import Presence, parse_presence
from claude_usage_mqtt.topics import ONLINE
from claude_usage_mqtt.usage.reading import REPORTER

Retained = Callable[[list[str]], dict[str, bytes]]
"""Returns what is retained under these topics; raises NotChecked or BrokerUnreachable."""


def check_instance(report: Report, settings: Settings, retained: Retained) -> None:
    """Say that another instance publishes these accounts; without any that is not worth a line."""
    address = settings.broker().address
    if publishes_here(settings.mqtt_base_topic, address):
        return
    places = [topics(settings, account.id) for account in settings.accounts()]
    wanted = [places[0].status, *(topic for place in places for topic in (place.health, place.memory))]
    try:
        found = retained(wanted)
    except (NotChecked, BrokerUnreachable):
        return  # `retain` and `discovery` have said why
    if found.get(places[0].status) != ONLINE:
        return
    instance, now = instance_of(settings, address), SystemClock().now()
    names = [place.account for place in places if lives_elsewhere(found, place, instance, now) is not None]
    if names:
        report.skip(
            "instance",
            f"{', '.join(names)} is published already: another 'claude-usage-mqtt run' would stand by; "
            "'claude-usage-mqtt report' serves the one that runs",
        )


def check_reporters(report: Report, settings: Settings, retained: Retained) -> None:
    """List the reporters; without any that is worth a line only if they were asked for."""
    if REPORTER not in settings.sources:
        return
    try:
        found = retained([f"{settings.mqtt_base_topic}/reporter/+"])
    except NotChecked as why:
        report.skip("reporters", str(why))
        return
    except BrokerUnreachable:  # older Mosquittos disconnect at a discovery message that they do not allow
        report.skip("reporters", "not checked: the connection was lost")
        return
    presences = {topic.rpartition("/")[2]: parse_presence(payload) for topic, payload in sorted(found.items())}
    machines = {name: presence for name, presence in presences.items() if presence is not None}
    if machines:
        report.link("reporters", lambda: _machines(settings, machines))
    elif settings.claude_source != AUTO:
        report.skip("reporters", "none has announced itself; run 'claude-usage-mqtt report' on a machine")


def _machines(settings: Settings, machines: dict[str, Presence]) -> str:
    """Return what the reporters announced; that none can be asked is a fault only if none is asleep."""
    accounts = {account.id for account in settings.accounts()}
    listed = ", ".join(_machine(name, presence) for name, presence in machines.items())
    if any(_can_report(presence, accounts) for presence in machines.values()):
        return listed
    if settings.claude_source != AUTO and all(presence.online for presence in machines.values()):
        logins = [login for presence in machines.values() for login in presence.accounts.values()]
        what_helps = advice(login.status for login in logins)
        raise NoReporter(f"No machine can be asked: {listed}; {what_helps}, for each of {', '.join(sorted(accounts))}.")
    raise NotChecked(f"no machine can be asked now: {listed}")


def _can_report(presence: Presence, accounts: Container[str]) -> bool:
    logins = presence.accounts.items()
    return presence.online and any(account in accounts and login.is_usable for account, login in logins)


def _machine(name: str, presence: Presence) -> str:
    """Return what a reporter announced, in words."""
    logins = [f"{account} {each.source} {each.status}" for account, each in presence.accounts.items()]
    return f"{name} ({', '.join(logins) if presence.online else 'offline'})"
