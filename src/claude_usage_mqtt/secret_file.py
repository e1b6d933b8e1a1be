"""Files that hold one secret, such as Docker's: read up to a limit, freed of what editors add, errors explained."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from claude_usage_mqtt.errors import SettingsError

LARGEST = 64 * 1024
"""Bytes; the longest secrets are tokens of a few kilobytes."""


def read_secret(path: Path, setting: str) -> str:
    """Return the secret in the file that a setting names; raises SettingsError, which never shows the content."""
    place = f"{setting} ({path})"
    try:
        with path.open("rb") as file:
            secret = decode(file.read(LARGEST)).strip("\r\n")
    except PermissionError as error:
        raise SettingsError(f"{place} {why_unreadable(error)}; allow that user to read it.") from None
    except OSError as error:
        raise SettingsError(f"{place} {why_unreadable(error)}; name the file that holds the password.") from None
    except ValueError:
        raise SettingsError(f"{place} is not valid UTF-8 text; save the password as UTF-8.") from None
    if not secret:
        raise SettingsError(f"{place} is empty; put the password there.")
    if not secret.isprintable():
        raise SettingsError(f"{place} has line breaks or control characters; it must hold the password alone.")
    return secret


def decode(content: bytes) -> str:
    """Return text without the byte-order mark that Windows editors and PowerShell write; raises ValueError."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


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
    """Return who we are, for a sentence about permissions; by number, as containers have users without a name."""
    return f"user {os.getuid()}" if hasattr(os, "getuid") else f"user {os.environ.get('USERNAME', '?')}"
