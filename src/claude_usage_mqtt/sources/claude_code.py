"""Claude Code as a source: this machine's program is asked for the usage. No token is read, and it renews its login.

The request is one that Claude Code calls experimental: what is not understood is reported, and never taken for 0. It
returns old numbers without saying so; their age follows from when Claude Code fetched them (`.claude.json`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import (
    ApiError,
    CredentialsError,
    CredentialsNotFound,
    InsufficientScope,
    InvalidResponse,
    NetworkError,
    RateLimited,
)
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.sources.child import Ended, run_child
from claude_usage_mqtt.sources.claude_code_cache import CachedUsage, UsageCache
from claude_usage_mqtt.sources.credentials.file import identity
from claude_usage_mqtt.sources.source import REPEATS_FOR, Login, PollResult
from claude_usage_mqtt.untrusted import clean_text, json_object
from claude_usage_mqtt.usage.reading import CLAUDE_CODE, Reading

REQUEST = json.dumps(
    {"type": "control_request", "request_id": "usage", "request": {"subtype": "get_usage", "skip_behaviors": True}}
)
ARGUMENTS = (
    *("-p", "--safe-mode", "--setting-sources", "", "--strict-mcp-config", "--no-session-persistence"),
    *("--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
)
"""No message to a model, no transcript, none of the user's hooks, plugins and MCP servers; and none of the settings,
whose `apiKeyHelper` and `env` would run a program, hide the login, or forbid the request."""

COMMAND = "claude"

DEADLINE = 25.0
"""Seconds; it takes half a second, and gives the API five, but a small machine that swaps needs longer to start it."""

VERSION_DEADLINE = 10.0

CLOCK_MARGIN = timedelta(seconds=15)

PASSED_ON = frozenset(
    [
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("SYSTEMROOT", "SYSTEMDRIVE", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
    ]
)
"""How it finds its login, the network and itself. A token in the environment would hide its login."""

QUIET = {"DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1", "DISABLE_ERROR_REPORTING": "1"}


class ClaudeCode:
    """Claude Code with one of its logins."""

    name = CLAUDE_CODE
    lacks = "the end of the token and of the login"
    is_local = True
    outlives_token = True

    def __init__(
        self, command: str, variables: Mapping[str, str], cache: UsageCache, secrets: Path, deadline: float = DEADLINE
    ) -> None:
        """Use `command`, with the `variables` that select a login, whose file is `secrets` (it is never opened)."""
        self.place = f"Claude Code ({command})"
        self._command = command
        self._variables = variables
        self._cache = cache
        self._secrets = secrets
        self._deadline = deadline
        self._last_fetch: datetime | None = None

    @property
    def can_be_watched(self) -> bool:
        """Whether there is a file that changes with the login: on a Mac it is in the Keychain."""
        return self.fingerprint() is not None

    def login(self) -> Login:
        """Return whose login it is."""
        return (self._cache.login or Login())._replace(mark=hash(self.fingerprint()))

    def fingerprint(self) -> object:
        """Return the identity of the file that Claude Code rewrites when its login changes."""
        return identity(self._secrets)

    def cached(self, now: datetime) -> Reading | None:
        """Return the newest numbers that Claude Code keeps, if they can be believed."""
        return self._cache.newest(now)

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:  # noqa: ARG002 - it retries by itself
        """Ask once. Bounded, never raises."""
        result = PollResult(account=account, source=self.name)
        try:
            before = self._cache.usage
            reading, requests = self._interpret(self._ask(), before, clock.now())
            result = replace(result, reading=reading, requests=requests, login=self.login())
        except CredentialsError as unusable:
            result = replace(result, error=unusable)
        except ApiError as failed:
            result = replace(result, error=failed, requests=1)
        except Exception as unknown:  # noqa: BLE001 - a poll must always report; its text could hold outside data
            reason = f"Claude Code could not be asked ({type(unknown).__name__}); update this program."
            result = replace(result, error=InvalidResponse(reason), requests=1)
        return replace(result, fingerprint=self.fingerprint())

    def _ask(self) -> Mapping[str, object]:
        """Return the response to the request; raises a ClaudeUsageError."""
        ended = self._run(ARGUMENTS, REQUEST, self._deadline)
        for line in ended.output.splitlines():
            response = _control_response(line)
            if response is not None:
                if response.get("subtype") == "success" and isinstance(response.get("response"), dict):
                    return response["response"]  # type: ignore[return-value]
                raise self._not_understood(clean_text(response.get("error"), 100))
        if ended.status is None:
            raise NetworkError(f"Claude Code did not answer within {self._deadline:g} s; it is asked again later.")
        lines = [line for line in ended.output.splitlines() if line.strip() and not line.lstrip().startswith("{")]
        raise self._not_understood(clean_text(lines[-1], 100) if lines else None)

    def _run(self, arguments: tuple[str, ...], request: str, deadline: float) -> Ended:
        environment = {name: value for name, value in os.environ.items() if name in PASSED_ON}
        found = shutil.which(os.path.expanduser(self._command))  # noqa: PTH111 - a name in PATH is not a path
        try:
            if found is None:
                raise FileNotFoundError
            return run_child([found, *arguments], request, {**environment, **QUIET, **self._variables}, deadline)
        except OSError:
            raise CredentialsNotFound(
                f"{self.place} cannot be started; install it on this machine, or give the whole path of its command."
            ) from None

    def _not_understood(self, reason: str | None) -> InvalidResponse:
        ended = self._run(("--version",), "", VERSION_DEADLINE)
        found = re.search(r"\d+\.\d+\.\d+[\w.-]*", ended.output[:200])
        version = found[0] if found else "of an unknown version"
        why = "" if reason is None else f" ({reason.removesuffix('.')})"
        return InvalidResponse(
            f"Claude Code {version} does not understand the request for the usage{why}; update Claude Code, "
            "or use the source oauth."
        )

    def _interpret(
        self, response: Mapping[str, object], before: CachedUsage | None, now: datetime
    ) -> tuple[Reading | None, int]:
        """Return the reading, None if there is nothing new, and how many requests were made.

        `before` is what Claude Code had before it was asked. Raises a ClaudeUsageError.
        """
        if response.get("rate_limits_available") is False:
            raise _no_usage(response)
        body, usage = response.get("rate_limits"), self._cache.usage
        if isinstance(body, dict):
            plan = clean_text(response.get("subscription_type"))
            body.pop("model_scoped", None)  # it repeats the limits
            is_complete = "limits" in body
            if usage is None:
                return self._once(body, now, plan), 1
            if not is_complete:
                body = usage.body
            if before is None or usage.fetched_at != before.fetched_at:
                return self._once(body, min(usage.fetched_at, now), plan), 1
            if not usage.is_believable(now):
                raise InvalidResponse(
                    "Claude Code's last fetch is in the future, so the age of its numbers is not known; "
                    "set this machine's clock."
                )
            if now - usage.fetched_at <= REPEATS_FOR[self.name] + CLOCK_MARGIN:
                return self._once(body, usage.fetched_at, plan), 0
            if is_complete:
                return self._once(body, now, plan), 1  # it could not note the fetch: its folder is read-only
        elif body is not None or "rate_limits" not in response:
            raise self._not_understood("its response has a different format")
        raise RateLimited(
            "Claude Code has no new numbers: the API limits the rate, refuses, or did not answer, which cannot be "
            "distinguished from here; waiting as after a 429."
        )

    def _once(self, body: object, fetched_at: datetime, plan: str | None) -> Reading | None:
        """Return a reading, unless it is the one that was returned last."""
        if fetched_at == self._last_fetch:
            return None
        reading = parse_usage(body, fetched_at, plan=plan, source=self.name)
        self._last_fetch = fetched_at
        return reading


def _no_usage(response: Mapping[str, object]) -> CredentialsError | ApiError:
    if response.get("subscription_type") is None:
        return CredentialsNotFound(
            "Claude Code is not logged in: its login has ended, or somebody logged out. "
            "Run claude on that machine and log in with /login."
        )
    return InsufficientScope(
        "Claude Code's login may not read the usage, as one made by 'claude setup-token' cannot; "
        "run claude on that machine and log in with /login."
    )


def _control_response(line: str) -> dict[str, object] | None:
    if '"control_response"' not in line:
        return None
    message = json_object(line.encode())
    response = message.get("response") if message.get("type") == "control_response" else None
    return response if isinstance(response, dict) else None
