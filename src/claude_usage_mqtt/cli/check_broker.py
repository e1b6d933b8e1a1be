"""The part of `check` about the broker: may we connect, publish, retain and announce? Leaves everything as it was."""

from __future__ import annotations

import secrets

from claude_usage_mqtt.cli.check_others import other_instance, reporters
from claude_usage_mqtt.cli.check_report import NotChecked, Report
from claude_usage_mqtt.cli.check_rights import comes_back, lesser_rights, remedy, retained
from claude_usage_mqtt.errors import BrokerRefused, BrokerUnreachable, ClaudeUsageError
from claude_usage_mqtt.homeassistant.discovery import announced_by
from claude_usage_mqtt.instants import local_time, parse_instant
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, ONLINE
from claude_usage_mqtt.untrusted import clean_text, json_object

NO_ANNOUNCEMENT = b'{"migrate_discovery": true}'
"""Home Assistant ignores it, without a line in its log, if it does not know the device; otherwise the entities wait for
the real announcement. An empty message would remove them, and anything else is logged."""


class _NothingCameBack(BrokerRefused):
    """The broker accepted our message and did not send it back."""


def check_broker(report: Report, settings: Settings) -> None:
    """Examine the broker; later links are skipped if an earlier one fails."""
    try:
        options = settings.broker()
        with Session(options) as session:
            login = "without a login" if options.username is None else f"as {options.username}"
            report.ok("broker", f"connected to {options.address} with MQTT {session.version} {login}")
            _Checker(report, settings, session).check()
    except ClaudeUsageError as error:
        report.fail("broker", error)


class _Checker:
    def __init__(self, report: Report, settings: Settings, session: Session) -> None:
        self._report = report
        self._settings = settings
        self._session = session
        self._probe = settings.topics(DEFAULT_ACCOUNT).command("check")

    def check(self) -> None:
        """Examine each link."""
        report, settings, session = self._report, self._settings, self._session
        try:
            self._require_publisher()
        except (BrokerRefused, BrokerUnreachable) as error:
            self._look_for_lesser_rights(error)
            return
        report.ok("publish", f"what is published under {settings.mqtt_base_topic}/ arrives")
        report.link("client_id", self._connects_as_service)
        report.link("retain", self._may_retain)
        report.link("discovery", self._may_announce)
        report.link("instance", lambda: other_instance(session, settings))
        report.link("reporters", lambda: reporters(session, settings))

    def _require_publisher(self) -> None:
        """Publish to one of our topics without consequences, and wait for the message to come back."""
        topic, nonce = self._probe, secrets.token_hex(8).encode()
        refused = self._session.subscribe([topic])
        try:
            self._session.publish(Message(topic=topic, payload=nonce))
            is_back = not refused and comes_back(self._session, topic, nonce)
        except BrokerRefused as error:
            raise BrokerRefused(f"{str(error).partition(';')[0]}; {remedy(self._settings)}.") from None
        except BrokerUnreachable as error:  # older Mosquittos disconnect after forbidden messages
            raise BrokerUnreachable(
                f"{str(error).removesuffix('.')} as {topic} was published; {remedy(self._settings)}."
            ) from None
        if not is_back:
            lost = f"What was published under {topic} did not come back"
            what = f"The broker refused the subscription to {topic}" if refused else lost
            raise _NothingCameBack(f"{what}; {remedy(self._settings)}.")

    def _look_for_lesser_rights(self, error: ClaudeUsageError) -> None:
        """Say what this user may do if an error shows that it cannot be the publisher's."""
        # With MQTT 5, a user that may write everything is a publisher's, whatever else is wrong.
        is_publisher = isinstance(error, _NothingCameBack) and self._session.version == "5"
        try:
            found = None if is_publisher else lesser_rights(self._settings)
        except BrokerRefused as refused:
            error, found = refused, None
        if found is not None:
            self._report.ok("publish", found)
            return
        self._report.fail("publish", error)
        for name in ("retain", "discovery"):
            self._report.skip(name, "not checked: publishing does not work")

    def _connects_as_service(self) -> str | None:
        """Connect with the configured client id, unless a service uses it: that would be disconnected."""
        if self._settings.mqtt_client_id is None:
            return None
        status = f"{self._settings.mqtt_base_topic}/status"
        if retained(self._session, [status]).get(status) == ONLINE:
            raise NotChecked("not checked: the service is online, and may be connected with it")
        with Session(self._settings.broker(), as_service=True):
            return f"connected as {self._settings.mqtt_client_id}"

    def _may_retain(self) -> str:
        """Have the broker retain a message, read it back, and remove it."""
        topic, nonce = self._probe, secrets.token_hex(8).encode()
        try:
            self._session.publish(Message(topic=topic, payload=nonce, retain=True))
            self._session.subscribe([topic])
            if comes_back(self._session, topic, nonce, retained=True):
                return "the broker keeps retained messages"
        finally:
            self._session.publish(Message(topic=topic, payload=b"", retain=True))
        raise BrokerRefused(
            "The broker does not keep retained messages; switch that on, or nothing survives a restart."
        )

    def _may_announce(self) -> str:
        if not self._settings.homeassistant_discovery:
            raise NotChecked("switched off by HOMEASSISTANT_DISCOVERY")
        folder = f"{self._settings.homeassistant_prefix}/device"
        places = [self._settings.topics(account.id) for account in self._settings.accounts()]
        found = retained(self._session, [topic for place in places for topic in (place.config, place.health)])
        missing: list[str] = []
        for place in places:
            message = Message(topic=place.config, payload=found.get(place.config, b""), retain=True)
            # An already retained announcement is published again, which changes nothing.
            if announced_by(message.payload) != place.status:
                message = Message(topic=place.config, payload=NO_ANNOUNCEMENT)
                missing.append(place.account)
            if not self._is_accepted(message):
                raise BrokerRefused(
                    f"The broker did not accept {place.config}, so Home Assistant gets no entities; "
                    f"allow this user to read and write {folder}/+/config."
                )
        if missing:
            names = ", ".join(missing)
            return f"{folder}/ is writable; nothing announced yet for {names}: 'claude-usage-mqtt run' does that"
        states = ", ".join(_state_of(found.get(place.health)) for place in places)
        return f"announced under {folder}/, last known: {states}"

    def _is_accepted(self, message: Message) -> bool:
        """Publish; return whether the broker accepts it, and, with MQTT 3.1.1, sends it back."""
        try:
            self._session.publish(message)
            return self._session.version == "5" or comes_back(self._session, message.topic, message.payload)
        except (BrokerRefused, BrokerUnreachable):
            return False


def _state_of(payload: bytes | None) -> str:
    health = json_object(payload)
    status, success = clean_text(health.get("status")), parse_instant(health.get("last_success"))
    return f"{status or 'no health'}{'' if success is None else f' at {local_time(success)}'}"
