"""`watch`: the usage in the terminal, from what is retained on the broker; it makes no request to the API."""

from __future__ import annotations

import contextlib
import queue
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from claude_usage_mqtt.errors import BrokerError, BrokerRefused, SettingsError
from claude_usage_mqtt.mqtt.client import Message, require_readable, with_own_id
from claude_usage_mqtt.mqtt.connection import Connected, ConnectionEvent, Disconnected, Subscribed
from claude_usage_mqtt.mqtt.connector import Connector
from claude_usage_mqtt.mqtt.delivery import Subscriptions
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.settings.load import load_settings

if TYPE_CHECKING:
    from rich.live import Live

    from claude_usage_mqtt.cli.board import Board

CLOSE_WITHIN = 0.5
"""Seconds to disconnect; a broker that does not respond is given up."""


def watch() -> int:
    """Show the usage until Ctrl-C; raises SettingsError, and BrokerError if the broker refuses us."""
    try:
        from rich.live import Live  # noqa: PLC0415 - rich is an extra

        from claude_usage_mqtt.cli.board import Board  # noqa: PLC0415
    except ImportError:
        raise SettingsError(f"watch needs the package rich: {sys.executable} -m pip install rich") from None
    settings = load_settings()
    options = settings.broker()
    if not sys.stdout.isatty():
        raise SettingsError(
            "watch needs a terminal; 'claude-usage-mqtt guard' prints a sentence anywhere, from the broker too."
        )
    require_readable(options)
    arrived: queue.Queue[ConnectionEvent] = queue.Queue()
    connector = Connector(with_own_id(options), arrived.put)
    connector.start()
    try:
        with Live(screen=True, auto_refresh=False) as live:
            _show(live, arrived, _filters(settings), Board(settings.mqtt_base_topic, options.address))
    except KeyboardInterrupt:
        return 0
    finally:
        connector.stop(CLOSE_WITHIN)


def _filters(settings: Settings) -> list[str]:
    """Return what to subscribe to; not every broker replays retained messages to a wildcard."""
    base = settings.mqtt_base_topic
    accounts = [settings.topics(account.id) for account in settings.accounts(with_logins=False)]
    exact = [topic for topics in accounts for topic in (topics.state, topics.health)]
    return [f"{base}/status", f"{base}/+/state", f"{base}/+/health", *exact]


def _show(live: Live, arrived: queue.Queue[ConnectionEvent], filters: list[str], board: Board) -> NoReturn:
    """Draw the board whenever something arrives, and every second, until interrupted."""
    while True:
        live.update(board.view(datetime.now(UTC), live.console.options), refresh=True)
        left_of_this_second = 1 - datetime.now(UTC).microsecond / 1_000_000
        with contextlib.suppress(queue.Empty):
            _take(board, arrived.get(timeout=left_of_this_second), filters)
            while True:
                _take(board, arrived.get_nowait(), filters)


def _take(board: Board, event: ConnectionEvent, filters: list[str]) -> None:
    match event:
        case Message():
            board.take(event)
        case Connected():
            Subscriptions(event.client).subscribe(filters)
        case Subscribed(refused=refused) if board.is_connected or not all(refused):
            board.is_connected, board.problem = True, None
        case Subscribed():
            _lose(board, BrokerRefused(f"The broker at {board.broker} lets us read nothing; allow {filters[1]}."))
        case Disconnected(error=error):
            _lose(board, error)


def _lose(board: Board, error: BrokerError) -> None:
    """Show that there is no connection; raises the error if the broker refuses us from the start."""
    if isinstance(error, BrokerRefused) and not board.is_connected and not (board.states or board.healths):
        raise error
    board.is_connected, board.is_online, board.problem = False, None, str(error)
