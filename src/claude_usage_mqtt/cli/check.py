"""`check`: the whole chain, link by link, a line each: ok, or what to do."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from claude_usage_mqtt.cli.check_sources import check_sources
from claude_usage_mqtt.cli.run import topics
from claude_usage_mqtt.errors import (
    BrokerError,
    BrokerRefused,
    BrokerUnreachable,
    ClaudeUsageError,
    SettingsError,
)
from claude_usage_mqtt.homeassistant.discovery import announced_by
from claude_usage_mqtt.instants import format_instant, parse_instant
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.claude import DEFAULT_ACCOUNT, Account
from claude_usage_mqtt.settings.fields import Settings, load_settings, variables_of_others
from claude_usage_mqtt.sources.credentials.file import current_user
from claude_usage_mqtt.topics import Topics

ANSWER_WITHIN = 3.0
"""Seconds for the broker to give back what was published."""


class _NotChecked(Exception):  # noqa: N818 - nothing went wrong
    """A link could not be examined; the text says why."""


class _NothingCameBack(BrokerRefused):
    """The broker took a message of ours and did not give it back."""


class _Report:
    """Prints the lines and remembers the first failure."""

    def __init__(self) -> None:
        self.exit_status = 0
        self.width = 12

    def link(self, name: str, examine: Callable[[], str]) -> ClaudeUsageError | None:
        """Examine one link of the chain; return what is wrong with it."""
        try:
            found = examine()
        except ClaudeUsageError as error:
            self._line(name, "FAIL", str(error))
            self.exit_status = self.exit_status or error.exit_status
            return error
        except _NotChecked as why:
            self.skip(name, str(why))
        else:
            self._line(name, "ok", found)
        return None

    def skip(self, name: str, why: str) -> None:
        """Say that a link was not examined."""
        self._line(name, "-", why)

    def _line(self, name: str, verdict: str, text: str) -> None:
        clean = "".join(c if c.isprintable() else "?" for c in text)
        print(f"{name:<{self.width}} {verdict:<5} {clean}", flush=True)


def check() -> int:
    """Go through settings, credentials, API, broker and discovery; return the exit status of the first failure."""
    report = _Report()
    loaded: list[Settings] = []

    def settings_hold() -> str:
        loaded.append(load_settings())
        accounts = loaded[0].accounts()
        count = len(accounts)
        report.width = max(report.width, *(len(_name("credentials", account)) for account in accounts))
        return f"{count} account{'s' if count > 1 else ''}, polled every {loaded[0].poll_interval} s"

    if report.link("settings", settings_hold) is not None:
        return report.exit_status
    settings = loaded[0]
    for sentence in variables_of_others():
        report.skip("variables", sentence)
    usage_log = settings.usage_log
    if usage_log is not None:
        report.link("usage_log", lambda: _may_append(usage_log))
    for account in settings.accounts():
        check_sources(report, settings, account)
    _check_broker(report, settings)
    if report.exit_status:
        print("Fix the first FAIL, then run `check` again.")
    return report.exit_status


def _name(link: str, account: Account) -> str:
    return link if account.label is None else f"{link} {account.id}"


def _may_append(path: Path) -> str:
    """Look whether a line could be added to the log of the numbers, and make no file."""
    folder = path.parent
    if path.is_dir():
        raise SettingsError(f"USAGE_LOG ({path}) is a folder; name a file in it.")
    if not folder.is_dir():
        raise SettingsError(f"USAGE_LOG ({path}) cannot be written: the folder {folder} does not exist; create it.")
    if not (os.access(path, os.W_OK) if path.exists() else os.access(folder, os.W_OK | os.X_OK)):
        raise SettingsError(f"USAGE_LOG ({path}) may not be written by {current_user()}; allow that user to write it.")
    return f"{path} can be written"


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
        if report.link("broker", broker_accepts) is not None:
            return
        session, base = sessions[0], settings.mqtt_base_topic
        probe = topics(settings, DEFAULT_ACCOUNT).command("check")
        error = report.link("publish", lambda: _may_publish(session, probe, base))
        if error is None:
            report.link("retain", lambda: _may_retain(session, probe))
            _check_discovery(report, settings, session)
            return
        for name in ("retain", "discovery"):
            report.skip(name, f"not checked: {_lack(error, session.version, base)}")
    finally:
        for session in sessions:
            session.close()


def _lack(error: ClaudeUsageError, version: str, base: str) -> str:
    """Return what the failure to publish says of this user's permissions."""
    if isinstance(error, BrokerUnreachable):
        return "the connection was lost"
    if not isinstance(error, _NothingCameBack):
        return f"this user may not write {base}/#"
    # MQTT 3.1.1 has no way to say that a message was not taken
    return f"this user may not {'read' if version == '5' else 'read or may not write'} {base}/#"


def _may_publish(session: Session, topic: str, base: str) -> str:
    """Publish to a topic of ours that nobody acts on, and wait for it to come back."""
    nonce = secrets.token_hex(8).encode()
    refused = session.subscribe([topic])
    try:
        session.publish(Message(topic=topic, payload=nonce))
        is_back = not refused and _comes_back(session, topic, nonce)
    except BrokerUnreachable as lost:  # older Mosquittos hang up at what they do not allow
        raise BrokerUnreachable(
            f"{str(lost).removesuffix('.')} as {topic} was published; allow this user to write {base}/#."
        ) from None
    if is_back:
        return f"what is published under {base}/ arrives"
    raise _NothingCameBack(
        f"What was published under {topic} did not come back; allow this user to read and write {base}/#."
    )


def _may_retain(session: Session, topic: str) -> str:
    """Let the broker retain a message, ask for it again, and remove it."""
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

    folder = f"{settings.homeassistant_prefix}/device"

    def stands() -> str:
        refused = session.subscribe([topic for place in places for topic in (place.config, place.health)])
        if refused:
            raise _NotChecked(f"not checked: this user may not read {', '.join(refused)}")
        found = {message.topic: message.payload for message in session.collect(quiet=0.5, within=ANSWER_WITHIN)}
        missing: list[Topics] = []
        for place in places:
            payload = found.get(place.config, b"")
            if announced_by(payload) == place.status:
                _may_announce(session, place.config, payload, folder)
            else:
                missing.append(place)
        if missing:
            unseen = (
                f" (or this user may not read {folder}/#)" if any(place.health in found for place in missing) else ""
            )
            raise _NotChecked(
                f"nothing announced yet for {', '.join(place.account for place in missing)}{unseen}: "
                "'claude-usage-mqtt run' does that; "
                f"whether this user may write {folder}/# could not be tried yet"
            )
        states = ", ".join(_state_of(found.get(place.health, b"")) for place in places)
        return f"announced under {folder}/, last known: {states}"

    report.link("discovery", stands)


def _may_announce(session: Session, topic: str, payload: bytes, folder: str) -> None:
    """Publish again what stands there already, which changes nothing, and see it taken."""
    try:
        session.publish(Message(topic=topic, payload=payload, retain=True))
        is_taken = _comes_back(session, topic, payload)
    except BrokerError:  # refused, or hung up at
        is_taken = False
    if not is_taken:
        raise BrokerRefused(f"The broker did not take {topic}; allow this user to write {folder}/#.")


def _state_of(payload: bytes) -> str:
    try:
        document: Any = json.loads(payload)
        status, success = str(document["status"])[:40], parse_instant(document["last_success"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "no health"
    return status if success is None else f"{status} at {format_instant(success)}"
