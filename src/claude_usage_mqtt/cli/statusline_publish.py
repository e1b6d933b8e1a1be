"""Publishes the status line's numbers, in a separate process that nobody waits for.

A file in the cache folder holds the message; a lock next to it lets one process at a time do the work. If they cannot
be written, nothing is handed over: otherwise a broken folder would start a process per line.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from claude_usage_mqtt.cli.statusline_cache import LIFE, PendingReading, cache_folder, note_session
from claude_usage_mqtt.instants import SAME_INSTANT
from claude_usage_mqtt.sources.rate_limits import OLDEST, Limit, Mark, StatusLineMessage, parse_message

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIRM_AFTER = 60.0
"""Seconds after which a response with unchanged numbers is also handed over: it confirms them, and keeps them fresh."""

REPEAT_AFTER = 300.0
"""Seconds after which a message, with its time, is sent again: the first one may have reached no service."""

RETRY_AFTER = 60.0
"""Seconds after which a message that the broker did not accept is sent again."""

SAME_READING = timedelta(milliseconds=2)
"""Two times this close belong to the same reading: the message rounds them."""

WITHIN = 4.0
"""Seconds that the broker gets."""


def hand_over(mark: Mark, limits: Mapping[str, Limit], account: str, now: datetime) -> None:
    """Start a process that publishes the numbers, if they are new and no other process is running; return at once."""
    if not limits and not mark.session:
        return
    try:
        folder = cache_folder(os.environ)
    except RuntimeError:  # this user has no home folder
        return
    pending = PendingReading(account, folder)
    if take_in(pending, mark, limits, now) and pending.claim():
        _start(pending)


def take_in(pending: PendingReading, mark: Mark, limits: Mapping[str, Limit], now: datetime) -> bool:
    """Note what a session shows; return whether it should be published, and was saved for that."""
    read_at, is_response = note_session(pending.folder, mark, limits, now)
    if not limits:
        return False
    new, message = StatusLineMessage(read_at, dict(limits), is_response=is_response), pending.read()
    known = parse_message(message, now)
    if now - read_at <= OLDEST and is_new(new, known, pending.age()):
        return pending.write(new.encode())
    is_due = pending.age() >= (REPEAT_AFTER if pending.is_sent(message) else RETRY_AFTER)
    return known is not None and is_due and pending.touch()


def _start(pending: PendingReading) -> None:
    import subprocess  # noqa: PLC0415 - rarely needed, and start-up time counts

    try:
        process = subprocess.Popen(  # noqa: S603 - our own module
            # the user's working folder must give us neither modules nor settings
            [sys.executable, "-P", "-m", __name__, pending.account],
            cwd=pending.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError):
        pending.release()
        return
    process.returncode = 0  # nobody waits for it, and Python need not warn about that


def is_new(new: StatusLineMessage, known: StatusLineMessage | None, age: float) -> bool:
    """Whether numbers are worth a separate message after the `known` one, handed over `age` seconds ago.

    Each of several open sessions shows the numbers of its own last response. A lower number in the same window is new
    only if a response has just come; so is a window that ends earlier than the known one.
    """
    if known is None:
        return True
    if new.at < known.at + SAME_READING:
        return False
    if any(
        _is_new(limit, known.limits.get(key), is_response=bool(new.is_response)) for key, limit in new.limits.items()
    ):
        return True
    return bool(new.is_response) and age >= CONFIRM_AFTER


def _is_new(new: Limit, known: Limit | None, *, is_response: bool) -> bool:
    if known is None:
        return True
    if new.resets_at is None or known.resets_at is None:
        is_same = new.resets_at is known.resets_at
    else:
        if new.resets_at - known.resets_at > SAME_INSTANT:
            return True
        is_same = abs(new.resets_at - known.resets_at) <= SAME_INSTANT
    if not is_same:
        return is_response
    return new.percent > known.percent or (is_response and new.percent != known.percent)


def publish(pending: PendingReading) -> None:
    """Publish the pending message, and what was added in the meantime; we hold the claim, and release it."""
    from claude_usage_mqtt.errors import ClaudeUsageError  # noqa: PLC0415
    from claude_usage_mqtt.mqtt import client, session  # noqa: PLC0415
    from claude_usage_mqtt.settings.load import load_settings  # noqa: PLC0415

    while True:
        message = pending.read()
        try:
            if parse_message(message, datetime.now(UTC)) is None:
                return
            settings = load_settings(with_env_file=False)
            topic = f"{settings.mqtt_base_topic}/{pending.account}/statusline"
            session.publish_once(settings.broker(), client.Message(topic=topic, payload=message), WITHIN)
            pending.note_sent(message)
        except ClaudeUsageError:
            return  # the next line tries again; `check` says why, a status line has no room for it
        finally:
            pending.release()
        if pending.read() == message or not pending.claim():
            return


def main(account: str, life: float = LIFE) -> None:
    """Publish an account's pending message, from the working folder; end within `life` seconds."""
    import threading  # noqa: PLC0415

    # Whatever hangs, waits outside Python, and other threads continue.
    end = threading.Timer(life, os._exit, [1])
    end.daemon = True
    end.start()
    publish(PendingReading(account, Path.cwd()))


if __name__ == "__main__":
    main(sys.argv[1])
