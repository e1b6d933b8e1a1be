"""The library: the usage of the login on this machine, or of a token, as one call.

    >>> from claude_usage_mqtt import get_usage
    >>> usage = get_usage()
    >>> for window in usage:
    ...     print(f"{window.label}: {window.utilization:g} % used, {window.remaining:g} % left")
    Session: 42 % used, 58 % left
    Weekly: 19.5 % used, 80.5 % left

A window that the plan does not have is None as a property, and a KeyError by its key:

    >>> session = usage.five_hour
    >>> session.time_until_reset() > timedelta(hours=2)
    True
    >>> round(session.elapsed()), session.is_on_pace()
    (50, True)
    >>> usage["seven_day"].resets_at.tzinfo
    datetime.timezone.utc
    >>> usage.extra_usage.used, usage.extra_usage.currency
    (1.9, 'EUR')

Every error is a ClaudeUsageError, and its text a sentence that says what to do:

    >>> from claude_usage_mqtt import CredentialsNotFound, RateLimited
    >>> try:
    ...     get_usage("/nowhere/.claude")
    ... except CredentialsNotFound as error:
    ...     print(error)
    /nowhere/.claude/.credentials.json does not exist; log in with Claude Code, or point config_dir at its folder.

The endpoint takes about 28 requests an hour, then blocks the account, for Claude Code too:

    >>> try:
    ...     get_usage()
    ... except RateLimited as error:
    ...     print(error.retry_after)
    1:00:00
"""

from __future__ import annotations

import os

from claude_usage_mqtt import __version__
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import InvalidResponse, SettingsError
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.url import API_URL, checked_url
from claude_usage_mqtt.sources.credentials.file import GivenToken
from claude_usage_mqtt.sources.credentials.watch import require_answer
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.local_login import CONFIG_DIR, SECURE_STORAGE_DIR, LocalLogin, local_login
from claude_usage_mqtt.sources.names import parse_source, selected_sources
from claude_usage_mqtt.sources.select import polled_sources
from claude_usage_mqtt.sources.source import PolledSource
from claude_usage_mqtt.usage.reading import Reading

USER_AGENT = f"claude-usage-mqtt/{__version__}"


def get_usage(
    config_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    *,
    api_url: str = API_URL,
    user_agent: str = USER_AGENT,
    source: str = "oauth",
    claude_code_command: str | None = None,
) -> Reading:
    """Ask once and return the usage.

    The credentials are those of Claude Code in `config_dir`, by default in the folder that Claude Code's own
    variables name (CLAUDE_SECURESTORAGE_CONFIG_DIR, CLAUDE_CONFIG_DIR) or `~/.claude`; or `token` is an access token,
    and no file is read. No other setting of the service applies here, and `.env` is not read. The token is sent to
    `api_url` (https, or http on loopback) and forgotten: when the call is over, nothing here holds it, nor does an
    error that it raised.

    `source` is a list like the service's CLAUDE_SOURCE: `oauth` asks the API, `claude-code` asks Claude Code
    (`claude_code_command`, by default `claude`), which needs no token; with both, the next one is asked if a login
    cannot be used. With `oauth` and a `claude_code_command`, that renews a token that has expired.

    Ask rarely: an account may make fewer than 28 requests an hour, Claude Code's own included, and is blocked
    for about an hour after that.

    Blocks for 20 seconds at most, with Claude Code for a minute. Raises SettingsError for unusable arguments,
    CredentialsError before anything was sent, ApiError after.
    """
    login = _login(config_dir, token)
    del token
    try:
        names = selected_sources(parse_source(source))
    except ValueError as error:
        raise SettingsError(f"source: {error}.") from None
    try:
        api = UsageApi(checked_url(api_url), user_agent)
    except ValueError as error:
        raise SettingsError(f"api_url: {error}.") from None
    asked: PolledSource | None = None
    try:
        asked = in_order(polled_sources(names, login, api, claude_code_command))
        if asked is None:
            raise SettingsError(f"source: {source} cannot be asked; give oauth, claude-code, or both of them.")
        require_answer(asked, asked.login)
        outcome = asked.poll("", SystemClock(), may_retry=False)
    finally:
        api.close()
        del login, asked
    if outcome.reading is not None:
        return outcome.reading
    try:
        raise outcome.error or InvalidResponse("The usage could not be read; update this program.")
    finally:
        del outcome  # else the error and this frame hold each other, and the certificates, until garbage is collected


def _login(config_dir: str | os.PathLike[str] | None, token: str | None) -> LocalLogin:
    if config_dir is not None and token is not None:
        raise SettingsError("config_dir and token are both given; give one.")
    if token is not None:
        return LocalLogin(credentials=GivenToken(token, name="get_usage(token=...)", folder_name="config_dir"))
    if config_dir is not None:
        return local_login(os.fspath(config_dir), setting="config_dir")
    return local_login(os.environ.get(CONFIG_DIR) or None, os.environ.get(SECURE_STORAGE_DIR))
