"""`demo`: the real service against a simulated account over real HTTP, in time that runs faster."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import sys
import threading
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from claude_usage_mqtt.cli.run import make_service
from claude_usage_mqtt.clock import Clock, FastClock
from claude_usage_mqtt.demo.broker import EmbeddedBroker
from claude_usage_mqtt.demo.simulated_api import SimulatedAccount, SimulatedApi
from claude_usage_mqtt.errors import BrokerError
from claude_usage_mqtt.mqtt.connection import Message
from claude_usage_mqtt.mqtt.oneshot import Session
from claude_usage_mqtt.settings import Settings, load_settings

SPEED = 600
"""Seconds of the account's life per real second: a session takes half a minute, a week a quarter of an hour."""

POLL_INTERVAL = 300
BAR = 20


def demo() -> int:
    """Show topics changing, windows filling and resetting, until Ctrl-C."""
    clock = FastClock(SPEED, datetime.now(UTC).replace(hour=8, minute=0, second=0, microsecond=0))
    with contextlib.ExitStack() as parts:
        api = parts.enter_context(SimulatedApi(SimulatedAccount(clock.now, seed=7)))
        settings = _settings(api.url, parts)
        where = settings.broker().address
        print(f"MQTT broker   {where}   (look at {settings.mqtt_base_topic}/#)")
        print(f"Time          {SPEED} times as fast: a session lasts half a minute. Ctrl-C ends it.\n", flush=True)
        _run(settings, clock)
    return 0


def _settings(api_url: str, parts: contextlib.ExitStack) -> Settings:
    """Return settings for the simulated account, with a broker of our own where none is named."""
    named = load_settings()
    given: dict[str, Any] = {
        "claude_api_url": api_url,
        "claude_code_oauth_token": "demo",
        "claude_code_oauth_token_file": None,
        "claude_accounts": None,
        "claude_source": "oauth",
        "poll_interval": POLL_INTERVAL,
        "usage_log": None,
    }
    if named.mqtt_host is None:
        broker = parts.enter_context(EmbeddedBroker())
        given |= {"mqtt_host": "127.0.0.1", "mqtt_port": broker.port, "mqtt_tls": False, "mqtt_transport": "tcp"}
        given["mqtt_protocol"] = "3.1.1"  # all it speaks; to 5 it says nothing, and we would wait
        given |= {"mqtt_username": None, "mqtt_password": None, "mqtt_password_file": None}
        given |= {"mqtt_tls_ca": None, "mqtt_tls_cert": None, "mqtt_tls_key": None}
    return Settings(**{**named.model_dump(), **given})


def _run(settings: Settings, clock: Clock) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    service = make_service(settings, clock)
    worker = threading.Thread(target=service.run, name="service", daemon=True)
    ended = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    worker.start()
    try:
        _show(settings, clock, ended, worker)
    finally:
        service.stop()
        worker.join(timeout=5)
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(settings: Settings, clock: Clock, ended: threading.Event, worker: threading.Thread) -> None:
    """Print what arrives at the broker, as any other client would see it, until ended."""
    base = settings.mqtt_base_topic
    topics = [f"{base}/status", f"{base}/default/state", f"{base}/default/event/+"]
    try:
        with Session(settings.broker()) as session:
            session.subscribe(topics)
            while not ended.is_set() and worker.is_alive():
                message = session.receive(0.2)
                if message is not None:
                    _print(message, clock)
    except BrokerError:
        if not ended.is_set():
            raise


def _print(message: Message, clock: Clock) -> None:
    moment = clock.now().strftime("%a %H:%M")
    kind = message.topic.split("/")[2 if message.topic.count("/") > 1 else 1]
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
    return f"*** {document['window']}: {document['event_type']}{threshold} (was {document['previous_utilization']:g} %)"


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
