"""`demo`: the real service with a simulated account over real HTTP, in accelerated time."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from claude_usage_mqtt.cli.run import make_service
from claude_usage_mqtt.clock import Clock, FastClock
from claude_usage_mqtt.demo.broker import EmbeddedBroker
from claude_usage_mqtt.demo.simulated_account import SimulatedAccount
from claude_usage_mqtt.demo.simulated_api import SimulatedApi
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.fields import Account, Settings
from claude_usage_mqtt.settings.load import load_settings
from claude_usage_mqtt.sources.credentials.file import GivenToken
from claude_usage_mqtt.sources.local_login import LocalLogin
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT

SPEED = 600
"""Seconds of the account's life per real second: a session takes half a minute, a week a quarter of an hour."""

BAR = 20

SIMULATED: dict[str, Any] = {
    "claude_code_oauth_token": "demo",
    "claude_code_oauth_token_file": None,
    "claude_accounts": None,
    "claude_source": "oauth",
    "poll_interval": 300,
    "usage_log": None,
}
"""Settings for the simulated account, whatever the user has set."""

OWN_BROKER: dict[str, Any] = {
    "mqtt_host": "127.0.0.1",
    "mqtt_transport": "tcp",
    "mqtt_protocol": "3.1.1",  # it speaks nothing else; to 5 it would not answer, and we would wait
    "mqtt_tls": False,
    **dict.fromkeys(["mqtt_tls_ca", "mqtt_tls_cert", "mqtt_tls_key"]),
    **dict.fromkeys(["mqtt_username", "mqtt_password", "mqtt_password_file"]),
}


def demo() -> int:
    """Show topics changing, windows filling and resetting, until Ctrl-C."""
    clock = FastClock(SPEED, datetime.now(UTC).replace(hour=8, minute=0, second=0, microsecond=0))
    with contextlib.ExitStack() as parts:
        api = parts.enter_context(SimulatedApi(SimulatedAccount(clock.now, seed=7)))
        named, given, account = load_settings(), {**SIMULATED, "claude_api_url": api.url}, DEFAULT_ACCOUNT
        if named.mqtt_host is None:
            given |= OWN_BROKER | {"mqtt_port": parts.enter_context(EmbeddedBroker()).port}
        else:
            # A broker that others use: nothing real may be overwritten, and nothing may remain.
            given["mqtt_base_topic"], account = f"{named.mqtt_base_topic}-demo", "demo"
        settings = Settings(**{**named.model_dump(), **given})
        if account != DEFAULT_ACCOUNT:
            parts.callback(_clear, settings, account)
        print(f"MQTT broker   {settings.broker().address}   (look at {settings.mqtt_base_topic}/#)")
        print(f"Time          {SPEED} times as fast: a session lasts half a minute. Ctrl-C ends it.\n", flush=True)
        _run(settings, account, clock)
    return 0


def _clear(settings: Settings, account: str) -> None:
    """Remove the demo from a broker that others use."""
    place = settings.topics(account)
    with Session(settings.broker()) as session:
        for topic in (place.config, place.state, place.health, place.memory, place.status):
            session.publish(Message(topic=topic, payload=b"", retain=True))


def _run(settings: Settings, account: str, clock: Clock) -> None:
    """Run the service and print what arrives at the broker, as any other client would see it, until Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    label = None if account == DEFAULT_ACCOUNT else "Demo"
    login = LocalLogin(credentials=GivenToken("demo"))
    service = make_service(settings, clock, (Account(id=account, label=label, login=login),))
    worker = threading.Thread(target=service.run, name="service", daemon=True)
    worker.start()
    place = settings.topics(account)
    try:
        with Session(settings.broker()) as session:
            session.subscribe([place.status, place.state, place.event("+")])
            while worker.is_alive():
                message = session.receive(1)
                if message is not None and message.payload:
                    _print(message, clock)
    except KeyboardInterrupt:
        pass
    finally:
        service.stop()
        worker.join(timeout=5)


def _print(message: Message, clock: Clock) -> None:
    moment = clock.now().strftime("%a %H:%M")
    kind = next(kind for kind in ("status", "state", "event") if f"/{kind}" in message.topic)
    if kind == "status":
        line = message.payload.decode("ascii", "replace")
    else:
        document = json.loads(message.payload)
        line = _event(document) if kind == "event" else _windows(document)
    width = shutil.get_terminal_size((120, 24)).columns
    text = f"{moment}  {kind:<6} {line}"
    print(text if not sys.stdout.isatty() else text[: width - 1], flush=True)


def _event(document: dict[str, Any]) -> str:
    threshold = f" {document['threshold']:g} %" if document["threshold"] else ""
    before = document["previous_utilization"]
    was = "" if before is None else f" (was {before:g} %)"
    return f"*** {document['window'] or 'account'}: {document['event_type']}{threshold}{was}"


def _windows(document: dict[str, Any]) -> str:
    parts = []
    for window in document["windows"].values():
        used = window["utilization"]
        if used is None:
            parts.append(f"{window['label']} ?")
            continue
        filled = min(BAR, round(used / 100 * BAR))
        bar = "#" * filled + "." * (BAR - filled)
        parts.append(f"{window['label']} [{bar}] {used:5.1f} %")
    return "  ".join(parts)
