"""The part of `check` about the broker: may we connect, publish, retain and announce? Leaves everything as it was."""

from __future__ import annotations

import contextlib
import json
import secrets
from typing import Any

from claude_usage_mqtt.cli.check_others import check_instance, check_reporters
from claude_usage_mqtt.cli.check_report import NotChecked, Report
from claude_usage_mqtt.cli.check_rights import ANSWER_WITHIN, comes_back, lesser_rights, remedy
from claude_usage_mqtt.errors import BrokerRefused, BrokerUnreachable, ClaudeUsageError
from claude_usage_mqtt.homeassistant.discovery import announced_by
from claude_usage_mqtt.instants import local_time, parse_instant
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, ONLINE, Topics

QUIET = 0.5
"""Seconds without a message after which all that was retained has come."""

NO_ANNOUNCEMENT = b'{"migrate_discovery": true}'
"""Home Assistant ignores it, without a line in its log, if it knows no such device; else its entities wait for the
announcement that is to come. An empty message would remove them, and anything else is logged."""


class _NothingCameBack(BrokerRefused):
    """The broker accepted our message and did not send it back."""


def check_broker(report: Report, settings: Settings) -> None:
    """Examine the broker; later links are skipped if an earlier one fails."""
    with contextlib.ExitStack() as sessions:
        _Checker(report, settings, sessions).check()


class _Checker:
    session: Session
    """The connection that is open."""

    def __init__(self, report: Report, settings: Settings, sessions: contextlib.ExitStack) -> None:
        self._report = report
        self._settings = settings
        self._base = settings.mqtt_base_topic
        self._folder = f"{settings.homeassistant_prefix}/device"
        self._probe = settings.topics(DEFAULT_ACCOUNT).command("check")
        self._sessions = sessions
        self._is_publisher = True

    def check(self) -> None:
        """Examine each link."""
        if self._report.link("broker", self._connects) is not None:
            return
        error = self._report.link("publish", self._may_publish_or_less)
        if not self._is_publisher:
            return
        if self._settings.mqtt_client_id is not None:
            self._check_client_id(error)
        if error is None:
            self._report.link("retain", self._may_retain)
            self._check_discovery()
            check_instance(self._report, self._settings, self._retained)
            check_reporters(self._report, self._settings, self._retained)
            return
        for name in ("retain", "discovery"):
            self._report.skip(name, f"not checked: {self._lack(error)}")

    # Connecting

    def _connects(self) -> str:
        options = self._settings.broker()
        self.session = self._sessions.enter_context(Session(options))
        login = "without a login" if options.username is None else f"as {options.username}"
        return f"connected to {options.address} with MQTT {self.session.version} {login}"

    def _check_client_id(self, error: ClaudeUsageError | None) -> None:
        """Go on with the configured client id, unless a service has it: that would be thrown out."""
        if error is not None:
            self._report.skip("client_id", f"not checked: {self._lack(error)}")
            return
        self._report.link("client_id", self._connects_as_service)

    def _connects_as_service(self) -> str:
        status = f"{self._base}/status"
        if self._retained([status]).get(status) == ONLINE:
            raise NotChecked("not checked: the service is online, and may be connected with it")
        self.session = self._sessions.enter_context(Session(self._settings.broker(), as_service=True))
        return f"connected as {self._settings.mqtt_client_id}"

    # What this user may do

    def _may_publish_or_less(self) -> str:
        try:
            return self._may_publish()
        except (BrokerRefused, BrokerUnreachable) as error:
            if isinstance(error, _NothingCameBack) and self.session.version == "5":
                raise  # it may write everything: a publisher's login, whatever else is wrong with it
            found = lesser_rights(self._settings)
            if found is None:
                raise
        self._is_publisher = False
        return found

    def _may_publish(self) -> str:
        """Publish to one of our topics that nobody acts on, and wait for it to come back."""
        topic, nonce = self._probe, secrets.token_hex(8).encode()
        refused = self.session.subscribe([topic])
        try:
            self.session.publish(Message(topic=topic, payload=nonce))
            is_back = not refused and comes_back(self.session, topic, nonce)
        except BrokerRefused as error:
            raise BrokerRefused(f"{str(error).partition(';')[0]}; {remedy(self._settings)}.") from None
        except BrokerUnreachable as error:  # older Mosquittos disconnect at what they do not allow
            raise BrokerUnreachable(
                f"{str(error).removesuffix('.')} as {topic} was published; {remedy(self._settings)}."
            ) from None
        if is_back:
            return f"what is published under {self._base}/ arrives"
        lost = f"What was published under {topic} did not come back"
        what = f"The broker refused the subscription to {topic}" if refused else lost
        raise _NothingCameBack(f"{what}; {remedy(self._settings)}.")

    def _lack(self, error: ClaudeUsageError) -> str:
        """Return what the failure to publish says of this user's permissions."""
        if isinstance(error, BrokerUnreachable):
            return "the connection was lost"
        if not isinstance(error, _NothingCameBack):
            return f"this user may not write {self._base}/#"
        # MQTT 3.1.1 has no way to say that a message was not taken
        return f"this user may not {'read' if self.session.version == '5' else 'read or may not write'} {self._base}/#"

    def _may_retain(self) -> str:
        """Let the broker retain a message, ask for it again, and remove it."""
        topic, nonce = self._probe, secrets.token_hex(8).encode()
        try:
            self.session.publish(Message(topic=topic, payload=nonce, retain=True))
            self.session.subscribe([topic])
            while (message := self.session.receive(ANSWER_WITHIN)) is not None:
                if message.topic == topic and message.payload == nonce and message.retain:
                    return "the broker keeps retained messages"
        finally:
            self.session.publish(Message(topic=topic, payload=b"", retain=True))
        raise BrokerRefused(
            "The broker does not keep retained messages; switch that on, or nothing survives a restart."
        )

    def _retained(self, wanted: list[str]) -> dict[str, bytes]:
        """Return what is retained under these topics; raises NotChecked."""
        refused = self.session.subscribe(wanted)
        if refused:
            raise NotChecked(f"not checked: this user may not read {', '.join(refused)}")
        return {message.topic: message.payload for message in self.session.collect(QUIET, ANSWER_WITHIN)}

    # Announcing

    def _check_discovery(self) -> None:
        if not self._settings.homeassistant_discovery:
            self._report.skip("discovery", "switched off by HOMEASSISTANT_DISCOVERY")
            return
        self._report.link("discovery", self._may_announce)

    def _may_announce(self) -> str:
        places = [self._settings.topics(account.id) for account in self._settings.accounts()]
        found = self._retained([topic for place in places for topic in (place.config, place.health)])
        missing: list[Topics] = []
        for place in places:
            payload = found.get(place.config, b"")
            if announced_by(payload) == place.status:
                # What is retained already is published again, which changes nothing.
                self._require_accepted(Message(topic=place.config, payload=payload, retain=True))
            else:
                self._require_accepted(Message(topic=place.config, payload=NO_ANNOUNCEMENT))
                missing.append(place)
        if missing:
            names = ", ".join(place.account for place in missing)
            return f"{self._folder}/ is writable; nothing announced yet for {names}: 'claude-usage-mqtt run' does that"
        states = ", ".join(_state_of(found.get(place.health, b"")) for place in places)
        return f"announced under {self._folder}/, last known: {states}"

    def _require_accepted(self, message: Message) -> None:
        """Publish; raise BrokerRefused if the broker refuses it, or, with MQTT 3.1.1, does not give it back."""
        try:
            self.session.publish(message)
            is_accepted = self.session.version == "5" or comes_back(self.session, message.topic, message.payload)
        except (BrokerRefused, BrokerUnreachable):
            is_accepted = False
        if not is_accepted:
            raise BrokerRefused(
                f"The broker did not accept {message.topic}, so Home Assistant gets no entities; "
                f"allow this user to read and write {self._folder}/+/config."
            )


def _state_of(payload: bytes) -> str:
    try:
        document: Any = json.loads(payload)
        status, success = str(document["status"])[:40], parse_instant(document["last_success"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "no health"
    return status if success is None else f"{status} at {local_time(success)}"
