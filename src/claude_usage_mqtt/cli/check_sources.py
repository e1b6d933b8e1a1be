"""The part of `check` about an account's sources: each is tried by itself, so that a second one hides no failure."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from functools import partial

from claude_usage_mqtt.cli.check_report import Report
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import ApiError, CredentialsNotFound, InvalidResponse, RateLimited
from claude_usage_mqtt.instants import local_time
from claude_usage_mqtt.settings.fields import Account, Settings
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.sources.credentials.token import Credentials, CredentialSource
from claude_usage_mqtt.sources.credentials.watch import require_answer
from claude_usage_mqtt.sources.local_login import LocalLogin
from claude_usage_mqtt.sources.names import AUTO, LOCAL
from claude_usage_mqtt.sources.select import polled_sources, pushed_sources, with_other_sources
from claude_usage_mqtt.sources.source import Source
from claude_usage_mqtt.usage.reading import OAUTH, Reading

USAGE_SCOPE = "user:profile"

NOT_HERE = "the service asks the reporters; run 'claude-usage-mqtt check' on their machines"


def check_sources(
    report: Report, settings: Settings, account: Account, blocked: RateLimited | None, responses: list[object]
) -> None:
    """Try each selected source of an account; `blocked` says why the API must not be asked now.

    The API's answers are added to `responses`, understood or not.
    """
    end, login = suffix(account), account.login
    sends = {
        source.name: f"nothing to ask: it sends on its own{_lack(source)}"
        for source in pushed_sources(settings.sources)
    }
    for source in settings.sources:
        name = source.replace("_", "-") + end
        if source not in LOCAL:
            if settings.claude_source != AUTO:
                report.skip(name, sends.get(source, NOT_HERE))
            continue
        if login is None:
            report.skip(f"account{end}", "its login is on another machine: a reporter or a status line supplies it")
            return
        ask = partial(_ask, settings, login, source)
        if source == OAUTH:
            name, found = f"api{end}", list[Credentials]()
            if report.link(f"credentials{end}", partial(_read, login.credentials, found)) is not None:
                report.skip(name, "not asked without credentials")
                continue
            ask = partial(_ask_api, settings, login.credentials, found[0], responses)
        if blocked is not None:
            report.skip(name, str(blocked))
        else:
            report.link(name, ask)


def suffix(account: Account) -> str:
    """Return the end of the names of an account's links."""
    return "" if account.label is None else f" {account.id}"


def _read(place: CredentialSource, found: list[Credentials]) -> str:
    now = SystemClock().now()
    require_answer(place, place.read)
    try:
        credentials = place.read()
    except CredentialsNotFound as error:
        raise with_other_sources(error, OAUTH) from None
    credentials.require_unexpired(now)
    found.append(credentials)
    login = credentials.login
    parts = [f"found in {place.place}", _validity(login.token_expires_at, now)]
    if login.login_expires_at is not None:
        parts.append(f"the login ends at {local_time(login.login_expires_at)}")
    if login.scopes:
        parts.append(f"scopes {', '.join(login.scopes)}")
        if USAGE_SCOPE not in login.scopes:
            parts.append(f"without {USAGE_SCOPE}, so the API may refuse it")
    return "; ".join(parts)


def _validity(expires_at: datetime | None, now: datetime) -> str:
    if expires_at is None:
        return "no expiry given"
    minutes = int((expires_at - now).total_seconds() // 60)
    return f"valid until {local_time(expires_at)} ({minutes // 60} h {minutes % 60} min)"


def _ask_api(settings: Settings, place: CredentialSource, credentials: Credentials, responses: list[object]) -> str:
    try:
        with closing(UsageApi(settings.claude_api_url, settings.claude_user_agent)) as api:
            response = api.fetch(credentials.token)
        responses.append(response)
        return _windows(parse_usage(response, SystemClock().now(), plan=credentials.login.plan))
    except ApiError as error:
        raise with_other_sources(place.explain(error), OAUTH) from None


def _ask(settings: Settings, login: LocalLogin, name: str) -> str:
    api = UsageApi(settings.claude_api_url, settings.claude_user_agent)
    (source,) = polled_sources((name,), login, api, settings.claude_code_command)
    api.close()
    require_answer(source, source.login)
    result = source.poll("", SystemClock(), may_retry=False)
    if result.reading is None:
        raise result.error or InvalidResponse(f"{source.place} had no numbers; run `check` again in a minute.")
    read_at = local_time(result.reading.read_at)
    return f"{source.place}: {_windows(result.reading)}, read at {read_at}{_lack(source)}"


def _lack(source: Source) -> str:
    return f"; it does not have {source.lacks}" if source.lacks else ""


def _windows(reading: Reading) -> str:
    windows = ", ".join(f"{window.label} {window.utilization:g} %" for window in reading)
    text = windows or "answered, but reports no windows for this account"
    return f"{text}; not understood: {', '.join(reading.malformed)}" if reading.malformed else text
