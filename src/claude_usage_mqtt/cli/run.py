"""`run`: the service."""

from __future__ import annotations

import hashlib
import os
import platform
from datetime import timedelta

from claude_usage_mqtt.cli.until import run_until_stopped
from claude_usage_mqtt.clock import Clock, SystemClock
from claude_usage_mqtt.mqtt.client import require_readable
from claude_usage_mqtt.service.liveness import publishes_here
from claude_usage_mqtt.service.loop import Service
from claude_usage_mqtt.service.options import AccountOptions, ServiceOptions
from claude_usage_mqtt.service.usage_log import UsageLog
from claude_usage_mqtt.settings.fields import Account, Settings
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.names import AUTO
from claude_usage_mqtt.sources.reporter_exchange import ReporterExchange
from claude_usage_mqtt.sources.select import polled_sources, pushed_sources
from claude_usage_mqtt.usage.account import Rules
from claude_usage_mqtt.usage.reading import REPORTER, STATUSLINE


def run() -> int:
    """Publish the usage until SIGTERM or SIGINT."""
    if os.environ.get("SUPERVISOR_TOKEN"):
        from claude_usage_mqtt.cli.home_assistant_app import prepare  # noqa: PLC0415 - only in Home Assistant's app

        prepare()
    return run_until_stopped(lambda settings: make_service(settings, SystemClock()))


def make_service(settings: Settings, clock: Clock, accounts: tuple[Account, ...] | None = None) -> Service:
    """Return the service that the settings describe, or one for other `accounts`; raises SettingsError."""
    broker = settings.broker()
    require_readable(broker)
    instance = instance_of(settings, broker.address)
    accounts = accounts or settings.accounts()
    api = UsageApi(settings.claude_api_url, settings.claude_user_agent)
    reporters = ReporterExchange(
        settings.mqtt_base_topic, [account.id for account in accounts if REPORTER in settings.sources]
    )
    options = ServiceOptions(
        broker=broker,
        reporters=reporters,
        status_topic=settings.status_topic,
        usage_log=None if settings.usage_log is None else UsageLog(settings.usage_log),
        accounts=tuple(
            AccountOptions(
                topics=settings.topics(account.id),
                label=account.label,
                interval=timedelta(seconds=settings.poll_interval),
                limited=not settings.api_is_local,
                rules=Rules(
                    stale_after=timedelta(seconds=settings.stale_after),
                    thresholds=settings.alert_thresholds,
                    extra_thresholds=settings.extra_usage_thresholds,
                ),
                discovery=settings.homeassistant_discovery,
                source=in_order(
                    [
                        *polled_sources(settings.sources, account.login, api, settings.claude_code_command),
                        *reporters.sources(account.id),
                    ]
                ),
                pushed=pushed_sources(settings.sources),
                instance=instance,
                is_auto=settings.claude_source == AUTO or set(settings.sources) == {REPORTER, STATUSLINE},
            )
            for account in accounts
        ),
    )
    return Service(options, clock)


def instance_of(settings: Settings, broker: str) -> str:
    """Return what distinguishes this installation from others, also after its container was re-created.

    Its host name changes then. Two services with one MQTT_CLIENT_ID cannot both be connected.
    """
    name = settings.machine_name or settings.mqtt_client_id or platform.node()
    # The same machine is the same instance, restarted, unless that one is still running.
    if publishes_here(settings.mqtt_base_topic, broker):
        name += f" {os.getpid()}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]
