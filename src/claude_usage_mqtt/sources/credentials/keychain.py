"""The item that Claude Code keeps in the macOS Keychain, with the file next to it, which is often an old copy.

The Keychain goes first. Of the two, what has no token does not count, and the one that expires later is used.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import subprocess
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path

from claude_usage_mqtt.errors import CredentialsError, CredentialsNotFound, CredentialsUnreadable
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.credentials.token import Credentials, CredentialSource, parse_credentials

ITEM = "Claude Code-credentials"
SECURITY = "/usr/bin/security"

KEYCHAIN_TIMEOUT = 10.0
"""Seconds for all questions together; the Keychain may ask its user something, and nobody answers."""

NO_ITEM = 44
FALLBACK_ACCOUNT = "claude-code-user"
"""Claude Code's name for a user whose own has other than letters, digits, dot, dash and underscore."""

CUT_OFF = (
    "perhaps because the Keychain cut it off, as it does with the tokens of many MCP servers in it; "
    "log in to Claude Code again, with fewer of them"
)


@dataclass(frozen=True)
class Keychain(CredentialSource):
    """The items that may hold one login, and the file."""

    folder: Path
    items: tuple[str, ...] = (ITEM,)
    can_be_watched = False

    @property
    def place(self) -> str:
        """The first item's name."""
        return f"the Keychain item '{self.items[0]}'"

    @cached_property
    def _file(self) -> CredentialsFile:
        return CredentialsFile(self.folder)

    def read(self) -> Credentials:
        """Return what the Keychain or the file holds now: the Keychain's, unless the file's expires later."""
        refusal: CredentialsError
        try:
            best = self._from_keychain()
        except CredentialsError as error:
            best, refusal = None, error.without_history()
        try:
            other = self._file.read()
        except CredentialsError:
            if best is None:
                raise refusal from None
            return best
        if best is None:
            # An old copy that has expired must not hide why the Keychain was of no use.
            return replace(other, remark=str(refusal)) if isinstance(refusal, CredentialsUnreadable) else other
        return _later(best, other)

    def fingerprint(self) -> object:
        """Return the identity of the file; the Keychain cannot be asked cheaply."""
        return self._file.fingerprint()

    def _from_keychain(self) -> Credentials:
        found: list[Credentials] = []
        problem: CredentialsError = CredentialsNotFound(
            f"Neither a Keychain item '{self.items[0]}' nor {self._file.path} exists; log in with Claude Code first."
        )
        until = time.monotonic() + KEYCHAIN_TIMEOUT
        for item in self.items:
            for text in _texts(item, until):
                try:
                    if isinstance(text, CredentialsError):
                        raise text
                    found.append(parse_credentials(_decoded(text), f"the Keychain item '{item}'", CUT_OFF))
                except CredentialsError as error:
                    problem = error
        if not found:
            raise problem
        return reduce(_later, found)


def _later(first: Credentials, second: Credentials) -> Credentials:
    """Return the one that expires later, the first one if that is not known."""
    ends = first.login.token_expires_at, second.login.token_expires_at
    return second if ends[0] is not None and ends[1] is not None and ends[1] > ends[0] else first


def _texts(item: str, until: float) -> Iterator[str | CredentialsError]:
    """Yield what an item holds for each account that Claude Code may have written it for; nothing if there is none."""
    is_found = False
    for account in (*_accounts(), None):
        if account is None and is_found:
            return
        selected = [] if account is None else ["-a", account]
        command = [SECURITY, "find-generic-password", *selected, "-w", "-s", item]
        try:
            ended = subprocess.run(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=max(0.1, until - time.monotonic()),
            )
        except (OSError, subprocess.TimeoutExpired):
            yield CredentialsUnreadable(f"The Keychain did not answer for '{item}'; unlock it and allow access.")
            return
        if ended.returncode == NO_ITEM:
            continue
        is_found = True
        if ended.returncode != 0:
            yield CredentialsUnreadable(f"The Keychain refused '{item}'; unlock it and allow access.")
        else:
            yield ended.stdout.decode("utf-8", "replace")


def _accounts() -> list[str]:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = ""
    return list(dict.fromkeys(name for name in (os.environ.get("USER"), user, FALLBACK_ACCOUNT) if name))


def _decoded(text: str) -> str:
    """Return an item's text, which `security` prints as hex if it holds anything but printable ASCII."""
    text = text.strip()
    digits = text.removeprefix("0x")
    if len(digits) % 2 == 0 and re.fullmatch(r"[0-9a-fA-F]+", digits):
        return bytes.fromhex(digits).decode("utf-8-sig", "replace")
    return text


def item_names(folder: str | None, path: Path, default: Path) -> tuple[str, ...]:
    """Return the names that Claude Code may have given the item of a folder; None is a folder that is not set.

    Claude Code appends a hash of the variable's raw text whenever that is set. What is written in our settings need not
    be what it saw: a shell expands `~` and may add a slash, and the default folder is mostly not set at all.
    """
    if folder is None:
        return (ITEM,)
    texts = dict.fromkeys(unicodedata.normalize("NFC", text) for text in (folder, str(path), f"{path}/"))
    hashed = [f"{ITEM}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}" for text in texts]
    return (*hashed, ITEM) if path == default else tuple(hashed)
