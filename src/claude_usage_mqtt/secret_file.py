"""Files that hold one secret, such as Docker's: read up to a limit, without what editors add, with errors explained."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from claude_usage_mqtt.errors import SettingsError

LONGEST_STRING = 65535
"""Bytes of a string in MQTT; the longest secrets are tokens of a few kilobytes."""


def read_secret(path: Path, setting: str) -> str:
    """Return the secret in the file that a setting names; raises SettingsError, which never shows the content."""
    place = f"{setting} ({path})"
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_STRING + 1)
            secret = decode(content).strip("\r\n")
    except PermissionError as error:
        raise SettingsError(f"{place} {why_unreadable(error)}; allow that user to read it.") from None
    except OSError as error:
        raise SettingsError(f"{place} {why_unreadable(error)}; name the file that holds the password.") from None
    except ValueError:
        raise SettingsError(f"{place} is not valid UTF-8 text; save the password as UTF-8.") from None
    if not secret:
        raise SettingsError(f"{place} is empty; put the password there.")
    if len(content) > LONGEST_STRING:
        raise SettingsError(f"{place} is too large; it must hold the password alone.")
    if not secret.isprintable():
        raise SettingsError(f"{place} has line breaks or control characters; it must hold the password alone.")
    return secret


def decode(content: bytes) -> str:
    """Return text without the byte-order mark that Windows editors and PowerShell write; raises ValueError."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    if "\0" in text:  # UTF-16 without its mark
        raise ValueError
    return text


def why_unreadable(error: OSError) -> str:
    """Return why a file could not be read, as the rest of a sentence that begins with its name."""
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return f"may not be read by {current_user()}"
        case IsADirectoryError():
            return "is a folder"
        case _:
            return f"cannot be read ({error.strerror or type(error).__name__})"


def current_user() -> str:
    """Return the user we run as, for a sentence about permissions; by number, as it may have no name in a container."""
    return f"user {os.getuid()}" if hasattr(os, "getuid") else f"user {os.environ.get('USERNAME', '?')}"
