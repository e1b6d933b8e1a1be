"""The library: one call, typed, light to import, and the token is forgotten."""

import contextlib
import doctest
import functools
import re
import ssl
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import pytest

import claude_usage_mqtt
from claude_usage_mqtt import library
from claude_usage_mqtt.errors import (
    ApiError,
    ClaudeUsageError,
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
from parts import faults
from parts.claude_code import FakeClaudeCode
from parts.credentials import write_credentials, write_credentials_text
from parts.documents import make_extra_usage, make_window, sample_usage
from parts.endpoint import Endpoint, Exchange, Fault, Request
from parts.faults import rate_limited
from parts.garbage import no_garbage

TOKEN = "sk-ant-oat01-very-secret"


def test_the_examples_are_true(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in the documentation do what they show."""
    write_credentials(tmp_path)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    here = functools.partial(library.get_usage, api_url=endpoint.url)
    monkeypatch.setattr(claude_usage_mqtt, "get_usage", here, raising=False)
    now = datetime.now(UTC)
    session, money = make_window(42.0, now + timedelta(hours=2, minutes=30)), make_extra_usage(190.0, 1700, "EUR")

    def then_limited(_request: Request) -> object:
        endpoint.fault = rate_limited(3600)
        return sample_usage(now=now, five_hour=session, seven_day=19.5, extra_usage=money)

    endpoint.document = then_limited
    (example,) = doctest.DocTestFinder(recurse=False).find(library, globs={"timedelta": timedelta})
    result = doctest.DocTestRunner().run(example)
    assert (result.failed, result.attempted > 10) == (0, True)


def test_the_login_of_this_machine(endpoint: Endpoint, tmp_path: Path) -> None:
    """With Claude Code's folder one request is made, with its token, and the plan is known."""
    write_credentials(tmp_path, TOKEN)
    usage = library.get_usage(tmp_path, api_url=endpoint.url, user_agent="my-tool/1")
    assert usage.plan == "max"
    (request,) = endpoint.requests
    assert (request.bearer, request.headers["user-agent"]) == (TOKEN, "my-tool/1")


REFUSALS = [
    (faults.unauthorized(), Unauthorized),
    (faults.insufficient_scope(), InsufficientScope),
    (faults.server_error(), ServerError),
    (faults.invalid_json(), InvalidResponse),
    (faults.CloseAtOnce(), NetworkError),
    (faults.rate_limited(), RateLimited),
]


@pytest.mark.parametrize(("fault", "kind"), REFUSALS)
def test_each_failure_is_an_error_of_its_own(
    endpoint: Endpoint, tmp_path: Path, fault: Fault, kind: type[ApiError]
) -> None:
    """The caller sees what went wrong, no failure makes a second request, and the token is forgotten.

    After the call no error holds it: not in its text, not in its causes, not in the frames it passed.
    """
    write_credentials(tmp_path, TOKEN)
    endpoint.fault = fault
    with pytest.raises(kind) as caught:
        library.get_usage(tmp_path, api_url=endpoint.url)
    assert len(endpoint.requests) == 1
    error = caught.value
    assert TOKEN not in "".join(traceback.format_exception(error))
    assert error.__cause__ is None
    assert error.__context__ is None
    held = [value for frame, _ in traceback.walk_tb(error.__traceback__) for value in values(frame)]
    assert TOKEN not in held
    assert not {type(value).__name__ for value in held} & {"Credentials", "CredentialsFile", "GivenToken"}


def test_without_usable_credentials_nothing_is_sent(endpoint: Endpoint, tmp_path: Path) -> None:
    """No folder, no file of ours, an expired token: each is reported, and the API is not asked."""
    with pytest.raises(CredentialsNotFound):
        library.get_usage(tmp_path / "nowhere", api_url=endpoint.url)
    write_credentials_text(tmp_path, "{")
    with pytest.raises(CredentialsUnreadable):
        library.get_usage(tmp_path, api_url=endpoint.url)
    write_credentials(tmp_path, expires_in=timedelta(hours=-1))
    with pytest.raises(TokenExpired):
        library.get_usage(tmp_path, api_url=endpoint.url)
    with pytest.raises(CredentialsNotFound):
        library.get_usage(token="", api_url=endpoint.url)
    assert endpoint.requests == []


@pytest.mark.parametrize(
    ("arguments", "fault", "said"),
    [
        ({"token": TOKEN}, faults.unauthorized(), r"\(HTTP 401\); replace the token in get_usage\(token=\.{3}\)\.$"),
        (
            {"token": TOKEN},
            faults.insufficient_scope(),
            r"get_usage\(token=\.{3}\) may not read the usage: .*setup-token",
        ),
        ({"token": TOKEN}, faults.rate_limited(), "if it lasts, renew it"),
        ({"token": TOKEN}, faults.Answer(status=300), "check the URL of the API"),
        (
            {"token": '{"claudeAiOauth": 1}'},
            None,
            "holds JSON, .*; point config_dir at the folder of Claude Code's file",
        ),
        ({"token": ""}, None, "is empty"),
        ({"config_dir": "nowhere"}, None, "or point config_dir at its folder"),
        ({"config_dir": "no\0where"}, None, r"The path 'no\\x00where/.credentials.json' is not valid"),
        ({"config_dir": "expired"}, None, "The source claude-code keeps it renewed"),
        ({"claude_code_command": "nothing", "source": "claude-code"}, None, "cannot be started"),
    ],
)
def test_no_error_names_a_setting(
    endpoint: Endpoint, empty: Path, arguments: dict[str, str], fault: Fault | None, said: str
) -> None:
    """A program that uses the library has no settings: an error names the argument to change."""
    write_credentials(empty / "expired", expires_in=timedelta(hours=-1))
    endpoint.fault = fault
    with pytest.raises(ClaudeUsageError, match=said) as caught:
        library.get_usage(**arguments, api_url=endpoint.url)
    assert not re.search("[A-Z]_[A-Z]", str(caught.value))


@pytest.mark.parametrize("url", ["http://example.com", "ftp://127.0.0.1", "http://me@127.0.0.1", "http://[", ""])
def test_a_token_never_travels_unencrypted(url: str) -> None:
    """A wrong address is refused before anything is sent."""
    with pytest.raises(SettingsError, match="api_url"):
        library.get_usage(token=TOKEN, api_url=url)


def test_two_sources_are_one_too_many(tmp_path: Path) -> None:
    """The library never guesses which credentials to use."""
    with pytest.raises(SettingsError, match="give one"):
        library.get_usage(tmp_path, TOKEN)


@pytest.mark.parametrize("fault", [None, faults.unauthorized(), faults.CloseAtOnce()])
def test_nothing_is_left_of_a_call(endpoint: Endpoint, fault: Fault | None) -> None:
    """A program that asks every five minutes does not grow in an outage: a call has its own certificates, 0.8 MB.

    With a token no file is read.
    """
    endpoint.fault = fault
    with no_garbage(ssl.SSLContext), contextlib.suppress(ApiError):
        library.get_usage(token=TOKEN, api_url=endpoint.url)
    assert [request.bearer for request in endpoint.requests] == [TOKEN]


class LateRefusal:
    """A 429 once the token is within five minutes of its end."""

    def serve(self, exchange: Exchange) -> None:
        """Wait, and answer."""
        exchange.pause(1.0)
        rate_limited().serve(exchange)


def test_an_expired_token_in_disguise_is_forgotten_too(endpoint: Endpoint, tmp_path: Path) -> None:
    """A 429 for a token that has just expired is reported as expired, and keeps no earlier error."""
    write_credentials(tmp_path, TOKEN, expires_in=timedelta(minutes=5, seconds=1))
    endpoint.fault = LateRefusal()
    with pytest.raises(TokenExpired) as caught:
        library.get_usage(tmp_path, api_url=endpoint.url)
    assert len(endpoint.requests) == 1
    assert caught.value.__context__ is None


def test_a_renewed_token_is_for_the_next_call(endpoint: Endpoint, tmp_path: Path) -> None:
    """One call is one request, even if Claude Code renews the token in the meantime."""
    write_credentials(tmp_path, TOKEN)

    class Renewing:
        def serve(self, exchange: Exchange) -> None:
            write_credentials(tmp_path, "sk-ant-oat01-renewed")
            faults.unauthorized().serve(exchange)

    endpoint.fault = Renewing()
    with pytest.raises(Unauthorized):
        library.get_usage(tmp_path, api_url=endpoint.url)
    assert len(endpoint.requests) == 1


def values(frame: FrameType) -> list[object]:
    """Return the values of the package's own local variables in a frame."""
    return list(frame.f_locals.values()) if "claude_usage_mqtt" in frame.f_code.co_filename else []


def test_everything_promised_is_there() -> None:
    """Each name of the library can be imported from the package, and any other name is an AttributeError."""
    for name in claude_usage_mqtt.__all__:
        assert getattr(claude_usage_mqtt, name) is not None
    assert set(dir(claude_usage_mqtt)) == set(claude_usage_mqtt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'get_useage'"):
        claude_usage_mqtt.get_useage  # noqa: B018


def test_the_package_is_typed(tmp_path: Path) -> None:
    """A type checker knows the names, and finds a name that is not there."""
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        "from claude_usage_mqtt import RateLimited, get_usage\n"
        "import claude_usage_mqtt\n"
        "def f() -> float | None:\n"
        "    window = get_usage(token='t').five_hour\n"
        "    return window.elapsed() if window else None\n"
        "x: int = get_usage('.')\n"
        "claude_usage_mqtt.get_useage\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    found = [line.split(": error: ")[0].rsplit(":", 1)[-1] for line in ran.stdout.splitlines() if "error: " in line]
    assert found == ["6", "7"], ran.stdout


def test_claude_code_as_a_source(tmp_path: Path) -> None:
    """The usage comes from Claude Code without any token; sources that cannot be asked in one call are rejected."""
    program = FakeClaudeCode(tmp_path / "claude")
    program.answers(sample_usage(five_hour=42))
    asked = {"config_dir": program.folder, "claude_code_command": str(program.command)}
    usage = library.get_usage(**asked, source="claude-code")
    assert usage["five_hour"].utilization == 42
    assert usage["five_hour"].source == "claude_code"
    assert library.get_usage(**asked, source="oauth,claude-code")["five_hour"].source == "claude_code"
    for source, said in (("statusline", "cannot be asked"), ("cloud", "a list of oauth, claude-code")):
        with pytest.raises(SettingsError, match=said):
            library.get_usage(**asked, source=source)
