"""The part of `check` about what a broker login may do if it is not a publisher's: a reporter's, or a status line's."""

from __future__ import annotations

import secrets

from claude_usage_mqtt.cli.check_report import NotChecked
from claude_usage_mqtt.errors import BrokerRefused, BrokerUnreachable, ClaudeUsageError, SettingsError
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.sources.names import AUTO
from claude_usage_mqtt.topics import ReporterTopics
from claude_usage_mqtt.usage.reading import STATUSLINE

ANSWER_WITHIN, QUIET = 3.0, 0.5
"""Seconds for the broker to send back what was published, and seconds without a message after which all retained ones
have come."""


def comes_back(session: Session, topic: str, payload: bytes, *, retained: bool = False) -> bool:
    """Whether what was published arrives, or is `retained`."""
    while (message := session.receive(ANSWER_WITHIN)) is not None:
        if message[:2] == (topic, payload) and (message.retain or not retained):
            return True
    return False


def retained(session: Session, wanted: list[str]) -> dict[str, bytes]:
    """Return what is retained under these topics; raises NotChecked."""
    try:
        refused = session.subscribe(wanted)
        if not refused:
            return {message.topic: message.payload for message in session.collect(QUIET, ANSWER_WITHIN)}
    except BrokerUnreachable:  # older Mosquittos disconnect after a forbidden discovery message
        raise NotChecked("not checked: the connection was lost") from None
    raise NotChecked(f"not checked: this user may not read {', '.join(refused)}")


def lesser_rights(settings: Settings) -> str | None:
    """Return what this user may do although it is not the publisher's; None if it may neither report nor send.

    Raises BrokerRefused if it may not send the status line, and `CLAUDE_SOURCE` selects that.
    """
    may: list[str] = []
    lacks: list[str] = []
    refused = ""
    place = _place(settings)
    if place is not None and _may_report(settings, place.answer):
        may.append(f"report (what is published under {place.answer} arrives)")
    elif settings.claude_source != STATUSLINE:
        lacks.append(
            "; to report, set MACHINE_NAME"
            if place is None
            else f"; to report as {place.machine} it would have to read and write {place.presence}, …/ask and …/answer"
        )
    for topic in [settings.topics(account.id).statusline for account in settings.accounts()]:
        sends = _may_send(settings, topic)
        if sends:
            may.append(f"send a status line ({topic})")
        elif sends is None:
            lacks.append(f"; MQTT 3.1.1 does not show whether it may write {topic}, for the status line")
        else:
            lacks.append(f"; for the status line it would have to write {topic}")
            refused = refused or topic
    if not may:
        return None
    if refused and settings.claude_source != AUTO and STATUSLINE in settings.sources:
        raise BrokerRefused(f"The broker refused {refused}, so no status line arrives; allow this user to write there.")
    return (
        f"this user may {' and '.join(may)}{''.join(lacks)}; "
        f"for 'claude-usage-mqtt run' it would have to read and write {settings.mqtt_base_topic}/#"
    )


def _place(settings: Settings) -> ReporterTopics | None:
    """Return the topics of a reporter on this machine, None if it has no name."""
    try:
        return ReporterTopics(base=settings.mqtt_base_topic, machine=settings.machine())
    except SettingsError:
        return None


def _may_report(settings: Settings, topic: str) -> bool:
    """Whether this machine's answers arrive at their topic: a reporter's login needs little more."""
    nonce = secrets.token_hex(8).encode()
    try:
        with Session(settings.broker()) as session:
            session.subscribe([topic])
            session.publish(Message(topic=topic, payload=nonce))
            return comes_back(session, topic, nonce)
    except ClaudeUsageError:
        return False


def _may_send(settings: Settings, topic: str) -> bool | None:
    """Return whether this user may write a status line's topic; None if that cannot be seen.

    An empty message means nothing to a publisher, and is not retained.
    """
    try:
        with Session(settings.broker()) as session:
            if session.version != "5":
                session.subscribe([topic])
            session.publish(Message(topic=topic, payload=b""))
            return True if session.version == "5" or comes_back(session, topic, b"") else None
    except (BrokerRefused, BrokerUnreachable):  # older Mosquittos disconnect after forbidden messages
        return False


def remedy(settings: Settings) -> str:
    """Return what to do about a user that may do neither."""
    needed = f"allow this user to read and write {settings.mqtt_base_topic}/#"
    return needed if _place(settings) else f"{needed}, or set MACHINE_NAME if this is a reporter's login"
