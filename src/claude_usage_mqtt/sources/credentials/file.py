"""`.credentials.json` in Claude Code's folder, and how a file from outside is read at all: bounded, as text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from claude_usage_mqtt.errors import CredentialsNotFound, CredentialsUnreadable
from claude_usage_mqtt.secret_file import decode, why_unreadable
from claude_usage_mqtt.sources.credentials.token import Credentials, CredentialSource, parse_credentials

FILE_NAME = ".credentials.json"
MAX_FILE = 1024 * 1024


@dataclass(frozen=True)
class CredentialsFile(CredentialSource):
    """The file, opened by path each time: Claude Code replaces it by rename. `setting` is what named its folder."""

    folder: Path
    setting: str = "CLAUDE_CONFIG_DIR"
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
            text = read_text(self.path, self.place)
        except IsADirectoryError:
            raise CredentialsUnreadable(
                f"{self.path} is a folder, which a container engine makes if the file that it mounts is missing; "
                "mount Claude Code's folder instead."
            ) from None
        except OSError as error:
            if self.folder.is_file():
                raise CredentialsNotFound(f"{self.folder} is a file; name the folder that contains it.") from None
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise CredentialsNotFound(self._missing()) from None
            raise CredentialsUnreadable(f"{self.path} {why_unreadable(error)}; make it readable.") from None
        return parse_credentials(text, self.place)

    def _missing(self) -> str:
        missing = f"{self.path} does not exist; log in with Claude Code, or point {self.setting} at its folder."
        if not self.folder.is_dir():
            return missing
        return (
            f"{missing} If the folder is a Mac's, the login is in the Keychain, which a container cannot see: "
            "run this program without a container, or use CLAUDE_SOURCE=statusline."
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
        raise CredentialsUnreadable("The path of the credentials is not valid; correct CLAUDE_CONFIG_DIR.") from None
    if len(content) > maximum:
        raise CredentialsUnreadable(f"{place} is too large to be credentials; log in with Claude Code again.")
    try:
        return decode(content)
    except ValueError:
        raise CredentialsUnreadable(f"{place} is not text; log in with Claude Code again.") from None
