"""Real logins: each case was reported in public, and is replayed with the right outcome."""

import datetime as dt
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from claude_usage_mqtt.errors import (
    CredentialsError,
    CredentialsNotFound,
    CredentialsUnreadable,
    SettingsError,
    TokenExpired,
)
from claude_usage_mqtt.settings.load import load_settings
from claude_usage_mqtt.sources import local_login as login_module
from claude_usage_mqtt.sources.credentials import keychain
from claude_usage_mqtt.sources.credentials.token import Credentials
from claude_usage_mqtt.sources.local_login import local_login
from parts.credentials import write_credentials_text
from parts.garbage import no_garbage

CASES = {
    path.stem: case["input"]
    for path in (Path(__file__).parent / "cases").glob("*.json")
    if (case := json.loads(path.read_text(encoding="utf-8"))).get("kind") == "credentials"
}
NOW = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)


FOUND = {
    "env_token_in_quotes": ["AAAA"],
    "expiry_in_seconds": ["A"],
    "macos_account_claude_code_user": ["FRESH"],
    "macos_accounts_names_the_default_folder": ["HOME", "WORK"],
    "macos_empty_file": ["FRESH"],
    "macos_keychain_prints_hex": ["FRESH"],
    "macos_stale_file_shadows_keychain": ["FRESH"],
    "securestorage_config_dir": ["SECURE"],
}
"""The last characters of the accounts' tokens, in the order of the settings."""

REFUSED: dict[str, tuple[type[CredentialsError], str]] = {
    "desktop_app_only_token_expires": (TokenExpired, "command-line program renews .* desktop app .* do not"),
    "macos_container_without_file": (
        CredentialsNotFound,
        "a Mac's, the login is in the Keychain, which a container cannot see.*statusline",
    ),
    "macos_keychain_tombstone": (CredentialsNotFound, "no access token"),
    "macos_keychain_truncated": (CredentialsUnreadable, "Keychain cut it off.* many MCP servers"),
}


class Mac:
    """Replaces `security` of macOS, which no other system has: items by account and service."""

    def __init__(self, items: dict[tuple[str, str], str]) -> None:
        self.items = items

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        """Answer as it does: without an account, with any item of the service."""
        service = command[command.index("-s") + 1]
        account = command[command.index("-a") + 1] if "-a" in command else None
        found = [text for (owner, name), text in self.items.items() if name == service and account in (None, owner)]
        return subprocess.CompletedProcess(command, 0 if found else 44, "".join(found[:1]).encode() + b"\n", b"")


def moved(text: str, home: Path) -> str:
    """Return a text of a case with its home folders moved into this test's."""
    text = re.sub(r"(?<![\w/])(/home/alex|/Users/alex|~)(?=/)", str(home), text)
    text = re.sub(r"^/claude$", str(home / "mounted"), text)
    return re.sub(r"<sha256 of (.*?)>", lambda found: hashlib.sha256(found[1].encode()).hexdigest()[:8], text)


@pytest.fixture
def home(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home, with none of our variables set and nothing in the Keychain."""
    monkeypatch.setenv("HOME", str(empty))
    (empty / "mounted").mkdir()
    return empty


def build(case: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the environment of a case."""
    items: dict[tuple[str, str], str] = {}
    for key, value in case.items():
        if key.startswith("file ") and (isinstance(value, dict) or value == ""):
            path = Path(moved(key.removeprefix("file "), home))
            write_credentials_text(path.parent, json.dumps(value) if value else "")
        elif key == "env":
            for name, text in value.items():
                monkeypatch.setenv(name, moved(text, home))
        elif key.startswith("keychain "):
            for item, content in value.items():
                owner, service = item.split(" | ")
                items[owner, moved(service, home)] = content if isinstance(content, str) else json.dumps(content)
        elif key == "security -w prints":
            items[case["env"]["USER"], keychain.ITEM] = value
    if case["platform"] == "darwin":
        monkeypatch.setattr(login_module, "sys", SimpleNamespace(platform="darwin"))
        monkeypatch.setattr(keychain, "subprocess", SimpleNamespace(run=Mac(items).run, DEVNULL=-3))


def test_each_case_has_its_outcome() -> None:
    """A new case is not forgotten."""
    assert set(CASES) == {*FOUND, *REFUSED}


@pytest.mark.parametrize("name", FOUND)
def test_the_login_that_works_is_found(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is ignored; an impossible expiry counts as unknown."""
    build(CASES[name], home, monkeypatch)
    read = usable_logins()
    assert [credentials.token for credentials in read] == [f"sk-ant-oat01-{end}" for end in FOUND[name]]
    is_unknown = name in ("env_token_in_quotes", "expiry_in_seconds")
    assert {credentials.login.token_expires_at is None for credentials in read} == {is_unknown}


@pytest.mark.parametrize("name", REFUSED)
def test_a_login_that_does_not_work_is_explained(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what is wrong there."""
    build(CASES[name], home, monkeypatch)
    kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        usable_logins()


def usable_logins() -> list[Credentials]:
    """Return the logins of the accounts in the settings; raises CredentialsError."""
    read = [account.login.credentials.read() for account in load_settings().accounts() if account.login is not None]
    for credentials in read:
        credentials.require_unexpired(NOW)
    return read


def content(token: str, hours: float | None = 1) -> str:
    """Return a file's content."""
    expires = {} if hours is None else {"expiresAt": round((NOW + dt.timedelta(hours=hours)).timestamp() * 1000)}
    return json.dumps({"claudeAiOauth": {"accessToken": token, **expires}})


def on_a_mac(
    monkeypatch: pytest.MonkeyPatch, home: Path, items: dict[tuple[str, str], str], file: str | None = None
) -> Credentials:
    """Return what is found on a Mac of user alex."""
    build({"platform": "darwin", "env": {"USER": "alex"}}, home, monkeypatch)
    monkeypatch.setattr(keychain, "subprocess", SimpleNamespace(run=Mac(items).run, DEVNULL=-3))
    if file is not None:
        write_credentials_text(home / ".claude", file)
    login = load_settings().accounts()[0].login
    return login.credentials.read()


ALEX = "alex", keychain.ITEM


@pytest.mark.parametrize(
    ("item", "file", "token"),
    [
        (content("k", 1), content("f", 2), "f"),  # the one that is renewed last
        (content("k", 2), content("f", 1), "k"),
        (content("k", 1), content("f", 1), "k"),
        (content("k", None), content("f", 5), "k"),  # the Keychain goes first if they cannot be compared
        (content("k", 1), content("f", None), "k"),
        (content("", 9), content("f", -9), "f"),
        (content("k", -9), '{"mcpOAuth": {}}', "k"),
        ("cut {", content("f", 1), "f"),
    ],
)
def test_of_keychain_and_file_the_better_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, item: str, file: str, token: str
) -> None:
    """On a Mac an old file does not hide the Keychain, nor vice versa."""
    assert on_a_mac(monkeypatch, home, {ALEX: item}, file).token == token


def test_hex_in_any_form(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that is printed as hex is read, whatever the form of its digits."""
    digits = content("k").encode().hex()
    for printed in (digits, digits.upper(), f"0x{digits}", f"efbbbf{digits}"):
        assert on_a_mac(monkeypatch, home, {ALEX: printed}).token == "k"


def test_of_several_accounts_of_the_item_the_one_that_expires_last(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item left under another account name does not hide the current one."""
    items = {ALEX: content("old", -9), ("claude-code-user", keychain.ITEM): content("new", 1)}
    assert on_a_mac(monkeypatch, home, items).token == "new"
    assert on_a_mac(monkeypatch, home, {("somebody", keychain.ITEM): content("any", 1)}).token == "any"


def test_an_expired_file_does_not_hide_why_the_keychain_was_unusable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked or broken Keychain is named, not only the old file."""
    credentials = on_a_mac(monkeypatch, home, {ALEX: "cut {"}, content("f", -1))
    with pytest.raises(TokenExpired, match="Keychain cut it off"):
        credentials.require_unexpired(NOW)


@pytest.mark.parametrize("items", [{}, {ALEX: "cut {"}])
def test_no_token_is_left_on_a_mac_with_a_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, items: dict[tuple[str, str], str]
) -> None:
    """If the Keychain is unusable, no poll leaves the file's token in memory, waiting for the garbage collector."""
    with no_garbage(Credentials):
        assert on_a_mac(monkeypatch, home, items, content("f", 1)).token == "f"


def test_the_suffix_is_of_the_raw_text() -> None:
    """The item's suffix is what Claude Code computes from the variable as it is written, in composed form."""
    default = Path("/home/me/.claude")

    def names(folder: str | None) -> list[str]:
        return list(keychain.item_names(folder, Path(folder or default), default))

    def suffixed(text: str) -> str:
        return f"Claude Code-credentials-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    assert names(None) == ["Claude Code-credentials"]
    for written in ("/x/y", "/x/y/"):  # a shell may have added the slash, or it was left out in our settings
        assert names(written)[0] == suffixed(written)
        assert set(names(written)) == {suffixed("/x/y"), suffixed("/x/y/")}
    assert names("/x/cafe\u0301")[0] == suffixed("/x/caf\u00e9")
    assert names("/home/me/.claude")[0] == suffixed("/home/me/.claude")
    assert names("/home/me/.claude")[-1] == "Claude Code-credentials"


def test_the_default_folder_named_outright(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our variable may name the default folder while Claude Code's is not set: both names are tried."""
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "~/.claude")
    assert on_a_mac(monkeypatch, home, {ALEX: content("bare")}).token == "bare"
    suffix = hashlib.sha256(f"{home}/.claude".encode()).hexdigest()[:8]
    items = {("alex", f"{keychain.ITEM}-{suffix}"): content("hashed", 2), ALEX: content("bare", 1)}
    assert on_a_mac(monkeypatch, home, items).token == "hashed"


def test_the_variable_of_the_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wins over CLAUDE_CONFIG_DIR; if empty it means the default folder; several accounts name their own folders."""
    for name in (".claude", "cfg", "secure", "one", "two"):
        write_credentials_text(home / name, content(name))

    def tokens() -> list[str]:
        found = [account.login for account in load_settings().accounts()]
        return [login.credentials.read().token for login in found if login is not None]

    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(home / "cfg"))
    assert tokens() == ["cfg"]
    monkeypatch.setenv("CLAUDE_SECURESTORAGE_CONFIG_DIR", "~/secure")
    assert tokens() == ["secure"]
    monkeypatch.setenv("CLAUDE_SECURESTORAGE_CONFIG_DIR", "")
    assert tokens() == [".claude"]
    monkeypatch.setenv("CLAUDE_SECURESTORAGE_CONFIG_DIR", "~/secure")
    monkeypatch.setenv("CLAUDE_ACCOUNTS", '{"one": "~/one", "away": null, "two": "~/two"}')
    assert tokens() == ["one", "two"]


@pytest.mark.parametrize(
    ("variables", "setting"),
    [
        ({}, "CLAUDE_CONFIG_DIR"),
        ({"CLAUDE_CONFIG_DIR": "/none"}, "CLAUDE_CONFIG_DIR"),
        ({"CLAUDE_CONFIG_DIR": "/x", "CLAUDE_SECURESTORAGE_CONFIG_DIR": "/none"}, "CLAUDE_SECURESTORAGE_CONFIG_DIR"),
        ({"CLAUDE_ACCOUNTS": '{"a": "/none"}'}, "CLAUDE_ACCOUNTS"),
    ],
)
def test_a_missing_file_names_the_setting_of_its_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], setting: str
) -> None:
    """Another variable would have no effect: the one that decided is named."""
    build({"platform": "linux", "env": variables}, home, monkeypatch)
    with pytest.raises(CredentialsNotFound, match=f"or point {setting} at its folder"):
        usable_logins()


@pytest.mark.parametrize("value", ["sk-ant-oat01-A\nB", "sk-ant-oat01-A B", "sk-ant-oat01-A\r\nX: y"])
def test_a_token_with_a_line_break_is_never_sent(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A pasted line break would end the header; the token, in a file or a variable, is refused without being quoted."""
    (home / "token").write_bytes(value.encode())
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN_FILE", str(home / "token"))
    login = load_settings().accounts()[0].login
    with pytest.raises(CredentialsUnreadable, match="line break or a space") as in_file:
        login.credentials.read()
    monkeypatch.delenv("CLAUDE_CODE_OAUTH_TOKEN_FILE")
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", value)
    with pytest.raises(SettingsError, match="invalid characters") as in_variable:
        load_settings()
    assert "oat01" not in str(in_file.value) + str(in_variable.value)


@pytest.mark.skipif(sys.platform != "linux", reason="a container is a Linux")
def test_a_user_without_a_home_can_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the user has no home and no entry in the list of users: the mounted folder is enough."""
    monkeypatch.setattr(Path, "expanduser", _without_a_home)
    login = local_login(str(tmp_path))
    assert login.credentials.place.startswith(str(tmp_path))
    with pytest.raises(SettingsError, match=r"not known; set HOME, or CLAUDE_CONFIG_DIR to the whole path"):
        local_login(None)
    with pytest.raises(SettingsError, match="not known; write the whole path"):
        local_login("~/work", setting="CLAUDE_ACCOUNTS")


def _without_a_home(path: Path) -> Path:
    if path.parts[0].startswith("~"):
        raise RuntimeError("Could not determine home directory.")
    return path
