"""Claude Code as a source: how its answers are dated and understood, and that no process outlives a question."""

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import (
    ClaudeUsageError,
    CredentialsNotFound,
    InsufficientScope,
    InvalidResponse,
    NetworkError,
    RateLimited,
    TokenExpired,
)
from claude_usage_mqtt.sources import child
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.claude_code import REQUEST, ClaudeCode
from claude_usage_mqtt.sources.claude_code_cache import UsageCache
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.source import PolledSource, PollResult
from claude_usage_mqtt.usage.reading import CLAUDE_CODE, OAUTH
from parts.claude_code import ACCOUNT, FakeClaudeCode, control_response
from parts.credentials import write_credentials
from parts.documents import sample_usage
from parts.endpoint import Connect, Endpoint
from parts.waiting import eventually

BODY = sample_usage(scoped={"Fable": 33}, extra_usage={"is_enabled": True, "used_credits": 190.0, "currency": "EUR"})
OLD = {key: value for key, value in BODY.items() if key != "limits"}
"""An old answer that Claude Code returns without saying so."""


@pytest.fixture
def program(tmp_path: Path) -> FakeClaudeCode:
    """Return a Claude Code to ask."""
    return FakeClaudeCode(tmp_path / "claude")


def source(program: FakeClaudeCode, deadline: float = 20.0, command: str | None = None) -> ClaudeCode:
    """Return the source that asks it."""
    return ClaudeCode(
        command or str(program.command),
        {"CLAUDE_CONFIG_DIR": str(program.folder)},
        UsageCache(program.cache),
        program.folder / ".credentials.json",
        deadline,
    )


def ask(asked: PolledSource) -> PollResult:
    """Poll it once."""
    return asked.poll("default", SystemClock(), may_retry=True)


def ago(seconds: float) -> dt.datetime:
    """Return the instant that many seconds before now."""
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)).replace(microsecond=0)


def test_an_answer_is_dated_by_its_fetch(program: FakeClaudeCode) -> None:
    """All windows and the money are there, with the time at which Claude Code fetched them, and their owner."""
    fetched_at = ago(2)
    program.answers(BODY | {"model_scoped": [{"display_name": "Fable"}]}, fetched_at)
    result = ask(source(program))
    assert (result.error, result.requests, result.source) == (None, 1, CLAUDE_CODE)
    reading = result.reading
    assert (reading.read_at, reading.plan, "model_scoped" in reading.ignored) == (fetched_at, "max", False)
    assert {window.source for window in reading} == {CLAUDE_CODE}
    assert (reading["seven_day_fable"].utilization, reading.extra_usage.used) == (33, 1.9)
    assert None not in result.login.owner


def test_two_answers_of_one_fetch_are_one_reading(program: FakeClaudeCode) -> None:
    """Within a minute Claude Code repeats what it has: that is nothing new, and no request."""
    asked = source(program)
    program.answers(BODY, ago(30))
    assert ask(asked).reading is not None
    again = ask(asked)
    assert (again.reading, again.error, again.requests) == (None, None, 0)


@pytest.mark.parametrize("body", [BODY, OLD])
def test_numbers_that_somebody_else_asked_for_a_moment_ago(program: FakeClaudeCode, body: Any) -> None:
    """Numbers that a terminal session fetched within the last minute are a reading of that time, without a request."""
    fetched_at = ago(30)
    program.cache.write_text(program.keeps(BODY, fetched_at))
    program.answers(body)
    result = ask(source(program))
    assert (result.reading.read_at, result.requests) == (fetched_at, 0)
    assert "seven_day_fable" in result.reading.windows


@pytest.mark.parametrize("body", [OLD, None])
def test_old_numbers_are_a_refusal(program: FakeClaudeCode, body: Any) -> None:
    """An answer of ten minutes ago, or none, means that the API refused: the sentence says what is not known."""
    program.cache.write_text(program.keeps(BODY, ago(600)))
    program.answers(body)
    result = ask(source(program))
    assert isinstance(result.error, RateLimited)
    assert (result.reading, result.requests, result.error.retry_after) == (None, 1, None)
    assert "cannot be distinguished" in str(result.error)


@pytest.mark.parametrize("body", [BODY, OLD])
def test_a_fetch_in_the_future_is_not_believed(program: FakeClaudeCode, body: Any) -> None:
    """Numbers of unknown age are not published, and the clock is named."""
    program.cache.write_text(program.keeps(BODY, ago(-7200)))
    program.answers(body)
    asked = source(program)
    result = ask(asked)
    assert isinstance(result.error, InvalidResponse)
    assert "clock" in str(result.error)
    assert asked.cached(dt.datetime.now(dt.UTC)) is None


def test_a_folder_that_cannot_be_written(program: FakeClaudeCode) -> None:
    """A complete answer that Claude Code could not record is current."""
    program.cache.write_text(program.keeps(BODY, ago(7200)))
    program.answers(BODY)
    before = dt.datetime.now(dt.UTC)
    assert ask(source(program)).reading.read_at >= before


@pytest.mark.parametrize(
    ("response", "kind", "text"),
    [
        ({"subscription_type": None}, CredentialsNotFound, "not logged in.*/login"),
        ({"subscription_type": "max"}, InsufficientScope, "setup-token"),
    ],
)
def test_a_login_that_cannot_be_used(
    program: FakeClaudeCode, response: dict[str, Any], kind: type[ClaudeUsageError], text: str
) -> None:
    """A logout and a token without permission are different problems, and each says what to do."""
    program.answers(None, rate_limits_available=False, **response)
    with pytest.raises(kind, match=text):
        raise ask(source(program)).error or AssertionError


@pytest.mark.parametrize(
    "mode",
    [
        {"lines": [control_response({"subtype": "error", "error": "Unsupported control request subtype: get_usage"})]},
        {"errors": "error: unknown option '--safe-mode'\n", "status": 1},
        {"lines": ["Hello! How can I help you today?"]},
        {"lines": ["{", '{"type": "control_response", "response": []}', control_response({"subtype": "success"})]},
        {"lines": [control_response({"subtype": "success", "response": {"usage": {}}})]},
        {"lines": [control_response({"subtype": "success", "response": {"rate_limits": [1]}})]},
    ],
)
def test_a_version_that_does_not_understand(program: FakeClaudeCode, mode: dict[str, Any]) -> None:
    """The version is in the sentence; nothing is taken for 0."""
    program.mode(**mode)
    result = ask(source(program))
    assert isinstance(result.error, InvalidResponse)
    assert "Claude Code 2.0.14 does not understand the request" in str(result.error)


def test_a_program_that_is_not_there(program: FakeClaudeCode) -> None:
    """The setting to correct is named."""
    result = ask(source(program, command="/nowhere/claude"))
    assert isinstance(result.error, CredentialsNotFound)
    assert result.requests == 0
    assert "the whole path of its command" in str(result.error)


def test_what_it_is_started_with(program: FakeClaudeCode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees none of our secrets, no token that hides its login, an empty folder, and one line of input."""
    for name in ("CLAUDE_CODE_OAUTH_TOKEN", "MQTT_PASSWORD", "ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    program.answers(BODY, ago(1))
    ask(source(program))
    (call,) = program.calls
    assert call["input"] == REQUEST + "\n"
    arguments = call["arguments"]
    assert {"-p", "--safe-mode", "--strict-mcp-config", "--no-session-persistence"} <= set(arguments)
    assert arguments[arguments.index("--setting-sources") + 1] == ""
    assert "canary" not in call["environment"].values()
    assert call["environment"]["HTTPS_PROXY"] == "http://proxy.example"
    assert call["environment"]["DISABLE_AUTOUPDATER"] == "1"
    assert call["there"] == []
    assert call["group"] != os.getpgid(0)
    for folder in (call["folder"], call["environment"]["TMPDIR"]):
        assert not Path(folder).exists()


def is_running(pid: int) -> bool:
    """Whether a process is running, and not just a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


linux_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux to look at processes")


@linux_only
@pytest.mark.parametrize(
    "mode", [{"sleep": 600}, {"spawn": {}}, {"spawn": {}, "sleep": 600}, {"flood": True}, {"spawn": {}, "status": 3}]
)
def test_nothing_keeps_running(program: FakeClaudeCode, mode: dict[str, Any]) -> None:
    """A process that hangs, floods us, or leaves others behind is killed with its children, within the deadline."""
    program.mode(**mode)
    result = ask(source(program, deadline=1.0))
    assert isinstance(result.error, NetworkError | InvalidResponse)
    (call,) = program.calls
    spawned = program.folder / "spawned"
    pids = [call["pid"], *([int(spawned.read_text())] if spawned.exists() else [])]
    eventually(lambda: not any(is_running(pid) for pid in pids))


@linux_only
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_us(program: FakeClaudeCode, tmp_path: Path, by: signal.Signals) -> None:
    """Even if we are killed in the middle of a question, all its processes end with us."""
    program.mode(sleep=600, spawn={})
    spawned = program.folder / "spawned"
    code = f"""
from pathlib import Path
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.claude_code import ClaudeCode
from claude_usage_mqtt.sources.claude_code_cache import UsageCache
variables = {{"CLAUDE_CONFIG_DIR": {str(program.folder)!r}}}
asked = ClaudeCode({str(program.command)!r}, variables, UsageCache(), Path({str(tmp_path)!r}), 600.0)
asked.poll("default", SystemClock(), may_retry=True)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        eventually(lambda: spawned.is_file() and spawned.read_text() != "")
        process.send_signal(by)
        process.wait()
    pids = [program.calls[0]["pid"], int(spawned.read_text())]
    eventually(lambda: not any(is_running(pid) for pid in pids))


@pytest.mark.skipif(shutil.which("setsid") is None, reason="there is no setsid here")
def test_a_process_that_escapes_and_writes_later_is_not_read(tmp_path: Path) -> None:
    """A process that left the group holds the pipe: what it writes after the deadline does not harm our threads."""
    os.mkfifo(tmp_path / "go")
    escape = f"setsid sh -c 'cat {tmp_path}/go; sleep 0.1; echo more' & sleep 600"
    ended = child.run_child(["sh", "-c", escape], "", {"PATH": os.environ["PATH"]}, 0.5)
    assert (ended.status, ended.output) == (None, "")
    (tmp_path / "go").write_text("late\n")
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "child-output"])


def test_output_is_bounded(program: FakeClaudeCode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that never stops writing costs a bounded amount of memory."""
    monkeypatch.setattr(child, "MAX_OUTPUT", 100_000)
    program.mode(flood=True)
    ended = child.run_child([str(program.command)], "", {"CLAUDE_CONFIG_DIR": str(program.folder)}, 20)
    assert len(ended.output) < 300_000
    assert ended.status is None


def test_kept_numbers_are_read_if_they_are_its_own_accounts(program: FakeClaudeCode) -> None:
    """Numbers of a previously logged-in account are ignored; the e-mail address goes nowhere."""
    now, fetched_at = dt.datetime.now(dt.UTC), ago(3600)
    program.cache.write_text(program.keeps(BODY, fetched_at))
    asked = source(program)
    assert asked.cached(now).read_at == fetched_at
    assert "canary" not in repr(asked.login()) + repr(asked.cached(now)) + repr(vars(asked))
    program.cache.write_text(program.keeps(BODY, fetched_at, account=ACCOUNT[::-1]))
    assert asked.cached(now) is None
    for text in ("", "{", "[]", '{"cachedUsageUtilization": 1}', '{"oauthAccount": {"accountUuid": 5}}', "\x00"):
        program.cache.write_text(text)
        assert asked.cached(now) is None
    program.cache.write_text(program.keeps({}, fetched_at).replace('"fetchedAtMs": 1', '"fetchedAtMs": 1e400, "x": 1'))
    assert asked.cached(now) is None


# A token that has expired, and a Claude Code that renews it


@pytest.fixture
def renewing(program: FakeClaudeCode, connect: Connect) -> ApiSource:
    """Return the API's source, with an expired token and a Claude Code that could renew it."""
    write_credentials(program.folder, token="old", expires_in=dt.timedelta(minutes=-5))
    return ApiSource(CredentialsFile(program.folder), connect(), UsageCache(program.cache), source(program))


def renews(program: FakeClaudeCode, tmp_path: Path) -> None:
    """Have Claude Code write a new token when it is asked."""
    new = write_credentials(tmp_path / "new", token="new").read_text()
    program.answers(BODY, ago(1))
    mode = json.loads((program.folder / "mode.json").read_text())
    program.mode(**mode | {"files": mode["files"] | {".credentials.json": new}})


def test_an_expired_token_is_renewed_by_its_owner(
    program: FakeClaudeCode, endpoint: Endpoint, renewing: ApiSource, tmp_path: Path
) -> None:
    """Claude Code is asked once, its answer counts, and then the API is asked directly again with the new token."""
    renews(program, tmp_path)
    first = ask(renewing)
    assert (first.error, first.source, first.requests) == (None, CLAUDE_CODE, 1)
    assert endpoint.requests == []
    second = ask(renewing)
    assert (second.error, second.source, second.requests) == (None, OAUTH, 1)
    assert [request.bearer for request in endpoint.requests] == ["new"]
    assert len(program.calls) == 1


def test_a_token_that_is_not_renewed_is_asked_for_once(
    program: FakeClaudeCode, endpoint: Endpoint, renewing: ApiSource
) -> None:
    """A login that has ended costs one question an hour, and its error quotes Claude Code's."""
    program.answers(None, rate_limits_available=False, subscription_type=None)
    assert {type(ask(renewing).error) for _ in range(3)} == {TokenExpired}
    assert len(program.calls) == 1
    assert endpoint.requests == []
