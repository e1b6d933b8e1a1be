"""`report`: answer the requests of a service on another machine."""

from __future__ import annotations

from claude_usage_mqtt.cli.until import run_until_stopped
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.mqtt.client import require_readable
from claude_usage_mqtt.reporter.loop import Reporter, ReporterOptions
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.names import LOCAL
from claude_usage_mqtt.sources.select import polled_sources
from claude_usage_mqtt.usage.reading import OAUTH


def report() -> int:
    """Report until SIGTERM or SIGINT."""
    return run_until_stopped(lambda settings: Reporter(reporter_options(settings), SystemClock()))


def reporter_options(settings: Settings) -> ReporterOptions:
    """Return what the settings say; raises SettingsError."""
    broker = settings.broker()
    require_readable(broker)
    local = [name for name in settings.sources if name in LOCAL] or [OAUTH]
    api = UsageApi(settings.claude_api_url, settings.claude_user_agent)
    sources = {
        account.id: source
        for account in settings.accounts(with_logins=True)
        if (source := in_order(polled_sources(local, account.login, api, settings.claude_code_command))) is not None
    }
    if not sources:
        raise SettingsError("A reporter needs a login on this machine; name its folder in CLAUDE_ACCOUNTS.")
    return ReporterOptions(
        broker=broker,
        base_topic=settings.mqtt_base_topic,
        machine=settings.machine(),
        limited=not settings.api_is_local,
        sources=sources,
    )
