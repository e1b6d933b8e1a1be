"""Everything that can go wrong, each with the sentence a person needs.

ClaudeUsageError
├── SettingsError
├── CredentialsError
│   ├── CredentialsNotFound
│   ├── CredentialsUnreadable
│   ├── TokenExpired
│   └── NoReporter
├── ApiError
│   ├── Unauthorized
│   ├── InsufficientScope
│   ├── RateLimited
│   ├── NetworkError
│   ├── ServerError
│   └── InvalidResponse
└── BrokerError
    ├── BrokerUnreachable
    └── BrokerRefused

The text of an error is one sentence that says what is wrong and what to do. It never holds a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Self


class ClaudeUsageError(Exception):
    """Base of all errors of this package."""

    exit_status: ClassVar[int] = 1
    status: ClassVar[str] = "starting"
    """The `status` of the health topic for this error."""

    def without_history(self) -> Self:
        """Return it without its cause, for code that keeps it: the frames of a traceback hold tokens and sockets.

        Usually they also hold the error itself, and then all of it would wait for the garbage collector.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class SettingsError(ClaudeUsageError):
    """A setting or an argument is wrong."""

    exit_status = 2


class CredentialsError(ClaudeUsageError):
    """There are no credentials that could be sent; nothing was sent."""

    exit_status = 3
    status = "credentials_unreadable"


class CredentialsNotFound(CredentialsError):  # noqa: N818 - named by what happened, as users read it
    """There are no credentials in the place that the settings name."""

    status = "no_credentials"


class CredentialsUnreadable(CredentialsError):  # noqa: N818
    """The credentials are there, but cannot be read or understood."""


class TokenExpired(CredentialsError):  # noqa: N818
    """The access token has expired, or will within five minutes."""

    status = "token_expired"


class NoReporter(CredentialsError):  # noqa: N818
    """No machine with a reporter can be asked now."""

    status = "no_reporter"


class ApiError(ClaudeUsageError):
    """The usage could not be fetched."""

    exit_status = 6
    status = "network_error"


class Unauthorized(ApiError):  # noqa: N818
    """The API does not accept the token (401, 403)."""

    exit_status = 4
    status = "unauthorized"


class InsufficientScope(ApiError):  # noqa: N818
    """The token is valid, but may not read the usage (403 naming `user:profile`)."""

    exit_status = 4
    status = "insufficient_scope"


class RateLimited(ApiError):  # noqa: N818
    """The API limits the rate of requests (429).

    `retry_after` is the time the API named, or None if it named none (or zero): then only the
    hourly window of this token is full, else the account is blocked for that time.
    """

    exit_status = 5
    status = "rate_limited"

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NetworkError(ApiError):
    """The API could not be reached, or did not answer in time."""


class ServerError(ApiError):
    """The API returned a server error (5xx, an HTML page)."""

    status = "server_error"


class InvalidResponse(ApiError):  # noqa: N818
    """This program does not understand the answer."""

    exit_status = 7
    status = "invalid_response"


class BrokerError(ClaudeUsageError):
    """The MQTT broker is not usable."""

    exit_status = 8


class BrokerUnreachable(BrokerError):  # noqa: N818
    """No connection to the broker could be made, or it was lost."""


class BrokerRefused(BrokerError):  # noqa: N818
    """The broker answered, and refused us: login, certificate, permission."""


NO_THREADS = (
    "This system does not let the program start a thread: update the container engine (Docker before 20.10.10 does not "
    "know the system call), or raise the limit of processes (`pids_limit`, systemd's TasksMax)."
)


def is_lack_of_threads(error: BaseException) -> bool:
    """Whether Python could not start a thread; it has no separate exception for that."""
    return isinstance(error, RuntimeError) and "start new thread" in str(error)
