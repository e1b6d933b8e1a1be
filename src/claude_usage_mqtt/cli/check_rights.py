"""The part of `check` about a broker login that may not publish the usage: a reporter's, or a status line's."""

from __future__ import annotations

import secrets

from claude_usage_mqtt.errors import BrokerRefused, BrokerUnreachable, ClaudeUsageError, SettingsError
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.sources.names import AUTO
from claude_usage_mqtt.topics import ReporterTopics
from claude_usage_mqtt.usage.reading import STATUSLINE

ANSWER_WITHIN = 3.0
"""Seconds for the broker to give back what was published."""


def comes_back(session: Session, topic: str, payload: bytes) -> bool:
    """Whether what was published arrives."""
    while (message := session.receive(ANSWER_WITHIN)) is not None:
        if (message.topic, message.payload) == (topic, payload):
            return True
    return False


def lesser_rights(settings: Settings) -> str | None:
    """Return what this user may do without being the publisher's; None if it may neither report nor send.

    Raises BrokerRefused if it may not send the status line, and `CLAUDE_SOURCE` selects that.
    """
    answer = _reports_on(settings)
    lines = [settings.topics(account.id).statusline for account in settings.accounts()]
    sends = {topic: _may_send(settings, topic) for topic in lines}
    refused = [topic for topic, may in sends.items() if may is False]
    may = [
        *([f"report (what is published under {answer} arrives)"] if answer else []),
        *(f"send a status line ({topic})" for topic in lines if sends[topic]),
    ]
    if not may:
        return None
    if refused and settings.claude_source != AUTO and STATUSLINE in settings.sources:
        raise BrokerRefused(
            f"The broker refused {refused[0]}, so no status line arrives; allow this user to write there."
        )
    unclear = [topic for topic, may in sends.items() if may is None]
    exceptions = [
        *([] if answer else _to_report(settings)),
        *(f"; for the status line it would have to write {topic}" for topic in refused),
        *(f"; MQTT 3.1.1 does not show whether it may write {topic}, for the status line" for topic in unclear),
    ]
    return (
        f"this user may {' and '.join(may)}{''.join(exceptions)}; "
        f"for 'claude-usage-mqtt run' it would have to read and write {settings.mqtt_base_topic}/#"
    )


def _reports_on(settings: Settings) -> str | None:
    """Return the topic of this machine's answers if they arrive there: a reporter's login needs little more."""
    nonce = secrets.token_hex(8).encode()
    try:
        topic = ReporterTopics(base=settings.mqtt_base_topic, machine=settings.machine()).answer
        with Session(settings.broker()) as session:
            session.subscribe([topic])
            session.publish(Message(topic=topic, payload=nonce))
            return topic if comes_back(session, topic, nonce) else None
    except ClaudeUsageError:
        return None


def _to_report(settings: Settings) -> list[str]:
    """Return what this user would need to report, unless only the status line is wanted."""
    if settings.claude_source == STATUSLINE:
        return []
    try:
        place = ReporterTopics(base=settings.mqtt_base_topic, machine=settings.machine())
    except SettingsError:
        return ["; to report, set MACHINE_NAME"]
    return [f"; to report as {place.machine} it would have to read and write {place.presence}, …/ask and …/answer"]


def _may_send(settings: Settings, topic: str) -> bool | None:
    """Return whether this user may write a status line's topic; None if that cannot be seen.

    An empty message says nothing to a publisher, and is not retained.
    """
    try:
        with Session(settings.broker()) as session:
            if session.version != "5":
                session.subscribe([topic])
            session.publish(Message(topic=topic, payload=b""))
            return True if session.version == "5" or comes_back(session, topic, b"") else None
    except (BrokerRefused, BrokerUnreachable):  # older Mosquittos disconnect at what they do not allow
        return False


def remedy(settings: Settings) -> str:
    """Return what to do about a user that may do none of it."""
    needed = f"allow this user to read and write {settings.mqtt_base_topic}/#"
    try:
        settings.machine()
    except SettingsError:
        return f"{needed}, or set MACHINE_NAME if this is a reporter's login"
    return needed
