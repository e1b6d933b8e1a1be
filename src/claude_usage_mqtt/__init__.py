"""The usage of a Claude subscription: for MQTT and Home Assistant, and as a library.

Nothing is imported until it is used: the container's health check and the status line start this package often.
"""

__version__ = "2.0.0"

__all__ = [
    "ApiError",
    "ClaudeUsageError",
    "CredentialsError",
    "CredentialsNotFound",
    "CredentialsUnreadable",
    "ExtraUsage",
    "InsufficientScope",
    "InvalidResponse",
    "NetworkError",
    "RateLimited",
    "Reading",
    "ServerError",
    "SettingsError",
    "TokenExpired",
    "Unauthorized",
    "Window",
    "__version__",
    "get_usage",
]

TYPE_CHECKING = False  # type checkers know this name; typing itself is too slow to import here

if TYPE_CHECKING:
    from claude_usage_mqtt.errors import (
        ApiError,
        ClaudeUsageError,
        CredentialsError,
        CredentialsNotFound,
        CredentialsUnreadable,
        InsufficientScope,
        InvalidResponse,
        NetworkError,
        RateLimited,
        ServerError,
        SettingsError,
        TokenExpired,
        Unauthorized,
    )
    from claude_usage_mqtt.library import get_usage
    from claude_usage_mqtt.usage.reading import ExtraUsage, Reading, Window
else:

    def __getattr__(name: str) -> object:
        """Import what is asked for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=None)
        if name == "get_usage":
            from claude_usage_mqtt import library as home  # noqa: PLC0415
        elif name in ("ExtraUsage", "Reading", "Window"):
            from claude_usage_mqtt.usage import reading as home  # noqa: PLC0415
        else:
            from claude_usage_mqtt import errors as home  # noqa: PLC0415
        found = globals()[name] = getattr(home, name)
        return found

    def __dir__() -> list[str]:
        """Return the names of the library."""
        return __all__
