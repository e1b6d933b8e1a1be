"""The item that Claude Code keeps in the macOS Keychain, with the file next to it, which is often an old copy.

The Keychain goes first. A place without a token does not count; of two tokens, the one that expires later is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import subprocess
import time
import unicodedata
from dataclasses import replace
from functools import reduce
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
"""What Claude Code calls a user whose name has characters other than letters, digits, dot, dash and underscore."""

CUT_OFF = (
    "perhaps because the Keychain cut it off, as it does with the tokens of many MCP servers in it; "
    "log in to Claude Code again, with fewer of them"
)


class Keychain(CredentialSource):
    """The items that may hold one login, and the file."""

    can_be_watched = False

    def __init__(self, folder: Path, items: tuple[str, ...] = (ITEM,)) -> None:
        self.place = f"the Keychain item '{items[0]}'"
        self._items = items
        self._file = CredentialsFile(folder)

    def read(self) -> Credentials:
        """Return what the Keychain or the file holds now: the Keychain's, unless the file's expires later."""
        try:
            best = self._from_keychain()
        except CredentialsError as error:
            return self._from_file(error.without_history())
        with contextlib.suppress(CredentialsError):
            best = _later(best, self._file.read())
        return best

    def fingerprint(self) -> object:
        """Return the identity of the file; the Keychain cannot be asked cheaply."""
        return self._file.fingerprint()

    def _from_file(self, refusal: CredentialsError) -> Credentials:
        try:
            found = self._file.read()
        except CredentialsError:
            raise refusal from None
        # An old copy that has expired must not hide why the Keychain was unusable.
        return replace(found, remark=str(refusal)) if isinstance(refusal, CredentialsUnreadable) else found

    def _from_keychain(self) -> Credentials:
        """Return what an item holds, for any account that Claude Code may have used."""
        found: list[Credentials] = []
        problem: CredentialsError = CredentialsNotFound(
            f"Neither a Keychain item '{self._items[0]}' nor {self._file.path} exists; log in with Claude Code first."
        )
        until = time.monotonic() + KEYCHAIN_TIMEOUT
        for item in self._items:
            is_there = False
            for account in (*_accounts(), None):
                if (account is None and is_there) or time.monotonic() >= until:
                    break
                try:
                    credentials = _ask(item, account, until)
                except CredentialsError as error:
                    problem, is_there = error, True
                    continue
                if credentials is not None:
                    found.append(credentials)
                    is_there = True
        if not found:
            raise problem
        return reduce(_later, found)


def _later(first: Credentials, second: Credentials) -> Credentials:
    """Return the one that expires later, the first one if that is not known."""
    ends = first.login.token_expires_at, second.login.token_expires_at
    return second if ends[0] is not None and ends[1] is not None and ends[1] > ends[0] else first


def _ask(item: str, account: str | None, until: float) -> Credentials | None:
    """Return what an item holds for an account, or for any; None if there is no such item."""
    selected = [] if account is None else ["-a", account]
    try:
        ended = subprocess.run(  # noqa: S603
            [SECURITY, "find-generic-password", *selected, "-w", "-s", item],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=max(0.1, until - time.monotonic()),
        )
    except (OSError, subprocess.TimeoutExpired):
        raise CredentialsUnreadable(f"The Keychain did not answer for '{item}'; unlock it and allow access.") from None
    if ended.returncode == NO_ITEM:
        return None
    if ended.returncode != 0:
        raise CredentialsUnreadable(f"The Keychain refused '{item}'; unlock it and allow access.")
    text = _decoded(ended.stdout.decode("utf-8", "replace"))
    return parse_credentials(text, f"the Keychain item '{item}'", CUT_OFF)


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

    Claude Code appends a hash of the variable's raw text whenever that is set. Our settings may differ from what it
    saw: a shell expands `~` and may add a slash, and the default folder is usually not set at all.
    """
    if folder is None:
        return (ITEM,)
    texts = dict.fromkeys(unicodedata.normalize("NFC", text) for text in (folder, str(path), f"{path}/"))
    hashed = [f"{ITEM}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}" for text in texts]
    return (*hashed, ITEM) if path == default else tuple(hashed)
