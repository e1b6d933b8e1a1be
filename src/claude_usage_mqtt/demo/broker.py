"""An MQTT broker inside this process, for the demo and for tests on machines without Mosquitto.

amqtt does the work, in an event loop on its own thread. It is an optional extra, so it is imported only
when a broker is made. It speaks MQTT 3.1.1 only and keeps nothing on disk. Nothing of amqtt shows: no log line, no
warning, no exception in its tasks.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
import sys
import threading
import warnings
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from claude_usage_mqtt.errors import SettingsError

if TYPE_CHECKING:
    from types import ModuleType

_LISTENER = "default"  # amqtt requires a listener of this name
_ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
_START_TIMEOUT = 10.0  # s
_SHUTDOWN_TIMEOUT = 1.5  # s for amqtt's own shutdown, which a client that does not read can hold up
_CLOSE_TIMEOUT = 3.0  # s for all of `close()`


class EmbeddedBroker:
    """A broker for anybody who can reach it: with the default host, programs on this machine.

    It listens from the moment it is made until `close()`: on `port`, or on a free one if that is taken or 0; then the
    attribute `port` is that one.
    Raises `SettingsError` if the `demo` extra is not installed.
    """

    def __init__(self, port: int = 1883, host: str = "127.0.0.1") -> None:
        self._amqtt = _import_amqtt()
        self._socket = _listen(host, port)
        self.port = int(self._socket.getsockname()[1])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="embedded-broker", daemon=True)
        self._thread.start()
        try:
            started.result(_START_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop every client, stop listening and wait for the thread to end; a second call does nothing."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_CLOSE_TIMEOUT)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started), debug=False)  # not even under -X dev: it would log
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda *_: None)  # an error in a connection's task affects only that one
        broker = self._amqtt.broker.Broker(
            {"listeners": {_LISTENER: {"type": "external"}}, "plugins": {_ANONYMOUS: {}}}
        )
        _replay_to_subscribers_only(broker)
        await broker.start()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            adapters = self._amqtt.adapters
            self._connections.add(writer)
            try:
                await broker.external_connected(
                    adapters.StreamReaderAdapter(reader), adapters.StreamWriterAdapter(writer), _LISTENER
                )
            finally:
                self._connections.discard(writer)
                writer.transport.abort()

        # We make the socket, not amqtt: so its port is known, and nobody can take it in between.
        server = await asyncio.start_server(connected, sock=self._socket)
        started.set_result(None)
        await self._stopping.wait()
        server.close()
        # Waited for, not awaited: amqtt's end may raise anything, cancellation included.
        shutdown = asyncio.ensure_future(broker.shutdown())
        await asyncio.wait({shutdown}, timeout=_SHUTDOWN_TIMEOUT)
        for writer in self._connections:
            writer.transport.abort()
        await asyncio.sleep(0)  # one turn of the loop closes the aborted sockets


def _import_amqtt() -> ModuleType:
    """Import the parts of amqtt that are needed, and silence it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older releases and what they import warn of `crypt` and the like
            for name in ("amqtt.adapters", "amqtt.broker", "amqtt.plugins.authentication"):
                importlib.import_module(name)
            amqtt = importlib.import_module("amqtt")
    except ImportError:
        raise SettingsError(f"the demo needs the package amqtt: {sys.executable} -m pip install 'amqtt<0.13'") from None
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return amqtt


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError:
        return socket.create_server((host, 0))


def _replay_to_subscribers_only(broker: Any) -> None:
    """Keep retained messages from clients that did not subscribe to them.

    amqtt sends every client that connects whatever is retained for anybody's subscription, and it does so while
    it walks through the subscriptions: another client that subscribes just then ends the new client's session.
    """
    replay = broker._publish_retained_messages_for_subscription  # noqa: SLF001 - amqtt has no public way

    async def replay_if_subscribed(subscription: tuple[str, int], session: Any) -> None:
        subscribers = broker.subscriptions.get(subscription[0], ())
        if any(subscriber.client_id == session.client_id for subscriber, _qos in subscribers):
            await replay(subscription, session)

    broker._publish_retained_messages_for_subscription = replay_if_subscribed  # noqa: SLF001
