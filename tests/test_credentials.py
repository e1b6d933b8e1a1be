"""Claude Code's credentials: found, read and interpreted as Claude Code does, and never written."""

import contextlib
import datetime as dt
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.errors import (
    ApiError,
    CredentialsError,
    CredentialsNotFound,
    CredentialsUnreadable,
    InsufficientScope,
    NetworkError,
    RateLimited,
    TokenExpired,
    Unauthorized,
)
from claude_usage_mqtt.sources.api.response import interpret
from claude_usage_mqtt.sources.credentials import keychain, watch
from claude_usage_mqtt.sources.credentials.file import CredentialsFile, GivenToken
from claude_usage_mqtt.sources.credentials.keychain import Keychain
from claude_usage_mqtt.sources.credentials.token import parse_credentials
from parts.credentials import FILE_NAME, write_credentials, write_credentials_text

NOW = dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)


def test_the_file_as_claude_code_writes_it(tmp_path: Path) -> None:
    """Token, expiry, scopes and plan are read; of the organization only a hash is kept."""
    write_credentials(tmp_path, token="sk-1", now=NOW)
    found = CredentialsFile(tmp_path).read()
    login = found.login
    assert (found.token, login.plan, login.tier) == ("sk-1", "max", "default_claude_max_5x")
    assert login.token_expires_at == NOW + dt.timedelta(hours=8)
    assert login.scopes == ("user:inference", "user:profile")
    assert "6a3c1f0e" not in login.organization


def test_the_newer_form_of_the_file() -> None:
    """Account and organization mean the same inside the section and next to it, and the end of the login is read."""
    account, organization = "00000000-0000-4000-8000-0000000000aa", "00000000-0000-4000-8000-0000000000bb"
    ids = {"accountUuid": account, "organizationUuid": organization}
    section = {"accessToken": "t", "refreshTokenExpiresAt": 1797609600000}
    inside = parse_credentials(json.dumps({"claudeAiOauth": section | ids}), "it").login
    outside = parse_credentials(json.dumps({"claudeAiOauth": section} | ids), "it").login
    assert inside == outside
    assert inside.account != inside.organization
    assert account[-4:] not in inside.account
    assert inside.login_expires_at == dt.datetime(2026, 12, 18, 16, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1795190400000, dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)),
        ("1795190400000", dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)),
        ("2026-11-20T16:00:00Z", dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)),
        (1795190400000.5, dt.datetime(2026, 11, 20, 16, 0, 0, 500, tzinfo=dt.UTC)),
        *((value, None) for value in (0, None, "", "soon", True, [], {}, -1, 10**400, 1e300, float("nan"))),
    ],
)
def test_expiry(value: Any, expected: dt.datetime | None) -> None:
    """Milliseconds as a number or text, or ISO 8601; if it is missing, zero or nonsense, the token is tried."""
    section = {"accessToken": "t", "expiresAt": value}
    found = parse_credentials(json.dumps({"claudeAiOauth": section}), "it")
    assert found.login.token_expires_at == expected
    if expected is None:
        found.require_unexpired(NOW)


@pytest.mark.parametrize(
    ("minutes", "verb"), [(6, None), (5.01, None), (5, "expires"), (0, "expired"), (-600, "expired")]
)
def test_five_minutes_before_its_end_a_token_is_not_sent(tmp_path: Path, minutes: float, verb: str | None) -> None:
    """The API answers an expired token with a rate limit: it is better not sent."""
    write_credentials(tmp_path, now=NOW, expires_in=dt.timedelta(minutes=minutes))
    said = pytest.raises(TokenExpired, match=f"The access token {verb} at .* open Claude Code")
    with said if verb else contextlib.nullcontext():
        CredentialsFile(tmp_path).read().require_unexpired(NOW)


def test_it_is_opened_again_each_time(tmp_path: Path) -> None:
    """A file that Claude Code replaces by a rename is noticed, and its fingerprint changes with it."""
    source = CredentialsFile(tmp_path)
    assert source.fingerprint() is None
    with pytest.raises(CredentialsNotFound, match="CLAUDE_CONFIG_DIR"):
        source.read()
    seen = [source.fingerprint()]
    for token in ("one", "two"):
        write_credentials(tmp_path, token=token)
        assert source.read().token == token
        seen.append(source.fingerprint())
    assert len(set(seen)) == 3


def test_nothing_is_ever_written(tmp_path: Path) -> None:
    """Reading leaves content, time and mode of Claude Code's file as they were."""
    path = write_credentials(tmp_path)
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode, sorted(tmp_path.iterdir()))
    CredentialsFile(tmp_path).read()
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode, sorted(tmp_path.iterdir())) == before


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 2_000_000, b"\xef\xbb\xbf[]", b"\x00", b"[" * 200_000])
def test_what_is_not_text(tmp_path: Path, content: bytes) -> None:
    """Bytes that are not credentials are reported as such, however many there are."""
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(CredentialsUnreadable):
        CredentialsFile(tmp_path).read()


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    """An editor on Windows may have left one."""
    write_credentials_text(tmp_path, "\ufeff" + json.dumps({"claudeAiOauth": {"accessToken": "t"}}))
    assert CredentialsFile(tmp_path).read().token == "t"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    """Without permission the sentence names the user who lacks it."""
    write_credentials(tmp_path).chmod(0)
    with pytest.raises(CredentialsUnreadable, match=str(os.getuid())):
        CredentialsFile(tmp_path).read()


def test_a_folder_that_is_the_file_itself(tmp_path: Path) -> None:
    """If the file was named instead of its folder, the error asks for the folder."""
    file = write_credentials(tmp_path)
    with pytest.raises(CredentialsNotFound, match="is a file; name the folder that contains it"):
        CredentialsFile(file).read()


def test_a_file_that_a_container_engine_made_a_folder(tmp_path: Path) -> None:
    """A mount of a missing file is recognized by what it leaves: a folder."""
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(CredentialsUnreadable, match=r"is a folder.* mount Claude Code's folder"):
        CredentialsFile(tmp_path).read()


def test_a_file_with_a_token_that_is_not_there(tmp_path: Path) -> None:
    """The setting that is wrong is named, and no other."""
    for path, said in ((tmp_path / "token", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(CredentialsError, match=r"^CLAUDE_CODE_OAUTH_TOKEN_FILE ") as caught:
            GivenToken(file=path).read()
        assert said in str(caught.value)
        assert "CLAUDE_CONFIG_DIR" not in str(caught.value)


def test_a_path_that_is_not_valid() -> None:
    """A folder that cannot exist gives one of our errors."""
    source = CredentialsFile(Path("/no\x00where"))
    assert source.fingerprint() is None
    with pytest.raises(CredentialsUnreadable, match=r"The path '/no\\x00where/.credentials.json' is not valid"):
        source.read()


def test_a_given_token(tmp_path: Path) -> None:
    """A token may be given directly or in a file, with the line break that an editor adds."""
    assert GivenToken(" t \n").read().token == "t"
    file = tmp_path / "token"
    file.write_text("t\n")
    source = GivenToken(file=file)
    assert source.read().token == "t"
    before = source.fingerprint()
    file.write_text("other")
    assert source.fingerprint() != before
    for empty in (GivenToken(""), GivenToken(" \n")):
        with pytest.raises(CredentialsNotFound, match="CLAUDE_CODE_OAUTH_TOKEN"):
            empty.read()


@pytest.mark.parametrize("layout", [{"separators": (",", ":")}, {"indent": 2}, {}])
def test_the_whole_file_is_not_a_token(tmp_path: Path, layout: dict[str, Any]) -> None:
    """Claude Code's file in place of a token's file is refused: it contains the refresh token."""
    login = {"claudeAiOauth": {"accessToken": "sk-ant-oat01-A", "refreshToken": "sk-ant-ort01-B"}}
    file = write_credentials_text(tmp_path, json.dumps(login, **layout))
    for given in (GivenToken(file=file), GivenToken(file.read_text())):
        with pytest.raises(CredentialsUnreadable, match=r"holds JSON.* CLAUDE_CONFIG_DIR") as refused:
            given.read()
        assert "sk-ant" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(44, CredentialsNotFound), (36, CredentialsUnreadable), (None, CredentialsUnreadable)]
)
def test_a_keychain_that_says_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int | None, kind: type[CredentialsError]
) -> None:
    """A missing item, a locked Keychain and one that waits for a click have their own sentences."""

    def security(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        if status is None:
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, status, b"", b"")

    monkeypatch.setattr(keychain.subprocess, "run", security)
    with pytest.raises(kind, match="Keychain"):
        Keychain(tmp_path).read()


@pytest.mark.parametrize("refusal", [InsufficientScope("no"), Unauthorized("no")])
def test_a_given_token_that_hides_a_usable_login(tmp_path: Path, refusal: ApiError) -> None:
    """With a setup token and a login, the message says to remove the token, otherwise to replace it; others stay."""
    hiding = GivenToken("t", hidden=CredentialsFile(tmp_path))
    assert "claude setup-token" in str(hiding.explain(InsufficientScope("no")))
    with pytest.raises(Unauthorized, match="log in with Claude Code again") as of_a_login:
        interpret(401, {}, b"", NOW)
    assert "(HTTP 401); replace the token in CLAUDE_CODE_OAUTH_TOKEN." in str(hiding.explain(of_a_login.value))
    write_credentials(tmp_path)
    explained = hiding.explain(refusal)
    assert type(explained) is type(refusal)
    assert re.search(rf"hides the login in {tmp_path}.*; unset CLAUDE_CODE_OAUTH_TOKEN", str(explained))
    for other in (NetworkError("no"), RateLimited("no", retry_after=dt.timedelta(hours=1))):
        assert hiding.explain(other) is other


def test_a_given_token_that_may_have_expired(tmp_path: Path) -> None:
    """The API answers an expired token with a 429, and the end of a given one is not known: both reasons are named."""
    hiding = GivenToken("t", hidden=CredentialsFile(tmp_path))
    assert str(hiding.explain(RateLimited("No."))).startswith("No. An expired token is answered in the same way")
    write_credentials(tmp_path)
    assert f"which hides the login in {tmp_path}" in str(hiding.explain(RateLimited("No.")))


def test_a_place_whose_check_already_hangs_ends_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a dead mount even asking for the type of a file does not return: the command says so, and ends."""
    released = threading.Event()

    class DeadMount:
        place = "/mnt/token"

        @property
        def can_be_watched(self) -> bool:
            return released.wait(30)

    monkeypatch.setattr(watch, "PATIENCE", 0.05)
    with pytest.raises(CredentialsUnreadable, match="/mnt/token cannot be read: reading it hangs"):
        watch.require_answer(DeadMount(), lambda: None)
    released.set()
