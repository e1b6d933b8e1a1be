"""Every setting, and what the settings mean for the connection to the broker and for the accounts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from claude_usage_mqtt import __version__
from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.mqtt.options import BrokerOptions, Protocol, Transport
from claude_usage_mqtt.settings import values
from claude_usage_mqtt.settings.env_file import environment
from claude_usage_mqtt.settings.machine import machine_name
from claude_usage_mqtt.settings.typos import misspelled
from claude_usage_mqtt.sources.api.url import API_URL, checked_url, is_loopback
from claude_usage_mqtt.sources.credentials.file import GivenToken
from claude_usage_mqtt.sources.local_login import SECURE_STORAGE_DIR, LocalLogin, local_login
from claude_usage_mqtt.sources.names import AUTO, LOCAL, SOURCES, parse_source, selected_sources
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, LONGEST_INTERVAL, SHORTEST_INTERVAL, Topics
from claude_usage_mqtt.untrusted import slug
from claude_usage_mqtt.usage.reading import REPORTER, STATUSLINE

Seconds = Annotated[int, values.Shape(unit="seconds")]
Interval = Annotated[
    int, values.Shape(words=f"a whole number of seconds from {SHORTEST_INTERVAL} to {LONGEST_INTERVAL}")
]
Port = Annotated[int | None, BeforeValidator(values.port)]
Level = Literal["debug", "info", "warning", "error"]
T = TypeVar("T")
Lower = Annotated[T, BeforeValidator(str.lower)]
Percentages = Annotated[
    tuple[float, ...],
    NoDecode,
    values.Shape(unit="percentages", words=values.THRESHOLDS),
    BeforeValidator(values.split),
    AfterValidator(values.percentages),
]
Accounts = Annotated[
    dict[str, str | None] | None,
    NoDecode,
    values.Shape(unit="accounts", words=values.ACCOUNTS),
    BeforeValidator(values.parse_accounts),
    AfterValidator(values.distinct_accounts),
]
Topic = Annotated[
    str,
    values.matching(
        r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*",
        "a topic is made of letters, digits, - and _, with single / between: no wildcard, dot or space",
    ),
]
UrlPath = Annotated[str, values.matching(r"/[!-~]*", "a path that begins with /, without spaces, for example /mqtt")]
Header = Annotated[str, values.matching(r"[!-~][ -~]*", "plain ASCII text only")]
Line = Annotated[str, AfterValidator(values.line)]
File = Annotated[Path, AfterValidator(values.expanded)]


class Account(NamedTuple):
    """One configured account: its id (a slug), the label a person gave it, its login.

    `login` is None if it is not on this machine: reporters or status lines supply it.
    """

    id: str
    label: str | None
    login: LocalLogin | None


class Settings(BaseSettings):
    """Every setting; the variable's name is the field's in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    mqtt_host: str | None = Field(None, description="The broker's name or address; a path with `unix`.")
    mqtt_port: Port = Field(None, ge=1, le=65535, description="The broker's port; 8883 with TLS, else 1883.")
    mqtt_username: Line | None = Field(None, description="Login name at the broker.")
    mqtt_password: SecretStr | None = Field(None, description="Password at the broker.")
    mqtt_password_file: File | None = Field(None, description="A file that contains the password.")
    mqtt_tls: bool = Field(False, description="Encrypt; certificates are always verified.")  # noqa: FBT003
    mqtt_tls_ca: File | None = Field(None, description="Certificates of your own authority, PEM.")
    mqtt_tls_cert: File | None = Field(None, description="Our certificate, if the broker requires one, PEM.")
    mqtt_tls_key: File | None = Field(None, description="The key of our certificate, PEM, unencrypted.")
    mqtt_transport: Lower[Transport] = Field("tcp", description="`tcp`, `websockets` or `unix`.")
    mqtt_websocket_path: UrlPath = Field("/mqtt", max_length=256, description="The path of a WebSocket connection.")
    mqtt_protocol: Lower[Protocol] = Field("auto", description="`5`, `3.1.1`, or `auto`: 5 first, then 3.1.1.")
    mqtt_client_id: Line | None = Field(None, max_length=128, description="Client id at the broker; unique if not set.")
    mqtt_keepalive: Seconds = Field(60, ge=5, le=3600, description="Seconds until a silent connection counts as dead.")
    mqtt_base_topic: Topic = Field("claude-usage", max_length=128, description="The first levels of our topics.")
    homeassistant_discovery: bool = Field(True, description="Announce entities to Home Assistant.")  # noqa: FBT003
    homeassistant_prefix: Topic = Field(
        "homeassistant", max_length=128, description="Home Assistant's discovery prefix."
    )
    homeassistant_status_topic: Topic | None = Field(
        None, max_length=128, description="The topic of its birth message; `<prefix>/status` if not set."
    )
    claude_config_dir: str | None = Field(
        None, description="Claude Code's folder, with `.credentials.json`; `~/.claude` if not set."
    )
    claude_securestorage_config_dir: str | None = Field(
        None, description="Claude Code's own variable: the folder of `.credentials.json`, if it is a different one."
    )
    claude_code_oauth_token: SecretStr | None = Field(None, description="A token, instead of the folder.")
    claude_code_oauth_token_file: File | None = Field(None, description="A file that contains the token.")
    claude_accounts: Accounts = Field(
        None,
        min_length=1,
        max_length=500,
        description='Several accounts and their folders: `{"personal": "/claude/personal", …}`. Naming the one that '
        "had no name makes a new device with new entity ids; the history stays with the old ones.",
    )
    claude_source: Annotated[str, AfterValidator(parse_source)] = Field(
        AUTO,
        max_length=200,
        description=f"A list of {', '.join(f'`{name}`' for name in SOURCES)}, or `auto`: whatever is available.",
    )
    claude_code_command: Line | None = Field(
        None, description="Claude Code's executable; if set, it also renews a token that has expired."
    )
    machine_name: str | None = Field(
        None,
        max_length=100,
        description="The name of a reporter; also how a service is recognized after its container was re-created; "
        "the host name if not set; required for a reporter in a container.",
    )
    claude_api_url: Annotated[str, AfterValidator(checked_url)] = Field(
        API_URL, description="https, or http on loopback (for tests; no request limit applies there)."
    )
    claude_user_agent: Header = Field(
        f"claude-usage-mqtt/{__version__}", max_length=200, description="The User-Agent sent to the API."
    )
    poll_interval: Interval = Field(300, ge=1, le=LONGEST_INTERVAL, description="Seconds between polls, 180 to 3600.")
    stale_after: Seconds = Field(
        3600,
        ge=300,
        le=86400,
        description="Seconds without a response until numbers are stale; at least 2.2 poll intervals.",
    )
    alert_thresholds: Percentages = Field(
        (75.0, 90.0), max_length=20, description="Percent at which an event fires, separated by commas."
    )
    extra_usage_thresholds: Percentages = Field(
        (75.0, 90.0), max_length=20, description="The same for extra usage, in percent of its limit."
    )
    usage_log: File | None = Field(None, description="A file that gets one JSON line per successful poll.")
    log_level: Lower[Level] = Field("info", description="How much is logged.")
    log_format: Lower[Literal["text", "json"]] = Field("text", description="`text` or `json`, one object per line.")

    @field_validator("*", mode="before")
    @classmethod
    def _clean(cls, value: object, info: ValidationInfo) -> object:
        match info.field_name:
            case "mqtt_password":
                return values.password(value)
            case "claude_code_oauth_token":
                return values.token(value)
            case _:
                return values.plain(value)

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.mqtt_password is not None and self.mqtt_password_file is not None:
            raise ValueError("MQTT_PASSWORD and MQTT_PASSWORD_FILE are both set; keep one")
        if self.claude_code_oauth_token is not None and self.claude_code_oauth_token_file is not None:
            raise ValueError("CLAUDE_CODE_OAUTH_TOKEN and CLAUDE_CODE_OAUTH_TOKEN_FILE are both set; keep one")
        if self.claude_accounts and (self.claude_code_oauth_token or self.claude_code_oauth_token_file):
            raise ValueError("CLAUDE_ACCOUNTS and CLAUDE_CODE_OAUTH_TOKEN are both set; keep one")
        if (self.mqtt_password or self.mqtt_password_file) and self.mqtt_username is None:
            given = "MQTT_PASSWORD" if self.mqtt_password else "MQTT_PASSWORD_FILE"
            raise ValueError(f"{given} is set without MQTT_USERNAME; set MQTT_USERNAME too")
        if self.mqtt_host is not None:
            self._host(self.mqtt_host)
        if self.mqtt_tls_key is not None and self.mqtt_tls_cert is None:
            raise ValueError("MQTT_TLS_KEY is set without MQTT_TLS_CERT; set MQTT_TLS_CERT too")
        if (self.mqtt_tls_ca or self.mqtt_tls_cert) and not self.mqtt_tls:
            raise ValueError("MQTT_TLS_CA or MQTT_TLS_CERT is set but MQTT_TLS is not; set MQTT_TLS=true")
        if self.mqtt_tls and self.mqtt_transport == "unix":
            raise ValueError("MQTT_TLS makes no sense with MQTT_TRANSPORT=unix; unset one")
        if self.poll_interval < SHORTEST_INTERVAL and not self.api_is_local:
            raise ValueError("POLL_INTERVAL is below 180: asked more often, the API blocks the account; set 180")
        return self

    @model_validator(mode="after")
    def _has_a_source(self) -> Settings:
        if None in (self.claude_accounts or {}).values() and not {REPORTER, STATUSLINE} & set(self.sources):
            raise ValueError("CLAUDE_ACCOUNTS has an account without a folder: add reporter to CLAUDE_SOURCE")
        return self

    @property
    def api_is_local(self) -> bool:
        """Whether the API is on loopback (tests, the demo): then neither floor nor budget applies."""
        return is_loopback(self.claude_api_url)

    @property
    def status_topic(self) -> str:
        """Where Home Assistant's birth message appears."""
        return self.homeassistant_status_topic or f"{self.homeassistant_prefix}/status"

    @property
    def sources(self) -> tuple[str, ...]:
        """The selected sources, the preferred one first."""
        return selected_sources(self.claude_source)

    def topics(self, account: str) -> Topics:
        """Return the topics of an account."""
        return Topics(base=self.mqtt_base_topic, account=account, prefix=self.homeassistant_prefix)

    def machine(self) -> str:
        """Return the name of this machine in topics; raises SettingsError if it has none."""
        return machine_name(self.machine_name)

    def accounts(self, *, with_logins: bool | None = None) -> tuple[Account, ...]:
        """Return the configured accounts, a single one called `default`; raises SettingsError for a folder.

        Their logins are located only if needed: by default, if a selected source is local.
        """
        if with_logins is None:
            with_logins = bool(LOCAL & set(self.sources))
        if self.claude_accounts is not None:
            folders = self.claude_accounts if with_logins else dict.fromkeys(self.claude_accounts)
            # Each names the folder of its secrets: Claude Code's own variables name one, and cannot mean all of them.
            logins = {
                name: None if folder is None else local_login(folder, setting="CLAUDE_ACCOUNTS")
                for name, folder in folders.items()
            }
            return tuple(Account(id=slug(name), label=name, login=login) for name, login in logins.items())
        if not with_logins:
            return (Account(id=DEFAULT_ACCOUNT, label=None, login=None),)
        # An empty variable is not a setting, except this one: there it means the default folder.
        secrets = os.environ.get(SECURE_STORAGE_DIR, self.claude_securestorage_config_dir)
        login = local_login(self.claude_config_dir, secrets)
        token, file = self.claude_code_oauth_token, self.claude_code_oauth_token_file
        if token is not None or file is not None:
            text = "" if token is None else token.get_secret_value()
            login = replace(login, credentials=GivenToken(text, file=file, hidden=login.credentials))
        return (Account(id=DEFAULT_ACCOUNT, label=None, login=login),)

    def _host(self, given: str) -> str:
        """Return a name, an address or a path as it is used; raises ValueError."""
        try:
            return str(values.expanded(Path(given))) if self.mqtt_transport == "unix" else values.host(given)
        except ValueError as error:
            raise ValueError(f"MQTT_HOST: {error}") from None

    def broker(self) -> BrokerOptions:
        """Return how to reach the broker; raises SettingsError if none is named."""
        if self.mqtt_host is None:
            slips = [found.name for found in misspelled(environment(), variables()) if found.meant == "MQTT_HOST"]
            hint = f" ({', '.join(slips)}: not a setting of this program)" if slips else ""
            raise SettingsError(f"MQTT_HOST is not set; set it to the name or address of your MQTT broker{hint}.")
        return BrokerOptions(
            host=self._host(self.mqtt_host),
            port=self.mqtt_port or (8883 if self.mqtt_tls else 1883),
            username=self.mqtt_username,
            password=self.mqtt_password.get_secret_value() if self.mqtt_password else None,
            password_file=self.mqtt_password_file,
            tls=self.mqtt_tls,
            tls_ca=self.mqtt_tls_ca,
            tls_cert=self.mqtt_tls_cert,
            tls_key=self.mqtt_tls_key,
            transport=self.mqtt_transport,
            websocket_path=self.mqtt_websocket_path,
            protocol=self.mqtt_protocol,
            client_id=self.mqtt_client_id or "",
            keepalive=self.mqtt_keepalive,
        )


def variables() -> tuple[str, ...]:
    """Return the names of all variables."""
    return tuple(name.upper() for name in Settings.model_fields)
