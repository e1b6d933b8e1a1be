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
    /nowhere/.claude/.credentials.json does not exist; log in with Claude Code, or point CLAUDE_CONFIG_DIR at its folder. If Claude Code is used on another machine, set CLAUDE_SOURCE=reporter and run 'claude-usage-mqtt report' there.

The endpoint takes about 28 requests an hour, then shuts the account out, for Claude Code too:

    >>> try:
    ...     get_usage()
    ... except RateLimited as error:
    ...     print(error.retry_after)
    1:00:00
"""  # noqa: E501 - the error is one line

from __future__ import annotations

import os

from claude_usage_mqtt import __version__
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import InvalidResponse, SettingsError
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.api.url import API_URL, checked_url
from claude_usage_mqtt.sources.credentials.environment import GivenToken
from claude_usage_mqtt.sources.credentials.places import find_source, secrets_folder
from claude_usage_mqtt.sources.credentials.token import CredentialSource
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.usage.reading import Reading

USER_AGENT = f"claude-usage-mqtt/{__version__}"


def get_usage(
    config_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    *,
    api_url: str = API_URL,
    user_agent: str = USER_AGENT,
) -> Reading:
    """Ask the API once and return the usage.

        try:
            usage = get_usage()
        except RateLimited as error:
            print(error.retry_after)  # a timedelta, or None if the API did not say
        else:
            print(usage.five_hour.utilization)  # percent; five_hour is None if the plan has no such window
            for window in usage:
                print(window.label, window.remaining, window.resets_at)

    The credentials are those of Claude Code in `config_dir`, by default in the folder that Claude Code's own
    variables name (CLAUDE_SECURESTORAGE_CONFIG_DIR, CLAUDE_CONFIG_DIR) or `~/.claude`; or `token` is an access token,
    and no file is read. No other setting of the service counts here, and `.env` is not read. The token is sent to
    `api_url` (https, or http on loopback) and forgotten: when the call is over, nothing here holds it, nor does an
    error that it raised.

    Ask seldom: an account may make fewer than 28 requests an hour, Claude Code's own included, and is shut out
    for about an hour after that.

    Blocks for 20 seconds at most. Raises SettingsError for unusable arguments, CredentialsError before anything
    was sent, ApiError after.
    """
    source = _source(config_dir, token)
    del token
    try:
        api = UsageApi(checked_url(api_url), user_agent)
    except ValueError as error:
        raise SettingsError(f"api_url: {error}.") from None
    try:
        outcome = ApiSource(source, api).poll("", SystemClock(), may_retry=False)
    finally:
        api.close()
        del source
    return _usage(outcome)


def _source(config_dir: str | os.PathLike[str] | None, token: str | None) -> CredentialSource:
    if config_dir is not None and token is not None:
        raise SettingsError("config_dir and token are both given; give one.")
    if token is not None:
        return GivenToken(token, name="token")
    return find_source(secrets_folder(os.environ) if config_dir is None else os.fspath(config_dir))


def _usage(outcome: PollResult) -> Reading:
    if outcome.reading is not None:
        return outcome.reading
    error = outcome.error or InvalidResponse("The usage could not be read; update this program.")
    # The frames and errors behind it hold the token, and whoever catches it may keep it or show it.
    error.__cause__ = error.__context__ = None
    raise error.with_traceback(None)
