"""`watch`: the usage in the terminal, from what is retained on the broker; it makes no request to the API."""

from __future__ import annotations

import importlib.util
import queue
import signal
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from claude_usage_mqtt.cli.run import topics
from claude_usage_mqtt.cli.until import on_signals
from claude_usage_mqtt.errors import BrokerError, BrokerRefused, SettingsError
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.settings.load import load_settings

if TYPE_CHECKING:
    from claude_usage_mqtt.cli.board import Board

FIRST_DELAY, LONGEST_DELAY = 1.0, 15.0
"""Seconds between attempts to connect, doubling."""

STOP_CHECK_EVERY = 0.25
"""Seconds between looks at whether it is to end."""


class Subscribed:
    """The broker has accepted us and our subscriptions."""


def watch() -> int:
    """Show the usage until Ctrl-C; raises SettingsError, and BrokerError if the broker refuses us."""
    if importlib.util.find_spec("rich") is None:
        raise SettingsError(f"watch needs the package rich: {sys.executable} -m pip install rich")
    settings = load_settings()
    options = settings.broker()
    if not sys.stdout.isatty():
        raise SettingsError(
            "watch needs a terminal; 'claude-usage-mqtt guard' prints a sentence anywhere, from the broker too."
        )
    from claude_usage_mqtt.cli.board import Board  # noqa: PLC0415 - rich is an extra

    feed = Feed(options, _filters(settings))
    with on_signals(signal.default_int_handler):  # started in the background by a shell it would ignore Ctrl-C
        feed.start()
        try:
            _show(feed, Board(settings.mqtt_base_topic, options.address))
        except KeyboardInterrupt:
            return 0
        finally:
            feed.stop()


def _filters(settings: Settings) -> list[str]:
    """Return what to subscribe to; not every broker replays to a wildcard what it has retained."""
    base = settings.mqtt_base_topic
    accounts = [topics(settings, account.id) for account in settings.accounts()]
    exact = [topic for each in accounts for topic in (each.state, each.health)]
    return [f"{base}/status", f"{base}/+/state", f"{base}/+/health", *exact]


def _show(feed: Feed, board: Board) -> NoReturn:
    """Draw the board whenever something arrives, and every second, until interrupted."""
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(board.view(datetime.now(UTC)), refresh=True)
            for item in feed.arrived(until_next_second()):
                _take(board, item)


def _take(board: Board, item: Arrived) -> None:
    match item:
        case Message():
            board.take(item)
        case Subscribed():
            board.is_connected, board.problem = True, None
        case SettingsError():
            raise item
        case BrokerRefused() if not board.is_connected and not (board.states or board.healths):
            raise item
        case BrokerError():
            board.is_connected, board.is_online, board.problem = False, None, str(item)


def until_next_second() -> float:
    """Return how many seconds are left of this one."""
    return 1 - datetime.now(UTC).microsecond / 1_000_000


class Feed:
    """A thread that stays connected and passes on what arrives."""

    def __init__(self, options: BrokerOptions, filters: list[str]) -> None:
        self._options = options
        self._filters = filters
        self._inbox: queue.Queue[Arrived] = queue.Queue()
        self._delay = FIRST_DELAY
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self) -> None:
        """End; an attempt to connect that is under way is left to itself."""
        self._stopping.set()
        self._thread.join(4 * STOP_CHECK_EVERY)

    def arrived(self, within: float) -> list[Arrived]:
        """Return what has arrived, as soon as something has."""
        try:
            found = [self._inbox.get(timeout=within)]
            while not self._inbox.empty():
                found.append(self._inbox.get())
        except queue.Empty:
            return []
        return found

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with Session(self._options) as session:
                    self._listen(session)
            except (BrokerError, SettingsError) as error:
                self._inbox.put(error)
            self._stopping.wait(self._delay)
            self._delay = min(2 * self._delay, LONGEST_DELAY)

    def _listen(self, session: Session) -> None:
        refused = session.subscribe(self._filters)
        if len(refused) == len(self._filters):
            raise BrokerRefused(f"The broker at {self._options.address} lets us read nothing; allow {refused[1]}.")
        self._delay = FIRST_DELAY
        self._inbox.put(Subscribed())
        while not self._stopping.is_set():
            message = session.receive(STOP_CHECK_EVERY)
            if message is not None:
                self._inbox.put(message)


Arrived = Message | Subscribed | BrokerError | SettingsError
