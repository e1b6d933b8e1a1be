"""A reporter in the test's process, on one machine with a login, and a stand-in for the service that asks it."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.reporter.loop import Reporter, ReporterOptions
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.source import PolledSource
from claude_usage_mqtt.topics import ReporterTopics
from parts.net import LOOPBACK
from parts.service import BASE, Clock, Running, in_a_thread
from parts.watcher import Message, Watcher

LAPTOP: Final = ReporterTopics(base=BASE, machine="laptop")


@contextlib.contextmanager
def running_reporter(
    port: int,
    api_url: str,
    credentials: Path | Mapping[str, Path],
    *,
    machine: str = "laptop",
    clock: Any = None,
    limited: bool = False,
    sources: Mapping[str, PolledSource] | None = None,
    **broker: Any,
) -> Iterator[Running]:
    """Run a reporter inside this process; `credentials` is the folder of one account, or one for each."""
    folders = credentials if isinstance(credentials, Mapping) else {"default": credentials}
    clock = clock or Clock()
    options = BrokerOptions(host=broker.pop("host", LOOPBACK), port=port, **broker)
    api = UsageApi(api_url, "tests", 5.0)
    settings = ReporterOptions(
        broker=options,
        base_topic=BASE,
        machine=machine,
        limited=limited,
        sources=sources or {name: ApiSource(CredentialsFile(folder), api) for name, folder in folders.items()},
    )
    with contextlib.closing(api), in_a_thread(Reporter(settings, clock), clock) as running:
        yield running


def is_online(message: Message) -> bool:
    """Return whether it is the presence of a reporter that is online."""
    return bool(message.payload) and message.json()["online"] is True


def ask(watcher: Watcher, machine: str = "laptop", account: str | None = "default", **more: Any) -> dict[str, Any]:
    """Ask a reporter and return its answer."""
    topics = ReporterTopics(base=BASE, machine=machine)
    identifier = more.setdefault("id", uuid.uuid4().hex)
    watcher.publish(topics.ask, json.dumps({"account": account, **more}))
    message = watcher.wait_topic(topics.answer, lambda message: f'"{identifier}"' in message.payload)
    assert not message.retain
    found: dict[str, Any] = message.json()
    return found
