"""Every line of a `.env` file counts or is reported, and none decides where a secret from the environment goes."""

import codecs
from pathlib import Path

import pytest

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.mqtt.client import read_password, require_readable
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.settings.load import load_settings

CANARY = "canary-7d21aa"
LOGIN = "MQTT_HOST=broker\nMQTT_USERNAME=me\n"


pytestmark = pytest.mark.usefixtures("empty")


def load(text: str) -> Settings:
    """Load the settings with this in the file."""
    Path(".env").write_text(text, encoding="utf-8")
    return load_settings()


def mistake(text: str) -> str:
    """Return what is reported about this file."""
    with pytest.raises(SettingsError) as caught:
        load(text)
    assert CANARY not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("MQTT_PASSWORD=a${HOME}b$c", "a${HOME}b$c"),
        ('MQTT_PASSWORD="${HOME}"', "${HOME}"),
        ("MQTT_PASSWORD='a #b'", "a #b"),
        ("MQTT_PASSWORD=a#b", "a#b"),
        ("MQTT_PASSWORD=#b", "#b"),
        ("export MQTT_PASSWORD=a  ", "a"),
        ("MQTT_PASSWORD='a' # the one of the attic", "a"),
        ("mqtt_password=a", "a"),
        ("MQTT_PASSWORD=a\r\n", "a"),
        ("#MQTT_PASSWORD=a", None),
        ("MQTT_PASSWORD=", None),
    ],
)
def test_a_value_stays_as_it_is_written(line: str, expected: str | None) -> None:
    """Nothing in a value is expanded, and quotes keep it together."""
    assert read_password(load(LOGIN + line).broker()) == expected


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (f'MQTT_PASSWORD="{CANARY}', 3),
        (f"MQTT_PASSWORD='{CANARY}'x", 3),
        (f"\n\n  MQTT_PASSWORD: {CANARY}", 5),
        (f"# a comment\nMQTT_PASSWORD {CANARY}", 4),
        ("MQTT_PASSWORD", 3),
        (f'"MQTT_PASSWORD"={CANARY}', 3),
        (f"$env:MQTT_PASSWORD = '{CANARY}'", 3),
        (f";MQTT_PASSWORD={CANARY}", 3),
        (f"-MQTT_PASSWORD={CANARY}", 3),
        (f"\u200bMQTT_PASSWORD={CANARY}", 3),
        (f"MQTT_PASSWORD+={CANARY}", 3),
    ],
)
def test_a_line_that_is_not_understood_is_named(line: str, number: int) -> None:
    """A password with a quote in it is not silently lost: the line is named, and never shown."""
    assert f"Line {number} of .env: not understood; write NAME=value" in mistake(LOGIN + line)


@pytest.mark.parametrize("line", [f"MQTT_PASSWORD={CANARY} #1", f"MQTT_PASSWORD= # {CANARY}", "MQTT_PORT=1884 # TLS"])
def test_a_possible_comment_is_reported(line: str) -> None:
    """` #` begins a comment for some programs that read such files, and not for others (docker --env-file)."""
    name = line.partition("=")[0]
    assert f"Line 3 of .env: a # in the value of {name}" in mistake(LOGIN + line)


@pytest.mark.parametrize("second", [f"MQTT_PASSWORD={CANARY}2", f"export mqtt_password='{CANARY}'", "MQTT_PASSWORD="])
def test_a_setting_that_appears_twice_is_reported(second: str) -> None:
    """Nobody has to guess which of two lines counts: docker, compose and systemd do not agree on that."""
    said = mistake(f"{LOGIN}MQTT_PASSWORD={CANARY}\n\n# the new one\n{second}\n")
    assert said.startswith("MQTT_PASSWORD is on lines 3 and 6 of .env; remove one of them.")


def test_lines_of_others_are_left_alone() -> None:
    """Lines for other programs in the same file are ignored."""
    theirs = "POSTGRES_PASSWORD=a # b\nFOO=${BAR}\nFOO=2\nspring.datasource-1.url=a\n"
    assert load(theirs + LOGIN).mqtt_host == "broker"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_file_in_another_encoding_is_not_mistaken_for_an_empty_one(empty: Path, encoding: str) -> None:
    """UTF-16 without its mark is valid UTF-8 full of NULs: not one of its lines would count."""
    (empty / ".env").write_bytes(f"{LOGIN}MQTT_PASSWORD=p\xe4ss\n".encode(encoding))
    with pytest.raises(SettingsError, match=r"^The file \.env is not valid UTF-8 text; correct or remove it\.$"):
        load_settings()


@pytest.mark.parametrize("name", ["MQTT_USERNAME", "MQTT_PASSWORD"])
def test_a_value_that_is_too_long_for_mqtt_is_named(name: str) -> None:
    """A whole file in place of its name is reported as a wrong setting, not as a connection problem."""
    assert f"{name}: longer than MQTT allows" in mistake(f"MQTT_HOST=broker\n{name}={'x' * 65536}\n")


@pytest.mark.parametrize("host", ["broker\u200b", "bro\u00adker", "bro\x07ker", "b" * 256])
def test_invisible_characters_in_a_host_are_reported(host: str) -> None:
    """A name copied from a web page, with something invisible in it, looks right in "cannot be resolved"."""
    with pytest.raises(SettingsError, match="MQTT_HOST: the name or address alone"):
        load(f"MQTT_HOST={host}\n").broker()


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_byte_order_mark_is_not_part_of_a_name_or_a_secret(empty: Path, mark: bytes) -> None:
    """A file that an editor on Windows has saved is read like any other, the password's own file too."""
    encoding = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}[mark]
    (empty / "password").write_bytes(mark + "pässword\r\n".encode(encoding))
    (empty / ".env").write_bytes(mark + (LOGIN + "MQTT_PASSWORD_FILE=password\n").encode(encoding))
    broker = load_settings().broker()
    assert (broker.host, read_password(broker)) == ("broker", "pässword")


@pytest.mark.parametrize(
    "content",
    [b"", b"\r\n", b"one\ntwo\n", b"nul\0", "p\xe4ss".encode("latin-1"), b"x" * 65536],
    ids=lambda content: repr(content[:8]),
)
def test_a_password_file_that_holds_no_password(empty: Path, content: bytes) -> None:
    """Content that cannot be a password is reported when the program starts."""
    (empty / "password").write_bytes(content)
    with pytest.raises(SettingsError, match=r"^MQTT_PASSWORD_FILE \(password\) "):
        require_readable(load(LOGIN + "MQTT_PASSWORD_FILE=password\n").broker())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("broker\n", "broker"),
        (" broker\r\n", "broker"),
        ('"broker"', "broker"),
        ("'broker'", "broker"),
        ("[::1]", "::1"),
        ("'[fe80::1%eth0]'", "fe80::1%eth0"),
    ],
)
def test_what_surrounds_a_host_is_removed(monkeypatch: pytest.MonkeyPatch, given: str, expected: str) -> None:
    """Line breaks of `$(cat file)`, the quotes of a compose list and the brackets of a URL do no harm."""
    monkeypatch.setenv("MQTT_HOST", given)
    monkeypatch.setenv("MQTT_USERNAME", '"me"\n')
    monkeypatch.setenv("MQTT_PASSWORD", "secret\n")
    monkeypatch.setenv("MQTT_TLS", '"true"')
    broker = load_settings().broker()
    assert (broker.host, broker.username, broker.password, broker.tls) == (expected, "me", "secret", True)


@pytest.mark.parametrize("name", ["CLAUDE_API_URL", "CLAUDE_CODE_COMMAND", "CLAUDE_USER_AGENT"])
def test_what_only_the_environment_may_decide(name: str) -> None:
    """A file in somebody else's folder decides neither where a token goes nor which program runs."""
    assert f"Line 3 of .env: {name} is read from the environment only" in mistake(f"{LOGIN}{name}=https://x.example\n")


@pytest.mark.parametrize("name", ["MQTT_PASSWORD", "MQTT_PASSWORD_FILE"])
def test_a_password_of_the_environment_goes_to_no_host_of_a_file(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file in somebody else's folder cannot have our password sent to its own broker."""
    monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("MQTT_USERNAME", "me")
    assert f"{name} is set in the environment, but MQTT_HOST in .env" in mistake("MQTT_HOST=elsewhere.example\n")
    monkeypatch.setenv("MQTT_HOST", "broker")
    assert load("MQTT_HOST=elsewhere.example\n").mqtt_host == "broker"


def test_no_file_of_ours_is_sent_as_a_password(
    empty: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in somebody else's folder cannot have Claude Code's credentials sent to its own broker as a password."""
    ours = tmp_path_factory.mktemp("home") / ".credentials.json"
    ours.write_text(CANARY)
    link = empty / "password"
    link.symlink_to(ours)
    monkeypatch.setenv("HOME", str(ours.parent))
    for path in (ours, link, "~/.credentials.json", "~no-such-user/file"):
        said = mistake(f"{LOGIN}MQTT_PASSWORD_FILE={path}\n")
        assert "Line 3 of .env: MQTT_PASSWORD_FILE is outside the folder of .env; set it in the environment" in said


def test_the_file_can_be_left_unread() -> None:
    """The status line runs in the folders of all projects, and reads no file of theirs."""
    load(LOGIN)
    Path(".env").write_text("LOG_LEVEL=chatty\n'")
    assert load_settings(with_env_file=False).mqtt_host is None
