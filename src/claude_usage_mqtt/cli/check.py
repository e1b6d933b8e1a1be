"""`check`: the whole chain, link by link, a line each: ok, or what to do."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from claude_usage_mqtt.cli.run import topics
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import BrokerRefused, ClaudeUsageError
from claude_usage_mqtt.homeassistant.discovery import is_ours
from claude_usage_mqtt.mqtt.connection import Message
from claude_usage_mqtt.mqtt.oneshot import Session
from claude_usage_mqtt.settings import DEFAULT_ACCOUNT, Account, Settings, load_settings
from claude_usage_mqtt.sources.oauth_api import UsageApi
from claude_usage_mqtt.usage.moments import format_instant, parse_instant
from claude_usage_mqtt.usage.parse import parse_usage

ANSWER_WITHIN = 3.0
"""Seconds for the broker to give back what was published."""

USAGE_SCOPE = "user:profile"


class _Report:
    """Prints the lines and remembers the first failure."""

    def __init__(self) -> None:
        self.exit_status = 0

    def link(self, name: str, examine: Callable[[], str]) -> bool:
        """Examine one link of the chain; return whether it holds."""
        try:
            found = examine()
        except ClaudeUsageError as error:
            self._line(name, "FAIL", str(error))
            self.exit_status = self.exit_status or error.exit_status
            return False
        self._line(name, "ok", found)
        return True

    def skip(self, name: str, why: str) -> None:
        """Say that a link was not examined."""
        self._line(name, "-", why)

    @staticmethod
    def _line(name: str, verdict: str, text: str) -> None:
        clean = "".join(c if c.isprintable() else "?" for c in text)
        print(f"{name:<12} {verdict:<5} {clean}", flush=True)


def check() -> int:
    """Go through settings, credentials, API, broker and discovery; return the exit status of the first failure."""
    report = _Report()
    loaded: list[Settings] = []

    def settings_hold() -> str:
        loaded.append(load_settings())
        count = len(loaded[0].accounts())
        return f"{count} account{'s' if count > 1 else ''}, polled every {loaded[0].poll_interval} s"

    if not report.link("settings", settings_hold):
        return report.exit_status
    settings = loaded[0]
    for account in settings.accounts():
        _check_account(report, settings, account)
    _check_broker(report, settings)
    if report.exit_status:
        print("Mend the first line that says FAIL, then check again.", file=sys.stderr)
    return report.exit_status


def _check_account(report: _Report, settings: Settings, account: Account) -> None:
    suffix = "" if account.label is None else f" {account.id}"
    if not settings.needs_credentials:
        report.skip(f"account{suffix}", "no credentials are needed: the status line is the source")
        return
    tokens: list[str] = []
    plans: list[str | None] = []

    def credentials_hold() -> str:
        now = SystemClock().now()
        credentials = account.credentials.read()
        credentials.require_unexpired(now)
        tokens.append(credentials.token)
        plans.append(credentials.plan)
        parts = [f"found in {account.credentials.place}", _validity(credentials.expires_at, now)]
        if credentials.scopes:
            parts.append(f"scopes {', '.join(credentials.scopes)}")
            if USAGE_SCOPE not in credentials.scopes:
                parts.append(f"without {USAGE_SCOPE}, so the API may refuse it")
        return "; ".join(parts)

    def api_answers() -> str:
        api = UsageApi(settings.claude_api_url, settings.claude_user_agent)
        try:
            usage = parse_usage(api.fetch(tokens[0]), SystemClock().now(), plans[0])
        finally:
            api.close()
        windows = ", ".join(f"{window.label} {window.utilization:g} %" for window in usage)
        return windows or "answered, but tells of no windows for this account"

    if report.link(f"credentials{suffix}", credentials_hold):
        report.link(f"api{suffix}", api_answers)
    else:
        report.skip(f"api{suffix}", "not asked without credentials")


def _validity(expires_at: datetime | None, now: datetime) -> str:
    if expires_at is None:
        return "no expiry given"
    minutes = int((expires_at - now).total_seconds() // 60)
    return f"valid until {format_instant(expires_at)} ({minutes // 60} h {minutes % 60} min)"


def _check_broker(report: _Report, settings: Settings) -> None:
    sessions: list[Session] = []

    def broker_accepts() -> str:
        options = settings.broker()
        session = Session(options)
        session.open()
        sessions.append(session)
        login = "without a login" if options.username is None else f"as {options.username}"
        return f"connected to {options.address} with MQTT {session.version} {login}"

    try:
        if not report.link("broker", broker_accepts):
            return
        session = sessions[0]
        probe = topics(settings, DEFAULT_ACCOUNT).command("check")
        report.link("publish", lambda: _may_publish(session, probe))
        report.link("retain", lambda: _may_retain(session, probe))
        _check_discovery(report, settings, session)
    finally:
        for session in sessions:
            session.close()


def _may_publish(session: Session, topic: str) -> str:
    """Publish to a topic of ours that nobody acts on, and wait for it to come back."""
    nonce = secrets.token_hex(8).encode()
    refused = session.subscribe([topic])
    session.publish(Message(topic=topic, payload=nonce))
    base = topic.removesuffix("/default/command/check")
    if not refused and _comes_back(session, topic, nonce):
        return f"what is published under {base}/ arrives"
    raise BrokerRefused(
        f"What was published under {topic} did not come back; allow this user to read and write {base}/#."
    )


def _may_retain(session: Session, topic: str) -> str:
    """Let the broker keep a message, ask for it anew, and take it away again."""
    nonce = secrets.token_hex(8).encode()
    try:
        session.publish(Message(topic=topic, payload=nonce, retain=True))
        session.subscribe([topic])
        while (message := session.receive(ANSWER_WITHIN)) is not None:
            if message.topic == topic and message.payload == nonce and message.retain:
                return "the broker keeps retained messages"
    finally:
        session.publish(Message(topic=topic, payload=b"", retain=True))
    raise BrokerRefused("The broker does not keep retained messages; switch that on, or nothing survives a restart.")


def _comes_back(session: Session, topic: str, payload: bytes) -> bool:
    while (message := session.receive(ANSWER_WITHIN)) is not None:
        if (message.topic, message.payload) == (topic, payload):
            return True
    return False


def _check_discovery(report: _Report, settings: Settings, session: Session) -> None:
    if not settings.homeassistant_discovery:
        report.skip("discovery", "switched off by HOMEASSISTANT_DISCOVERY")
        return
    places = [topics(settings, account.id) for account in settings.accounts()]

    def stands() -> str:
        session.subscribe([topic for place in places for topic in (place.config, place.health)])
        found = {message.topic: message.payload for message in session.collect(quiet=0.5, within=ANSWER_WITHIN)}
        missing = [place.account for place in places if not is_ours(found.get(place.config, b""))]
        if missing:
            return f"nothing announced yet for {', '.join(missing)}: 'claude-usage-mqtt run' does that"
        states = ", ".join(_state_of(found.get(place.health, b"")) for place in places)
        return f"announced under {settings.homeassistant_prefix}/device/, last known: {states}"

    report.link("discovery", stands)


def _state_of(payload: bytes) -> str:
    try:
        document: Any = json.loads(payload)
        status, success = str(document["status"])[:40], parse_instant(document["last_success"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "no health"
    return status if success is None else f"{status} at {format_instant(success)}"
