"""From the names of the selected sources to the sources of an account, the preferred one first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from claude_usage_mqtt.errors import ClaudeUsageError, CredentialsNotFound, RateLimited
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.credentials.file import GivenToken
from claude_usage_mqtt.sources.local_login import LocalLogin
from claude_usage_mqtt.sources.source import PolledSource, PushedSource
from claude_usage_mqtt.sources.status_line import StatusLine
from claude_usage_mqtt.usage.reading import CLAUDE_CODE, OAUTH, REPORTER, STATUSLINE

if TYPE_CHECKING:
    from claude_usage_mqtt.sources.claude_code import ClaudeCode


def with_other_sources(error: ClaudeUsageError, used: str) -> ClaudeUsageError:
    """Return the error of a first request, with the sources to try if the `used` one may never work here.

    Some accounts get an instant and lasting 429 for any program but Claude Code itself. A reporter's error is left as
    it is: a reporter already is another source.
    """
    if used == REPORTER:
        return error
    if isinstance(error, CredentialsNotFound):
        return CredentialsNotFound(
            f"{error} If Claude Code is used on another machine, set CLAUDE_SOURCE=reporter,statusline here "
            "and run 'claude-usage-mqtt report' there."
        )
    if not isinstance(error, RateLimited):
        return error
    names = "statusline or reporter" if used == CLAUDE_CODE else "claude-code, statusline or reporter"
    return RateLimited(
        f"{error} If no request ever succeeds here, another source may: CLAUDE_SOURCE={names}.",
        retry_after=error.retry_after,
    )


def pushed_sources(selected: Iterable[str]) -> tuple[PushedSource, ...]:
    """Return the sources that send by themselves."""
    known = {STATUSLINE: StatusLine()}
    return tuple(known[name] for name in selected if name in known)


def polled_sources(
    selected: Iterable[str], login: LocalLogin | None, api: UsageApi, command: str | None = None
) -> tuple[PolledSource, ...]:
    """Return the sources that can be polled on this machine; none without a login, which is then on another machine.

    `command` is Claude Code's executable, None if it is not configured: then expired tokens are not renewed.
    """
    if login is None:
        return ()
    make = {OAUTH: _oauth, CLAUDE_CODE: _claude_code}
    return tuple(make[name](login, api, command) for name in selected if name in make)


def _oauth(login: LocalLogin, api: UsageApi, command: str | None) -> PolledSource:
    if isinstance(login.credentials, GivenToken):
        return ApiSource(login.credentials, api)  # its owner is not known, and Claude Code does not renew it
    claude_code = None if command is None else _claude_code(login, api, command)
    return ApiSource(login.credentials, api, login.cache, claude_code)


def _claude_code(login: LocalLogin, _api: UsageApi, command: str | None) -> ClaudeCode:
    from claude_usage_mqtt.sources.claude_code import COMMAND, ClaudeCode  # noqa: PLC0415 - memory: few select it

    return ClaudeCode(command or COMMAND, login.variables, login.cache, login.secrets)
