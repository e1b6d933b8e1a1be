"""The part of `check` about who else is on the broker: another instance for these accounts, and the reporters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from claude_usage_mqtt.cli.check_report import NotChecked, Report
from claude_usage_mqtt.cli.run import instance_of
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import BrokerUnreachable, NoReporter
from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.service.liveness import publishes_here
from claude_usage_mqtt.service.restore import lives_elsewhere
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.sources.names import AUTO
from claude_usage_mqtt.sources.reporter_machines import advice
from claude_usage_mqtt.sources.reporter_messages import USABLE, Presence, parse_presence
from claude_usage_mqtt.topics import ONLINE
from claude_usage_mqtt.untrusted import clean_text, json_object
from claude_usage_mqtt.usage.reading import REPORTER

Retained = Callable[[list[str]], dict[str, bytes]]
"""Returns what is retained under these topics; raises NotChecked or BrokerUnreachable."""


def check_instance(report: Report, settings: Settings, retained: Retained) -> None:
    """Say that another instance publishes these accounts; without any that is not worth a line."""
    address = settings.broker().address
    if publishes_here(settings.mqtt_base_topic, address):
        return
    places = [settings.topics(account.id) for account in settings.accounts()]
    try:
        found = retained([places[0].status, *(topic for place in places for topic in (place.health, place.memory))])
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
    places = [settings.topics(account.id) for account in settings.accounts()]
    try:
        found = retained([f"{settings.mqtt_base_topic}/reporter/+", *(place.health for place in places)])
    except NotChecked as why:
        report.skip("reporters", str(why))
        return
    except BrokerUnreachable:  # older Mosquittos disconnect at a discovery message that they do not allow
        report.skip("reporters", "not checked: the connection was lost")
        return
    healths = {place.account: json_object(found.pop(place.health, None)) for place in places}
    presences = {topic.rpartition("/")[2]: parse_presence(payload) for topic, payload in sorted(found.items())}
    machines = [_Machine(name, presence, healths) for name, presence in presences.items() if presence is not None]
    if machines:
        report.link("reporters", lambda: _reporters(settings, machines))
    elif settings.claude_source != AUTO:
        report.skip("reporters", "none has announced itself; run 'claude-usage-mqtt report' on a machine")


class _Machine:
    """What a reporter announced, and what a service that is alive says of its last answers."""

    def __init__(self, name: str, presence: Presence, healths: Mapping[str, dict[str, Any]]) -> None:
        self.is_online = presence.online
        self.statuses = {account: login.status for account, login in presence.accounts.items()}
        usable = [account for account, login in presence.accounts.items() if login.is_usable and account in healths]
        answered = {account: _last_status(name, healths[account]) for account in usable}
        self.may_be_asked = presence.online and bool(usable)
        self.works = presence.online and USABLE in answered.values()
        logins = [
            f"{account} {each.source} {answered.get(account, each.status)}"
            for account, each in presence.accounts.items()
        ]
        self.words = f"{name} ({', '.join(logins) if presence.online else 'offline'})"


def _last_status(machine: str, health: dict[str, Any]) -> str:
    """Return how a machine's last answer for an account was; `ok` if no service that is alive says anything else."""
    alive_until = parse_instant(health.get("alive_until"))
    reporters = health.get("reporters")
    if alive_until is None or alive_until < SystemClock().now() or not isinstance(reporters, list):
        return USABLE
    said = [each.get("status") for each in reporters if isinstance(each, dict) and each.get("machine") == machine]
    return next((clean_text(status, 40) for status in said if isinstance(status, str)), "") or USABLE


def _reporters(settings: Settings, machines: list[_Machine]) -> str:
    """Return what is known of the reporters; that none can be asked is a fault only if none is asleep."""
    listed = ", ".join(machine.words for machine in machines)
    if any(machine.works for machine in machines):
        return listed
    if any(machine.may_be_asked for machine in machines):
        raise NotChecked(f"the last request failed: {listed}; run 'claude-usage-mqtt check' there")
    if settings.claude_source != AUTO and all(machine.is_online for machine in machines):
        what_helps = advice(status for machine in machines for status in machine.statuses.values())
        accounts = ", ".join(sorted(account.id for account in settings.accounts()))
        raise NoReporter(f"No machine can be asked: {listed}; {what_helps}, for each of {accounts}.")
    raise NotChecked(f"no machine can be asked now: {listed}")
