"""Settings: an error in them is reported in one line, and the example file has all of them."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.mqtt.client import require_readable
from claude_usage_mqtt.service.loop import Service
from claude_usage_mqtt.settings.fields import Settings, variables
from claude_usage_mqtt.settings.load import doubts, load_settings
from claude_usage_mqtt.settings.typos import misspelled
from parts.command import call_command, clean_environment, command_line

pytestmark = pytest.mark.usefixtures("empty")

CANARY = "canary-0b5e1c"
EXAMPLE = Path(__file__).parents[1] / "config.example.env"
NO_DEFAULT = "No default."


UNPRIVILEGED = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""What makes root obey the permissions of files, as everybody else does."""


WRONG: list[tuple[Mapping[str, str], str]] = [
    ({"MQTT_HOST": "mqtt://broker"}, "MQTT_HOST: the name or address alone; the port goes"),
    ({"MQTT_HOST": "broker:1883"}, "MQTT_HOST: the name or address alone; the port goes"),
    ({"MQTT_HOST": "${BROKER}"}, "MQTT_HOST: the name or address alone"),
    ({"MQTT_HOST": ""}, "MQTT_HOST is not set"),
    ({"MQTT_PORT": "mqtt"}, "MQTT_PORT: a whole number from 1 to 65535."),
    (
        {"MQTT_PORT": "tcp://10.0.0.1:1883"},
        "MQTT_PORT: a URL, as Kubernetes sets for a service named mqtt; set MQTT_PORT yourself",
    ),
    ({"MQTT_WEBSOCKET_PATH": "ws"}, "MQTT_WEBSOCKET_PATH: a path that begins with /"),
    (
        {"MQTT_USERNAME": "me", "MQTT_PASSWORD": f"'{CANARY}'"},
        "MQTT_PASSWORD: has blanks or quotes around it; remove them",
    ),
    ({"MQTT_USERNAME": "me", "MQTT_PASSWORD": f"{CANARY}\nx"}, "MQTT_PASSWORD: has line breaks"),
    (
        {"MQTT_USERNAME": "me", "MQTT_PASSWORD": os.fsdecode(CANARY.encode() + b"\xe4")},
        "MQTT_PASSWORD: must be valid UTF-8 text.",
    ),
    (
        {"CLAUDE_CODE_OAUTH_TOKEN": os.fsdecode(CANARY.encode() + b"\xe4")},
        "CLAUDE_CODE_OAUTH_TOKEN: contains invalid characters",
    ),
    ({"MQTT_USERNAME": "me\nyou"}, "MQTT_USERNAME: has line breaks"),
    ({"MQTT_USERNAME": os.fsdecode(b"p\xe4")}, "MQTT_USERNAME: must be valid UTF-8 text."),
    ({"MQTT_HOST": "[::1"}, "MQTT_HOST: the name or address alone"),
    ({"MQTT_PORT": "65536"}, "MQTT_PORT"),
    ({"MQTT_KEEPALIVE": "4"}, "MQTT_KEEPALIVE"),
    ({"POLL_INTERVAL": "179"}, "POLL_INTERVAL is below 180"),
    ({"POLL_INTERVAL": "3601"}, "POLL_INTERVAL"),
    ({"POLL_INTERVAL": "5 min"}, "POLL_INTERVAL: a whole number of seconds from 180 to 3600."),
    ({"STALE_AFTER": "299"}, "STALE_AFTER: a whole number of seconds from 300 to 86400."),
    ({"ALERT_THRESHOLDS": "0,90"}, "ALERT_THRESHOLDS"),
    ({"ALERT_THRESHOLDS": "high,low"}, "ALERT_THRESHOLDS: percentages above 0, for example 75,90."),
    ({"ALERT_THRESHOLDS": "nan"}, "ALERT_THRESHOLDS"),
    ({"MQTT_PASWORD": CANARY}, "Unknown setting MQTT_PASWORD; did you mean MQTT_PASSWORD?"),
    (
        {"MQTT_USERNAME": "me", "MQTT_PASSWORD": CANARY, "MQTT_PASSWORD_FILE": "/run/secrets/password"},
        "MQTT_PASSWORD and MQTT_PASSWORD_FILE are both set",
    ),
    ({"MQTT_PASSWORD": CANARY}, "MQTT_PASSWORD is set without MQTT_USERNAME; set MQTT_USERNAME too."),
    (
        {"MQTT_USERNAME": "me", "MQTT_PASSWORD_FILE": "/nowhere/password"},
        "MQTT_PASSWORD_FILE (/nowhere/password) does not exist",
    ),
    ({"MQTT_USERNAME": "me", "MQTT_PASSWORD_FILE": "/"}, "MQTT_PASSWORD_FILE (/) is a folder"),
    ({"MQTT_USERNAME": "me", "MQTT_PASSWORD_FILE": os.devnull}, f"MQTT_PASSWORD_FILE ({os.devnull}) is empty"),
    (
        {"CLAUDE_CODE_OAUTH_TOKEN": CANARY, "CLAUDE_CODE_OAUTH_TOKEN_FILE": "/run/secrets/token"},
        "CLAUDE_CODE_OAUTH_TOKEN and CLAUDE_CODE_OAUTH_TOKEN_FILE are both set",
    ),
    ({"CLAUDE_API_URL": "http://192.0.2.1"}, "CLAUDE_API_URL: https only"),
    ({"CLAUDE_API_URL": "http://localhost.example"}, "CLAUDE_API_URL"),
    ({"CLAUDE_API_URL": f"https://me:{CANARY}@api.anthropic.com"}, "CLAUDE_API_URL"),
    ({"CLAUDE_API_URL": "https://[::1"}, "CLAUDE_API_URL"),
    ({"MQTT_BASE_TOPIC": "claude/#"}, "MQTT_BASE_TOPIC"),
    ({"HOMEASSISTANT_PREFIX": "home assistant"}, "HOMEASSISTANT_PREFIX"),
    ({"MQTT_TLS": "true", "MQTT_TLS_CA": "/nowhere/ca.pem"}, "MQTT_TLS_CA (/nowhere/ca.pem)"),
    ({"MQTT_TLS": "true", "MQTT_TLS_CA": __file__}, f"MQTT_TLS_CA ({__file__})"),  # which holds no certificate
    ({"MQTT_TLS_CA": "/etc/ssl/ca.pem"}, "set MQTT_TLS=true"),
    ({"MQTT_TLS": "true", "MQTT_TLS_KEY": "/etc/ssl/key.pem"}, "without MQTT_TLS_CERT"),
    ({"MQTT_TLS": "maybe"}, "MQTT_TLS: true or false."),
    ({"MQTT_TRANSPORT": "pigeon"}, "MQTT_TRANSPORT: one of tcp, websockets, unix."),
    ({"MQTT_PROTOCOL": "4"}, "MQTT_PROTOCOL"),
    ({"CLAUDE_SOURCE": "cloud"}, "CLAUDE_SOURCE: a list of oauth, claude-code, statusline, reporter"),
    ({"CLAUDE_SOURCE": "auto,oauth"}, "separated by commas, or auto"),
    ({"CLAUDE_SOURCE": "oauth,,"}, "CLAUDE_SOURCE: a list of"),
    (
        {"CLAUDE_ACCOUNTS": '{"a": null, "b": "/b"}', "CLAUDE_SOURCE": "oauth"},
        "an account without a folder: add reporter to CLAUDE_SOURCE",
    ),
    ({"CLAUDE_ACCOUNTS": f"{{{CANARY}"}, "CLAUDE_ACCOUNTS"),
    ({"CLAUDE_ACCOUNTS": '["/claude"]'}, "CLAUDE_ACCOUNTS: not valid JSON of names and folders"),
    ({"CLAUDE_ACCOUNTS": '{"a": 1, "b": 2}'}, 'write {"personal": "/claude/personal"'),
    ({"CLAUDE_ACCOUNTS": "{}"}, 'write {"personal": "/claude/personal"'),
    ({"CLAUDE_ACCOUNTS": "[" * 100_000}, 'write {"personal": "/claude/personal"'),
    ({"MQTT_CLIENT_ID": "x" * 129}, "MQTT_CLIENT_ID: at most 128 characters."),
    ({"ALERT_THRESHOLDS": "1," * 21}, "ALERT_THRESHOLDS: at most 20 percentages."),
    ({"CLAUDE_ACCOUNTS": '{"My work": "/a", "my-work": "/b"}'}, "same topic"),
    ({"CLAUDE_ACCOUNTS": '{"work": "/a", "work": "/b"}'}, "same topic"),
    (
        {"CLAUDE_ACCOUNTS": '{"a": "/a", "b": "/b"}', "CLAUDE_CODE_OAUTH_TOKEN": CANARY},
        "CLAUDE_ACCOUNTS and CLAUDE_CODE_OAUTH_TOKEN",
    ),
    ({"CLAUDE_CONFIG_DIR": "~no-such-user/.claude"}, "home folder"),
    (
        {"MQTT_TLS": "true", "MQTT_TLS_CA": "~no-such-user/ca.pem"},
        "MQTT_TLS_CA: the home folder in it is not known; write the whole path.",
    ),
    (
        {"MQTT_TRANSPORT": "unix", "MQTT_HOST": "~no-such-user/socket"},
        "MQTT_HOST: the home folder in it is not known; write the whole path.",
    ),
    ({"CLAUDE_USER_AGENT": "me\nX-Other: header"}, "CLAUDE_USER_AGENT"),
]


@pytest.mark.parametrize(("environment", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_setting_is_named_in_one_line(
    empty: Path, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], said: str
) -> None:
    """A wrong setting is reported with the reason, in one line, with exit status 2, and never with a secret."""
    monkeypatch.setattr(Service, "run", lambda _: pytest.fail("this setting is not refused, and the service starts"))
    ended = call_command(empty, "run", **{"MQTT_HOST": "127.0.0.1", "MQTT_PORT": "1", **environment})
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert said in ended.stderr
    assert ended.stderr.startswith("claude-usage-mqtt: ")
    assert ended.stderr.count("\n") == 1
    assert CANARY not in ended.stderr
    assert list(empty.iterdir()) == []
    assert not re.search(r"\b([A-Z_]+: .+?\.) \1", ended.stderr), "the same is said twice"
    assert "nput should" not in ended.stderr


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """With two mistakes, one need not start it three times."""
    (tmp_path / ".env").write_text(f"MQTT_HOST=h\nMQTT_PORT=-1\nMQTT_PASWORD={CANARY}\nSTALE_AFTER=1\n")
    ended = call_command(tmp_path, "run")
    assert ended.returncode == 2
    assert all(name in ended.stderr for name in ("MQTT_PORT", "MQTT_PASWORD", "STALE_AFTER"))
    assert ended.stderr.count("\n") == 1
    assert CANARY not in ended.stderr


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    """A .env that the wrong program saved is reported with a sentence, not a traceback."""
    (tmp_path / ".env").write_bytes(b"MQTT_HOST=\xff\xfe\x00")
    ended = call_command(tmp_path, "run")
    assert ended.returncode == 2
    assert ".env" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    """A missing permission names the file and the user: in a container the user is not obvious."""
    secret = tmp_path / "password"
    secret.write_text(CANARY)
    secret.chmod(0)
    settings = {"MQTT_HOST": "h", "MQTT_USERNAME": "me", "MQTT_PASSWORD_FILE": secret}
    environment = clean_environment(tmp_path, settings)
    run = partial(subprocess.run, [*UNPRIVILEGED, *command_line("run")], cwd=tmp_path, env=environment, text=True)
    ended = run(capture_output=True, check=False)
    assert ended.returncode == 2
    assert f"MQTT_PASSWORD_FILE ({secret}) may not be read by user {os.getuid()}; allow" in ended.stderr
    secret.rename(tmp_path / ".env")
    ended = run(capture_output=True, check=False)
    assert ended.returncode == 2
    assert f"The file .env may not be read by user {os.getuid()}; let" in ended.stderr
    assert ended.stderr.count("\n") == 1


TYPOS = [
    ("MQTT_HOTS", "MQTT_HOST"),
    ("mqtt_usrname", "MQTT_USERNAME"),
    ("MQTT_BASETOPIC", "MQTT_BASE_TOPIC"),
    ("HOME_ASSISTANT_DISCOVERY", "HOMEASSISTANT_DISCOVERY"),
    ("HASS_PREFIX", "HOMEASSISTANT_PREFIX"),
    ("LOG_LEVLE", "LOG_LEVEL"),
]
OTHER_WORDS = [
    ("MQTT_BROKER", "MQTT_HOST"),
    ("MQTT_PASS", "MQTT_PASSWORD"),
    ("MQTT_TOPIC", "MQTT_BASE_TOPIC"),
    ("MQTT_USER", "MQTT_USERNAME"),
    ("CLAUDE_CONFIG_DIRECTORY", "CLAUDE_CONFIG_DIR"),
    ("CLAUDE_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
    ("CLAUDE_URL", "CLAUDE_API_URL"),
    ("POLLING_INTERVAL", "POLL_INTERVAL"),
    ("LOG_FORMATTER", "LOG_FORMAT"),
    ("MQTT_TLS_PORT", "MQTT_PORT"),
    ("MQTT_WEBSOCKETS", "MQTT_TRANSPORT"),
]


@pytest.mark.parametrize(("slip", "meant"), TYPOS)
def test_a_typo_in_a_name_is_an_error(monkeypatch: pytest.MonkeyPatch, slip: str, meant: str) -> None:
    """A name that differs from a setting's by a letter or two is a typo: it is reported, not silently ignored."""
    monkeypatch.setenv(slip, CANARY)
    with pytest.raises(SettingsError, match=f"^Unknown setting {slip.upper()}; did you mean {meant}\\?$"):
        load_settings()


@pytest.mark.parametrize(("other", "meant"), OTHER_WORDS)
def test_a_variable_that_may_be_another_programs_is_a_warning(
    empty: Path, monkeypatch: pytest.MonkeyPatch, other: str, meant: str
) -> None:
    """In a shared environment other programs have their own names for the same thing; in our file they are mistakes."""
    monkeypatch.setenv(other, CANARY)
    assert load_settings()
    [sentence] = doubts()
    assert sentence.startswith(f"{other} is not a setting of this program")
    assert meant in sentence
    assert CANARY not in sentence
    monkeypatch.delenv(other)
    (empty / ".env").write_text(f"{other}=x\n")
    with pytest.raises(SettingsError, match=f"^Unknown setting {other}; did you mean {meant}\\?$"):
        load_settings()


@pytest.mark.parametrize(("other", "meant"), TYPOS + OTHER_WORDS)
def test_next_to_the_right_name_a_typo_is_a_warning(
    empty: Path, monkeypatch: pytest.MonkeyPatch, other: str, meant: str
) -> None:
    """If the right name is set too, a typo is reported and stops nothing; what may be another program's is not."""
    monkeypatch.setenv("MQTT_USERNAME", "me")
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    monkeypatch.setenv(meant, next(value for _, name, value in entries() if name == meant))
    monkeypatch.setenv(other, CANARY)
    warned = [f"Unknown setting {other.upper()} is ignored; {meant} is set too."] if (other, meant) in TYPOS else []
    assert load_settings()
    assert doubts() == warned
    monkeypatch.delenv(other)
    (empty / ".env").write_text(f"{other}=x\n")
    assert load_settings()
    assert doubts() == warned
    (empty / ".env").unlink()
    monkeypatch.setenv(other, "")
    for name in (meant, "MQTT_USERNAME", "MQTT_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    assert load_settings()
    assert doubts() == []


def test_an_error_does_not_hide_the_variable_that_caused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """MQTT_USER is named next to the error about the missing user, not only once that is fixed."""
    monkeypatch.setenv("MQTT_USER", "me")
    monkeypatch.setenv("MQTT_PASSWORD", CANARY)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    without, hint = "MQTT_PASSWORD is set without MQTT_USERNAME", "MQTT_USER is not a setting of this program"
    assert str(caught.value).index(without) < str(caught.value).index(hint)
    assert CANARY not in str(caught.value)
    monkeypatch.delenv("MQTT_PASSWORD")
    monkeypatch.setenv("MQTT_BROKER", "broker")
    with pytest.raises(
        SettingsError, match=r"^MQTT_HOST is not set; .* \(MQTT_BROKER: not a setting of this program\)\.$"
    ):
        load_settings().broker()


def test_a_name_without_a_password_is_suspected(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that got lost is reported before the broker refuses the login; a certificate needs none."""
    for name in ("MQTT_PASSWORD", "MQTT_PASSWORD_FILE"):
        (empty / ".env").write_text(f"MQTT_USERNAME=me\n{name}=\n")
        assert doubts() == [
            "MQTT_USERNAME is set without MQTT_PASSWORD; most brokers refuse a login without a password."
        ]
        (empty / ".env").write_text(f"MQTT_USERNAME=me\n{name}=x\n")
        assert doubts() == []
    (empty / ".env").unlink()
    monkeypatch.setenv("MQTT_USERNAME", "me")
    monkeypatch.setenv("MQTT_TLS_CERT", "/etc/ssl/me.pem")
    assert doubts() == []


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="TZ means something else on Windows")
def test_a_time_zone_that_the_system_does_not_know_is_reported(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a typo in TZ the C library silently uses UTC: that is reported, a valid name is not."""
    for name in ("Europe/Berlin", ":Europe/Berlin", "UTC", "CET-1CEST,M3.5.0,M10.5.0/3", "<+03>-3", "EST5EDT"):
        monkeypatch.setenv("TZ", name)
        assert doubts() == [], name
    for name in ("Europe/Berln", "Berlin", "Europe", "CEST", "UTC+"):
        monkeypatch.setenv("TZ", name)
        assert doubts() == [
            "TZ is not a time zone that this system knows, so times are in UTC; a name looks like Europe/Berlin."
        ]
    monkeypatch.delenv("TZ")
    (empty / ".env").write_text("TZ=Europe/Berlin\n")
    assert doubts() == ["TZ in .env has no effect; set it in the environment."]


FOREIGN = """
    CLAUDECODE CLAUDE_CODE_ENTRYPOINT CLAUDE_CODE_OAUTH_SCOPES CLAUDE_CODE_OAUTH_REFRESH_TOKEN CLAUDE_CODE_USER_AGENT
    CLAUDE_CODE_API_BASE_URL CLAUDE_CODE_MAX_OUTPUT_TOKENS CLAUDE_CODE_OAUTH_CLIENT_ID CLAUDE_PROJECT_DIR
    CLAUDE_ENV_FILE CLAUDE_PLUGIN_ROOT CLAUDE_AGENT_SDK_VERSION CLAUDE_API_KEY CLAUDE_BASH_NO_LOGIN
    ANTHROPIC_API_KEY ANTHROPIC_BASE_URL HASS_SERVER HASS_TOKEN HASS_URL HOMEASSISTANT_URL HOMEASSISTANT_TOKEN
    HOME_ASSISTANT_URL LOG_FILE LOG_DIR LOGNAME LOGLEVEL ALERTMANAGER_URL MQTT_QOS MQTT_VERSION HOSTNAME USER
"""


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started from within Claude Code, or next to other programs, their variables are not errors."""
    for name in FOREIGN.split():
        monkeypatch.setenv(name, "x")
    assert load_settings()
    assert doubts() == []
    assert list(misspelled([*FOREIGN.split(), *variables()], variables())) == []


@pytest.mark.parametrize("host", ["broker", "my_broker-2.local.", "bröker", "192.0.2.1", "::1", "fe80::1%eth0"])
def test_a_name_or_address_of_any_kind(host: str) -> None:
    """An IPv6 address has colons, and is not a host with a port."""
    assert Settings(mqtt_host=host).broker().host == host


PATHS = sorted(name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation))


@pytest.mark.parametrize("name", PATHS)
def test_a_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No shell expands `~` in a .env file, in compose or in a quoted value."""
    monkeypatch.setenv("HOME", "/home/me")
    assert getattr(Settings(**{name: "~/file"}, **NEEDED.get(name, {})), name) == Path("/home/me/file")


NEEDED: dict[str, dict[str, Any]] = {
    "mqtt_password_file": {"mqtt_username": "me"},
    "mqtt_tls_ca": {"mqtt_tls": True},
    "mqtt_tls_cert": {"mqtt_tls": True},
    "mqtt_tls_key": {"mqtt_tls": True, "mqtt_tls_cert": "/cert.pem"},
}


def test_a_socket_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `unix` the host is a path like any other, and may have a colon."""
    monkeypatch.setenv("HOME", "/home/me")
    assert Settings(mqtt_transport="unix", mqtt_host="~/a:1/socket").broker().host == "/home/me/a:1/socket"


@pytest.mark.parametrize("sources", ["reporter", "reporter,statusline", "statusline"])
@pytest.mark.parametrize(
    "login",
    [{"CLAUDE_CONFIG_DIR": "~no-such-user/.claude"}, {"CLAUDE_ACCOUNTS": '{"work": "~no-such-user/.claude"}'}],
    ids=["single", "named"],
)
def test_without_a_local_source_no_home_is_needed(
    monkeypatch: pytest.MonkeyPatch, sources: str, login: dict[str, str]
) -> None:
    """A publisher that only receives starts as a user without a home, whatever folders are configured."""
    monkeypatch.setenv("CLAUDE_SOURCE", sources)
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    assert [account.login for account in load_settings().accounts()] == [None]
    monkeypatch.setenv("CLAUDE_SOURCE", "auto")
    with pytest.raises(SettingsError, match="home folder"):
        load_settings().accounts()
    assert len(load_settings().accounts(with_logins=False)) == 1


@pytest.mark.parametrize(
    ("given", "selected"),
    [
        ("auto", ("oauth", "reporter", "statusline")),
        ("both", ("oauth", "statusline")),
        (" Claude-Code , oauth,claude-code", ("claude_code", "oauth")),
        ("reporter,statusline", ("reporter", "statusline")),
        ("", ("oauth", "reporter", "statusline")),
    ],
)
def test_sources_are_a_list(monkeypatch: pytest.MonkeyPatch, given: str, selected: tuple[str, ...]) -> None:
    """The sources are asked in the order in which they are written; version 1's `both` means what it meant."""
    monkeypatch.setenv("CLAUDE_SOURCE", given)
    assert load_settings().sources == selected


def test_thresholds_with_their_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds may have a percent sign."""
    monkeypatch.setenv("ALERT_THRESHOLDS", "75%, 90 %")
    assert load_settings().alert_thresholds == (75, 90)


# Variables as people might write them, with the right names often enough to reach later checks
NAMES = st.sampled_from(variables()) | st.from_regex(r"(MQTT|CLAUDE|HOMEASSISTANT|LOG)_[A-Z_]{0,12}", fullmatch=True)
VALUES = (
    st.text(max_size=30)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(["true", "unix", "both", "3.1.1", "~x/y", "{}", "[1]", '{"a": "/a"}', "http://[::1]:1", "h"])
)
LINES = st.tuples(NAMES, VALUES).map("=".join) | st.text(max_size=60)


@given(lines=st.lists(LINES, max_size=8))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_gives_at_most_a_settings_error(empty: Path, lines: list[str]) -> None:
    """Whatever is in .env, the program starts or says what is wrong; it never shows a traceback."""
    (empty / ".env").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    with contextlib.suppress(SettingsError):
        found = load_settings()
        found.accounts()
        require_readable(found.broker())


# The example file

Entry = tuple[str, str, str]


def entries() -> list[Entry]:
    """Return comment, name and value of each setting in the example file."""
    return re.findall(r"^# (.+)\n#([A-Z0-9_]+)=(.*)$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_example_file_has_every_setting_once_and_no_other() -> None:
    """The example file shows everything that can be set, and nothing that does not exist."""
    assert sorted(name for _, name, _ in entries()) == sorted(variables())
    assigned = re.findall(r"^#?\s*([A-Za-z_][A-Za-z0-9_]*)=", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(assigned) == sorted(variables())


@pytest.mark.parametrize(("comment", "name", "value"), entries(), ids=[name for _, name, _ in entries()])
def test_the_example_file_shows_the_defaults(
    monkeypatch: pytest.MonkeyPatch, comment: str, name: str, value: str
) -> None:
    """The value next to a setting is its default, unless the line says that it has no default."""
    default = getattr(Settings(), name.lower())
    plain = {
        "MQTT_PORT": "1883",
        "CLAUDE_CONFIG_DIR": "~/.claude",
        "CLAUDE_USER_AGENT": "claude-usage-mqtt/<version>",
        "HOMEASSISTANT_STATUS_TOPIC": Settings().status_topic,
    }
    if name in plain:
        assert value == plain[name]
    elif NO_DEFAULT in comment:
        assert default is None
    else:
        monkeypatch.setenv(name, value)
        assert getattr(Settings(), name.lower()) == default


def test_the_example_file_works_as_it_is(empty: Path) -> None:
    """A copy with only the broker uncommented starts with every default."""
    text = EXAMPLE.read_text(encoding="utf-8")
    (empty / ".env").write_text(text.replace("#MQTT_HOST=", "MQTT_HOST="), encoding="utf-8")
    found = load_settings()
    assert found.mqtt_host == "192.168.1.10"
    assert found == Settings(mqtt_host="192.168.1.10")
