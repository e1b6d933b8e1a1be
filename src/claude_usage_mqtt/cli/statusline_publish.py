"""The status line's numbers on their way to the broker, by a file that contains them and a separate process.

The file, in the user's cache folder, contains the last published message: numbers and a time, no secret.
A lock next to it lets one process at a time do the work. If neither can be written, nothing is published:
nothing else could keep a broken folder from starting a process per line.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from claude_usage_mqtt.instants import SAME_INSTANT
from claude_usage_mqtt.sources.status_line import MAX_MESSAGE, format_statusline, parse_statusline
from claude_usage_mqtt.untrusted import slug
from claude_usage_mqtt.usage.reading import Reading

REPEAT_EVERY = timedelta(minutes=5)
"""Numbers that did not change are published again after this, so that they count as fresh."""

WITHIN = 4.0
"""Seconds that the broker gets."""

LIFE = 8.0
"""Seconds after which the process ends, whatever it hangs in."""

DEFAULT = "default"


class PendingReading:
    """The reading to publish for an account, and which process publishes it."""

    def __init__(self, account: str, folder: Path) -> None:
        self.folder = folder
        self._file = folder / f"statusline-{account}.json"
        self._lock = folder / f"statusline-{account}.lock"

    def read(self) -> bytes:
        """Return the last message; empty if none can be read."""
        try:
            with self._file.open("rb") as file:
                return file.read(MAX_MESSAGE + 1)
        except OSError:
            return b""

    def write(self, message: bytes) -> bool:
        """Replace the message, whole; return whether that was possible."""
        temporary = self._file.with_suffix(f".{os.getpid()}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(message)
            temporary.replace(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        return True

    def claim(self) -> bool:
        """Return whether it is now ours to do; a claim that outlived every process is void."""
        try:
            with contextlib.suppress(FileNotFoundError):
                if not 0 <= time.time() - self._lock.stat().st_mtime <= LIFE + 2:
                    self._lock.unlink()
            self._lock.touch(0o600, exist_ok=False)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Let the next one do it."""
        with contextlib.suppress(OSError):
            self._lock.unlink()


def cache_folder(environment: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Return our folder in the user's cache folder."""
    own = environment.get("LOCALAPPDATA" if platform == "win32" else "XDG_CACHE_HOME")
    folder = Path(own) if own and Path(own).is_absolute() else Path("~/.cache").expanduser()
    return folder / "claude-usage-mqtt"


def hand_over(usage: Reading, account: str | None) -> None:
    """Start a process that publishes the usage, if that is due and no other does; returns at once."""
    name = slug(account or DEFAULT) or DEFAULT
    try:
        pending = PendingReading(name, cache_folder(os.environ))
    except RuntimeError:  # nobody knows where this user's home is
        return
    known = parse_statusline(pending.read(), usage.read_at)
    if not is_due(usage, known) or not pending.write(format_statusline(usage)) or not pending.claim():
        return
    import subprocess  # noqa: PLC0415 - rarely needed, and start-up time counts

    try:
        process = subprocess.Popen(  # noqa: S603 - our own module
            # the folder somebody works in must give us neither modules nor settings
            [sys.executable, "-m", __name__, name],
            cwd=pending.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError):
        pending.release()
        return
    process.returncode = 0  # nobody waits for it, and Python need not warn of that


def is_due(usage: Reading, known: Reading | None) -> bool:
    """Whether a usage is worth a message after the `known` one: it says something new, or five minutes have passed.

    Of several open sessions each shows the numbers of its own last answer. A lower number in the same window is
    an older one: it is nothing new.
    """
    if known is None or usage.read_at - known.read_at >= REPEAT_EVERY:
        return True
    for window in usage:
        before = known.windows.get(window.key)
        if before is None:
            return True
        if window.resets_at is None or before.resets_at is None:
            if (window.utilization, window.resets_at) != (before.utilization, before.resets_at):
                return True
            continue
        moved = window.resets_at - before.resets_at
        if moved > SAME_INSTANT or (abs(moved) <= SAME_INSTANT and window.utilization > before.utilization):
            return True
    return False


def publish(pending: PendingReading, account: str) -> None:
    """Publish the pending reading, and what was added meanwhile; the claim is ours, and is released."""
    from claude_usage_mqtt.errors import ClaudeUsageError  # noqa: PLC0415
    from claude_usage_mqtt.mqtt.client import Message  # noqa: PLC0415
    from claude_usage_mqtt.mqtt.session import publish_once  # noqa: PLC0415
    from claude_usage_mqtt.settings.fields import load_settings  # noqa: PLC0415

    done = b""
    while True:
        message = pending.read()
        try:
            if parse_statusline(message, datetime.now(UTC)) is None:
                return
            settings = load_settings(with_env_file=False)
            topic = f"{settings.mqtt_base_topic}/{account}/statusline"
            publish_once(settings.broker(), Message(topic=topic, payload=message), WITHIN)
            done = message
        except ClaudeUsageError:
            return  # `check` says why; a status line has no place for it
        finally:
            pending.release()
        if pending.read() == done or not pending.claim():
            return


def main(account: str, life: float = LIFE) -> None:
    """Publish the pending reading of an account, from the working folder; ends within `life` seconds."""
    import faulthandler  # noqa: PLC0415

    with Path(os.devnull).open("w") as nowhere:
        # from a thread that no hanging call can hold up
        faulthandler.dump_traceback_later(life, exit=True, file=nowhere)
        publish(PendingReading(account, Path.cwd()), account)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(sys.argv[1])
