"""Files with a login: `.credentials.json` in Claude Code's folder, or one that holds a token and nothing else.

At most so much of a file is read, as text. A token may also be given directly, in the environment.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from claude_usage_mqtt.errors import (
    ApiError,
    CredentialsError,
    CredentialsNotFound,
    CredentialsUnreadable,
    InsufficientScope,
    RateLimited,
    Unauthorized,
)
from claude_usage_mqtt.secret_file import decode, why_unreadable
from claude_usage_mqtt.sources.credentials.token import (
    LOG_IN_AGAIN,
    Credentials,
    CredentialSource,
    checked_token,
    parse_credentials,
)
from claude_usage_mqtt.sources.source import Login

FILE_NAME = ".credentials.json"
MAX_FILE = 1024 * 1024


class CredentialsFile(CredentialSource):
    """The file, opened by path each time: Claude Code replaces it by rename. `setting` is what named its folder."""

    can_be_watched = True

    def __init__(self, folder: Path, setting: str = "CLAUDE_CONFIG_DIR") -> None:
        self.path = folder / FILE_NAME
        self.place = str(self.path)
        self._folder = folder
        self._setting = setting

    def read(self) -> Credentials:
        """Return what the file holds now."""
        try:
            text = read_text(self.path, self.place)
        except IsADirectoryError:
            raise CredentialsUnreadable(
                f"{self.path} is a folder, which a container engine makes if the file that it mounts is missing; "
                "mount Claude Code's folder instead."
            ) from None
        except OSError as error:
            if os.path.isfile(self._folder):  # noqa: PTH113 - Path's raises on a mount that is gone
                raise CredentialsNotFound(f"{self._folder} is a file; name the folder that contains it.") from None
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise CredentialsNotFound(self._missing()) from None
            raise CredentialsUnreadable(f"{self.path} {why_unreadable(error)}; make it readable.") from None
        return parse_credentials(text, self.place)

    def _missing(self) -> str:
        missing = f"{self.path} does not exist; log in with Claude Code, or point {self._setting} at its folder."
        if not os.path.isdir(self._folder):  # noqa: PTH112 - as above
            return missing
        return (
            f"{missing} If the folder is a Mac's, the login is in the Keychain, which a container cannot see: "
            "run this program without a container, or use the source statusline."
        )

    def fingerprint(self) -> object:
        """Return the file's identity, size and time."""
        return identity(self.path)


def identity(path: Path) -> tuple[int, int, int, int] | None:
    """Return what changes when a file does, None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a path that no file can have is a ValueError
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def read_text(path: Path, place: str, maximum: int = MAX_FILE) -> str:
    """Return what a file holds; raises OSError if it cannot be opened, CredentialsUnreadable for its content."""
    try:
        with path.open("rb") as file:
            content = file.read(maximum + 1)
    except PermissionError as error:
        raise CredentialsUnreadable(
            f"{place} {why_unreadable(error)}; run as the user who owns it, or allow that user to read it."
        ) from None
    except ValueError:
        raise CredentialsUnreadable(f"The path {str(path)!a} is not valid; correct it.") from None
    if len(content) > maximum:
        raise CredentialsUnreadable(f"{place} is too large to be credentials; log in with Claude Code again.")
    try:
        return decode(content)
    except ValueError:
        raise CredentialsUnreadable(f"{place} is not text; log in with Claude Code again.") from None


@dataclass(slots=True)
class GivenToken:
    """A token, and the login of Claude Code that is not used because of it (`hidden`).

    `name` is what gave the token, `folder_name` what would name Claude Code's folder.
    """

    token: str = field(default="", repr=False)
    file: Path | None = None
    name: str = "CLAUDE_CODE_OAUTH_TOKEN"
    folder_name: str = "CLAUDE_CONFIG_DIR"
    hidden: CredentialSource | None = None
    place: str = field(init=False)

    def __post_init__(self) -> None:
        """Name the setting it came from."""
        self.place = self.name if self.file is None else f"{self.name}_FILE ({self.file})"

    @property
    def can_be_watched(self) -> bool:
        """A variable never changes; a file does, unless it is a pipe, such as a shell's `<(command)`."""
        found = None if self.file is None else identity(self.file)
        return found is not None and not stat.S_ISFIFO(found[3])

    def read(self) -> Credentials:
        """Return the token; nothing else is known about it."""
        text = (self.token if self.file is None else self._read_file(self.file)).strip()
        if not text:
            raise CredentialsNotFound(f"{self.place} is empty; put the token there, or use Claude Code's own file.")
        if text.startswith("{"):  # Claude Code's file, with the refresh token in it
            raise CredentialsUnreadable(
                f"{self.place} holds JSON, not an access token alone; point {self.folder_name} at the folder of Claude "
                "Code's file instead."
            )
        token = checked_token(text, self.place)
        return Credentials(token=token, login=Login(mark=hash(token)))

    def _read_file(self, file: Path) -> str:
        try:
            return read_text(file, self.place)
        except FileNotFoundError:
            raise CredentialsNotFound(f"{self.place} does not exist; put the token there, or unset it.") from None
        except OSError as error:
            raise CredentialsUnreadable(f"{self.place} {why_unreadable(error)}; name a file with the token.") from None

    def fingerprint(self) -> object:
        """Return the file's identity; a token given directly never changes."""
        return None if self.file is None else identity(self.file)

    def explain(self, error: ApiError) -> ApiError:
        """Say which login a refused token hides, or what to do about a token that hides none."""
        if isinstance(error, RateLimited) and not error.retry_after:
            hidden = self._usable_hidden()
            remedy = "renew it" if hidden is None else f"unset {self.name}, which hides the login in {hidden.place}"
            # When a given token ends is not known.
            return RateLimited(f"{error} An expired token is answered in the same way: if it lasts, {remedy}.")
        if not isinstance(error, InsufficientScope | Unauthorized):
            return error
        what = "may not read the usage" if isinstance(error, InsufficientScope) else "is not accepted by the API"
        hidden = self._usable_hidden()
        if hidden is not None:
            return type(error)(
                f"The token in {self.place} {what}, and hides the login in {hidden.place}; unset {self.name}."
            )
        if isinstance(error, InsufficientScope):
            return InsufficientScope(
                f"The token in {self.place} {what}: one made by 'claude setup-token' cannot. Log in with Claude Code "
                "and use that login, or the source claude-code or statusline."
            )
        return Unauthorized(str(error).replace(LOG_IN_AGAIN, f"replace the token in {self.place}"))

    def _usable_hidden(self) -> CredentialSource | None:
        try:
            if self.hidden is not None:
                self.hidden.read()
        except CredentialsError:
            return None
        return self.hidden
