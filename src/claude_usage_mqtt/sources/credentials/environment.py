"""A token that was given directly, in the environment or in a file that holds nothing else."""

from __future__ import annotations

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
from claude_usage_mqtt.secret_file import why_unreadable
from claude_usage_mqtt.sources.credentials.file import identity, read_text
from claude_usage_mqtt.sources.credentials.token import Credentials, CredentialSource, checked_token
from claude_usage_mqtt.sources.source import Login


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token, and the login of Claude Code that is not used because of it (`hidden`)."""

    token: str = field(default="", repr=False)
    file: Path | None = None
    name: str = "CLAUDE_CODE_OAUTH_TOKEN"
    hidden: CredentialSource | None = None

    @property
    def place(self) -> str:
        """The setting it came from."""
        return self.name if self.file is None else f"{self.name}_FILE ({self.file})"

    @property
    def can_be_watched(self) -> bool:
        """A variable never changes; a file does, unless it is a pipe, such as a shell's `<(command)`."""
        return self.file is not None and not self.file.is_fifo()

    def read(self) -> Credentials:
        """Return the token; nothing else is known about it."""
        text = self.token if self.file is None else self._read_file(self.file)
        if not text.strip():
            raise CredentialsNotFound(f"{self.place} is empty; put the token there, or use Claude Code's own file.")
        token = checked_token(text.strip(), self.place)
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
        """Say which login a refused token hides, or what a token needs that may not read the usage."""
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
                "and unset it, or use CLAUDE_SOURCE=claude-code or statusline."
            )
        return error

    def _usable_hidden(self) -> CredentialSource | None:
        try:
            if self.hidden is not None:
                self.hidden.read()
        except CredentialsError:
            return None
        return self.hidden
