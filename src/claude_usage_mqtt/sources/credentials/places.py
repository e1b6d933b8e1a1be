"""Claude Code's credentials: read afresh at every poll, never written, never kept.

Three places: a token given directly, `.credentials.json` in Claude Code's folder, the Keychain on macOS.
Whatever is wrong with them is told by a CredentialsError that names the place, and never what stood there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Protocol

from claude_usage_mqtt.errors import CredentialsNotFound, CredentialsUnreadable, TokenExpired
from claude_usage_mqtt.instants import format_instant, from_epoch
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.untrusted import clean_text

EXPIRY_MARGIN = timedelta(minutes=5)
"""A token this close to its end is not sent: clocks differ, and an expired one is answered with a 429."""

MAX_FILE = 1024 * 1024
MAX_TOKEN = 8192
KEYCHAIN_TIMEOUT = 10
"""Seconds; the Keychain may ask its user something, and nobody answers."""

KEYCHAIN_NO_ITEM = 44
FILE_NAME = ".credentials.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An access token and what is known about it.

    `organization` is a hash: enough to see that the account changed, and nothing more.
    """

    token: str = field(repr=False)
    expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()
    plan: str | None = None
    organization: str | None = None

    @property
    def login(self) -> Login:
        """What is known beside the token."""
        return Login(
            organization=self.organization,
            plan=self.plan,
            scopes=self.scopes,
            token_expires_at=self.expires_at,
            mark=hash(self.token),
        )

    def require_unexpired(self, now: datetime) -> None:
        """Raise TokenExpired where the token is past its time, or will be within five minutes."""
        if self.expires_at is not None and now >= self.expires_at - EXPIRY_MARGIN:
            raise TokenExpired(
                f"The access token expired at {format_instant(self.expires_at)}; "
                "open Claude Code once on the machine that owns it, it renews the token by itself."
            )


class CredentialSource(Protocol):
    """A place where credentials are found; `can_be_watched`: a change of them is noticed without reading them."""

    @property
    def can_be_watched(self) -> bool:
        """Whether the fingerprint changes whenever the credentials do."""

    @property
    def place(self) -> str:
        """The place, in words, for messages."""

    def read(self) -> Credentials:
        """Return the credentials as they are now; raises CredentialsError."""

    def fingerprint(self) -> object:
        """Return something that changes when the credentials do, cheaply and without reading them."""


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token from the environment, or from a file that holds nothing else (`…_FILE`)."""

    token: str = field(default="", repr=False)
    file: Path | None = None

    @property
    def place(self) -> str:
        """The setting it came from."""
        return "CLAUDE_CODE_OAUTH_TOKEN" if self.file is None else f"CLAUDE_CODE_OAUTH_TOKEN_FILE ({self.file})"

    @property
    def can_be_watched(self) -> bool:
        """A variable never changes; a file does."""
        return self.file is not None

    def read(self) -> Credentials:
        """Return the token; nothing else is known about it."""
        text = self.token if self.file is None else self._read_file(self.file)
        if not text.strip():
            raise CredentialsNotFound(f"{self.place} is empty; put the token there, or use Claude Code's own file.")
        return Credentials(token=_checked_token(text.strip(), self.place))

    def _read_file(self, file: Path) -> str:
        try:
            return _read_text(file, self.place)
        except FileNotFoundError:
            raise CredentialsNotFound(f"{self.place} does not exist; put the token there, or unset it.") from None
        except OSError as error:
            raise CredentialsUnreadable(f"{self.place} {why_unreadable(error)}; name a file with the token.") from None

    def fingerprint(self) -> object:
        """Return the file's identity; a token given directly never changes."""
        return None if self.file is None else _stat(self.file)


@dataclass(frozen=True)
class CredentialsFile:
    """`.credentials.json` in Claude Code's folder, opened by path each time: it is replaced by rename."""

    folder: Path
    can_be_watched = True

    @cached_property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / FILE_NAME

    @property
    def place(self) -> str:
        """The path."""
        return str(self.path)

    def read(self) -> Credentials:
        """Return what the file holds now."""
        try:
            text = _read_text(self.path, self.place)
        except IsADirectoryError:
            raise CredentialsUnreadable(
                f"{self.path} is a folder, as a container engine makes one where the file that it mounts is missing; "
                "mount Claude Code's folder instead."
            ) from None
        except OSError as error:
            if self.folder.is_file():
                raise CredentialsNotFound(f"{self.folder} is a file; name the folder it lies in.") from None
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise CredentialsNotFound(
                    f"{self.path} does not exist; log in with Claude Code, or point CLAUDE_CONFIG_DIR at its folder."
                ) from None
            raise CredentialsUnreadable(f"{self.path} {why_unreadable(error)}; make it readable.") from None
        return parse_credentials(text, self.place)

    def fingerprint(self) -> object:
        """Return the file's identity, size and time."""
        return _stat(self.path)


@dataclass(frozen=True)
class Keychain:
    """The item that Claude Code keeps in the macOS Keychain; a credentials file, where there is one, wins."""

    folder: Path
    is_default_folder: bool = True
    can_be_watched = False

    @property
    def place(self) -> str:
        """The item's name."""
        return f"the Keychain item '{self._item}'"

    @cached_property
    def _file(self) -> CredentialsFile:
        return CredentialsFile(self.folder)

    @property
    def _item(self) -> str:
        name = "Claude Code-credentials"
        if self.is_default_folder:
            return name
        return f"{name}-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]}"

    def read(self) -> Credentials:
        """Return what the file or the Keychain holds now."""
        if self._file.path.exists():
            return self._file.read()
        command = [
            "/usr/bin/security",
            "find-generic-password",
            "-a",
            os.environ.get("USER", ""),
            "-w",
            "-s",
            self._item,
        ]
        try:
            found = subprocess.run(command, capture_output=True, check=False, timeout=KEYCHAIN_TIMEOUT)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CredentialsUnreadable(
                f"The Keychain did not answer for '{self._item}'; unlock it and allow access."
            ) from error
        if found.returncode == KEYCHAIN_NO_ITEM:
            raise CredentialsNotFound(f"There is no {self.place.removeprefix('the ')}; log in with Claude Code first.")
        if found.returncode != 0:
            raise CredentialsUnreadable(f"The Keychain refused '{self._item}'; unlock it and allow access.")
        return parse_credentials(found.stdout.decode("utf-8", "replace"), self.place)

    def fingerprint(self) -> object:
        """Return the identity of the file; the Keychain cannot be asked cheaply."""
        return self._file.fingerprint()


def find_source(folder: Path, *, is_default_folder: bool, platform: str = sys.platform) -> CredentialSource:
    """Return where Claude Code keeps its credentials on this platform."""
    return Keychain(folder, is_default_folder) if platform == "darwin" else CredentialsFile(folder)


def parse_credentials(text: str, place: str) -> Credentials:
    """Return the credentials in `text`, the JSON of Claude Code's file; raises CredentialsError."""
    if not text.strip():
        raise CredentialsUnreadable(f"{place} is empty; log in with Claude Code again if it stays so.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise CredentialsUnreadable(
            f"{place} is not valid JSON, perhaps just being written; log in with Claude Code again if it stays so."
        ) from None
    if not isinstance(document, dict):
        raise CredentialsUnreadable(f"{place} does not hold a JSON object; log in with Claude Code again.")
    section = document.get("claudeAiOauth")
    if section is None:
        raise CredentialsNotFound(f"{place} holds no Claude login; log in with Claude Code.")
    if not isinstance(section, dict):
        raise CredentialsUnreadable(f"claudeAiOauth in {place} is no object; log in with Claude Code again.")
    token = section.get("accessToken")
    if token is None or token == "":
        raise CredentialsNotFound(f"{place} holds no access token (logged out?); log in with Claude Code.")
    if not isinstance(token, str):
        raise CredentialsUnreadable(f"The access token in {place} is no text; log in with Claude Code again.")
    return Credentials(
        token=_checked_token(token, place),
        expires_at=_expiry(section.get("expiresAt")),
        scopes=_scopes(section.get("scopes")),
        plan=clean_text(section.get("subscriptionType")),
        organization=_hashed(document.get("organizationUuid")),
    )


def _checked_token(token: str, place: str) -> str:
    # What is no visible ASCII would make the HTTP library quote the token in an error.
    if len(token) > MAX_TOKEN or not re.fullmatch(r"[!-~]+", token):
        raise CredentialsUnreadable(f"The access token in {place} holds characters that no token has; copy it again.")
    return token


def _expiry(value: object) -> datetime | None:
    """Return the instant of milliseconds since 1970, a number or text; missing, zero or nonsense is not known."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,16}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return from_epoch(value / 1000)
    except OverflowError:
        return None


def _scopes(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(text for text in map(clean_text, value[:50]) if text)


def _hashed(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:16]


def _stat(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # a path that no file can have is a ValueError
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _read_text(path: Path, place: str) -> str:
    """Return what a file holds; raises OSError where it cannot be opened, CredentialsUnreadable for its content."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except PermissionError as error:
        raise CredentialsUnreadable(
            f"{place} {why_unreadable(error)}; run as the user who owns it, or allow that user to read it."
        ) from None
    except ValueError:
        raise CredentialsUnreadable("The path of the credentials is no path; correct CLAUDE_CONFIG_DIR.") from None
    if len(content) > MAX_FILE:
        raise CredentialsUnreadable(f"{place} is too large to be credentials; log in with Claude Code again.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CredentialsUnreadable(f"{place} is no text; log in with Claude Code again.") from None


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
