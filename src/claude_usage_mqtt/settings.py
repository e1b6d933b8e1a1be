"""The settings: environment, `.env` file, `…_FILE` twins of secrets. The only import of pydantic."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from claude_usage_mqtt import __version__
from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.mqtt.options import BrokerOptions, Protocol, Transport
from claude_usage_mqtt.sources.address import API_URL, checked_url, is_loopback
from claude_usage_mqtt.sources.credentials import CredentialSource, GivenToken, find_source
from claude_usage_mqtt.usage.parse import slug

ENV_FILE = ".env"
DEFAULT_ACCOUNT = "default"
RESERVED_ACCOUNTS = frozenset({"all", "default"})
NOT_ACCOUNTS = 'not valid JSON; write {"personal": "/claude/personal", "work": "/claude/work"}'
LARGEST_SECRET = 64 * 1024
OUR_PREFIXES = ("MQTT", "HOMEASSISTANT", "CLAUDE_", "POLL", "STALE", "ALERT", "USAGE_L", "LOG_")
MISSPELT = 0.8
"""How alike (0 to 1) a variable must be to one of ours to be taken for a slip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One configured account: its id (a slug), the label a person gave it, where its credentials are."""

    id: str
    label: str | None
    credentials: CredentialSource


class Settings(BaseSettings):
    """Every setting; the variable's name is the field's in capitals."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    mqtt_host: str | None = Field(None, description="The broker's name or address; a path with `unix`.")
    mqtt_port: int | None = Field(None, ge=1, le=65535, description="The broker's port: 1883, or 8883 with TLS.")
    mqtt_username: str | None = Field(None, description="Login name at the broker.")
    mqtt_password: SecretStr | None = Field(None, description="Password at the broker.")
    mqtt_password_file: Path | None = Field(None, description="A file that holds the password.")
    mqtt_tls: bool = Field(False, description="Encrypt; certificates are always verified.")  # noqa: FBT003
    mqtt_tls_ca: Path | None = Field(None, description="Certificates of your own authority, PEM.")
    mqtt_tls_cert: Path | None = Field(None, description="Our certificate, where the broker wants one, PEM.")
    mqtt_tls_key: Path | None = Field(None, description="The key of our certificate, PEM, unencrypted.")
    mqtt_transport: Transport = Field("tcp", description="`tcp`, `websockets` or `unix`.")
    mqtt_protocol: Protocol = Field("auto", description="`5`, `3.1.1`, or `auto`: 5 first, then 3.1.1.")
    mqtt_client_id: str | None = Field(None, max_length=128, description="Our id at the broker; unique if not set.")
    mqtt_keepalive: int = Field(60, ge=5, le=3600, description="Seconds until a silent connection counts as dead.")
    mqtt_base_topic: str = Field("claude-usage", max_length=128, description="Where our topics begin.")
    homeassistant_discovery: bool = Field(True, description="Announce entities to Home Assistant.")  # noqa: FBT003
    homeassistant_prefix: str = Field("homeassistant", max_length=128, description="Its discovery prefix.")
    homeassistant_status_topic: str | None = Field(
        None, max_length=128, description="Where its birth message appears: `<prefix>/status`."
    )
    claude_config_dir: str | None = Field(
        None, description="Claude Code's folder, with `.credentials.json`: `~/.claude`."
    )
    claude_code_oauth_token: SecretStr | None = Field(None, description="A token, instead of the folder.")
    claude_code_oauth_token_file: Path | None = Field(None, description="A file that holds the token.")
    claude_accounts: dict[str, str] | None = Field(
        None, min_length=1, max_length=500, description='Several accounts: `{"personal": "/claude/personal", …}`.'
    )
    claude_source: Literal["oauth", "statusline", "both"] = Field(
        "oauth", description="Where the numbers come from: `oauth`, `statusline` or `both`."
    )
    claude_api_url: str = Field(API_URL, description="https, or http on loopback.")
    claude_user_agent: str = Field(
        f"claude-usage-mqtt/{__version__}", max_length=200, description="How we introduce ourselves to the API."
    )
    poll_interval: int = Field(300, ge=1, le=3600, description="Seconds between polls, 180 to 3600.")
    stale_after: int = Field(3600, ge=300, le=86400, description="Seconds without an answer until numbers are stale.")
    alert_thresholds: Annotated[tuple[float, ...], NoDecode] = Field(
        (75.0, 90.0), max_length=20, description="Percent at which an event fires, separated by commas."
    )
    usage_log: Path | None = Field(None, description="A file that gets one JSON line per successful poll.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged.")
    log_format: Literal["text", "json"] = Field("text", description="`text` or `json`, one object a line.")

    @field_validator("mqtt_protocol", "mqtt_transport", "claude_source", "log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("mqtt_base_topic", "homeassistant_prefix", "homeassistant_status_topic")
    @classmethod
    def _plain_topic(cls, value: str | None) -> str | None:
        if value is None or re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", value):
            return value
        raise ValueError(
            "a topic is made of letters, digits, - and _, with single / between: no wildcard, dot or space"
        )

    @field_validator("claude_api_url")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        return checked_url(value)

    @field_validator("claude_user_agent")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not re.fullmatch(r"[!-~][ -~]*", value):
            raise ValueError("plain ASCII text only")
        return value

    @field_validator("alert_thresholds", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("alert_thresholds")
    @classmethod
    def _percentages(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < threshold <= 1000 for threshold in value):
            raise ValueError("percentages above 0, for example 75,90")
        return tuple(sorted(set(value)))

    @field_validator("claude_accounts")
    @classmethod
    def _distinct(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        slugs: dict[str, str] = {}
        for name, folder in (value or {}).items():
            identifier = slug(name)
            if not identifier or identifier in RESERVED_ACCOUNTS:
                raise ValueError("each account's id needs letters or digits, and may not be 'all' or 'default'")
            if identifier in slugs:
                raise ValueError("two account ids become the same topic; make them differ in letters or digits")
            if not folder.strip():
                raise ValueError("each account needs the folder of its credentials")
            slugs[identifier] = folder
        return value

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.mqtt_password is not None and self.mqtt_password_file is not None:
            raise ValueError("MQTT_PASSWORD and MQTT_PASSWORD_FILE are both set; keep one")
        if self.claude_code_oauth_token is not None and self.claude_code_oauth_token_file is not None:
            raise ValueError("CLAUDE_CODE_OAUTH_TOKEN and CLAUDE_CODE_OAUTH_TOKEN_FILE are both set; keep one")
        if self.claude_accounts and (self.claude_code_oauth_token or self.claude_code_oauth_token_file):
            raise ValueError("CLAUDE_ACCOUNTS and CLAUDE_CODE_OAUTH_TOKEN are both set; keep one")
        if (self.mqtt_password or self.mqtt_password_file) and self.mqtt_username is None:
            raise ValueError("MQTT_PASSWORD is set without MQTT_USERNAME")
        if self.mqtt_tls_key is not None and self.mqtt_tls_cert is None:
            raise ValueError("MQTT_TLS_KEY is set without MQTT_TLS_CERT")
        if (self.mqtt_tls_ca or self.mqtt_tls_cert) and not self.mqtt_tls:
            raise ValueError("MQTT_TLS_CA or MQTT_TLS_CERT is set but MQTT_TLS is not; set MQTT_TLS=true")
        if self.mqtt_tls and self.mqtt_transport == "unix":
            raise ValueError("MQTT_TLS makes no sense with MQTT_TRANSPORT=unix; unset one")
        if self.poll_interval < 180 and not self.api_is_local:
            raise ValueError("POLL_INTERVAL is below 180: asked more often, the API shuts the account out")
        return self

    @property
    def api_is_local(self) -> bool:
        """Whether the API is one on loopback (tests, the demo): then neither floor nor budget apply."""
        return is_loopback(self.claude_api_url)

    @property
    def needs_credentials(self) -> bool:
        """Whether any account is asked for over the API."""
        return self.claude_source != "statusline"

    @property
    def status_topic(self) -> str:
        """Where Home Assistant's birth message appears."""
        return self.homeassistant_status_topic or f"{self.homeassistant_prefix}/status"

    @property
    def interval(self) -> timedelta:
        """The poll interval."""
        return timedelta(seconds=self.poll_interval)

    def accounts(self) -> tuple[Account, ...]:
        """Return the configured accounts; a single one is called `default`."""
        if self.claude_accounts is None:
            return (Account(id=DEFAULT_ACCOUNT, label=None, credentials=self._single_source()),)
        alone = len(self.claude_accounts) == 1
        return tuple(
            Account(
                id=DEFAULT_ACCOUNT if alone else slug(name),
                label=None if alone else name,
                credentials=find_source(_folder(folder), is_default_folder=False),
            )
            for name, folder in self.claude_accounts.items()
        )

    def _single_source(self) -> CredentialSource:
        if self.claude_code_oauth_token is not None:
            return GivenToken(self.claude_code_oauth_token.get_secret_value())
        if self.claude_code_oauth_token_file is not None:
            return GivenToken(file=self.claude_code_oauth_token_file)
        folder = self.claude_config_dir
        return find_source(_folder(folder or "~/.claude"), is_default_folder=folder is None)

    def broker(self) -> BrokerOptions:
        """Return how to reach the broker; raises SettingsError where none is named, or a secret's file fails."""
        if self.mqtt_host is None:
            raise SettingsError("MQTT_HOST is not set; set it to the name or address of your MQTT broker.")
        password = self.mqtt_password.get_secret_value() if self.mqtt_password else None
        if self.mqtt_password_file is not None:
            password = _read_secret(self.mqtt_password_file, "MQTT_PASSWORD_FILE")
        return BrokerOptions(
            host=self.mqtt_host,
            port=self.mqtt_port or (8883 if self.mqtt_tls else 1883),
            username=self.mqtt_username,
            password=password,
            tls=self.mqtt_tls,
            tls_ca=_text(self.mqtt_tls_ca),
            tls_cert=_text(self.mqtt_tls_cert),
            tls_key=_text(self.mqtt_tls_key),
            transport=self.mqtt_transport,
            protocol=self.mqtt_protocol,
            client_id=self.mqtt_client_id or "",
            keepalive=self.mqtt_keepalive,
        )


def load_settings() -> Settings:
    """Return the settings; raises SettingsError with one sentence per mistake, and no secret in it."""
    mistakes = list(_misspelt(set(os.environ)))
    try:
        settings = Settings()
    except ValidationError as error:
        mistakes += [
            _describe(detail["loc"], detail["msg"]) for detail in error.errors(include_input=False, include_url=False)
        ]
    except (ValueError, OSError):
        # pydantic-settings' own: a variable that should be JSON is not, or .env is no readable text
        mistakes.append(_describe_source())
    else:
        if not mistakes:
            return settings
    raise SettingsError(" ".join(mistakes))


def _describe(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ").rstrip(".")
    name = str(location[0]).upper() if location else ""
    if name == "CLAUDE_ACCOUNTS" and "JSON" not in message and "dictionary" in message:
        message = NOT_ACCOUNTS
    return f"{name}: {message}." if name else f"{message}."


def _describe_source() -> str:
    try:
        dotenv_values(ENV_FILE)
    except (OSError, ValueError):
        return f"The file {ENV_FILE} cannot be read as text; correct or remove it."
    return f"CLAUDE_ACCOUNTS: {NOT_ACCOUNTS}."


def variables() -> tuple[str, ...]:
    """Return the names of all variables."""
    return tuple(name.upper() for name in Settings.model_fields)


def _misspelt(names: set[str]) -> Iterator[str]:
    """Yield a sentence for each variable that looks like one of ours, where ours is not set."""
    with contextlib.suppress(OSError, ValueError):
        names = names | set(dotenv_values(ENV_FILE))
    suspects = [name for name in sorted(names - set(variables())) if name.startswith(OUR_PREFIXES)]
    if not suspects:
        return
    import difflib  # noqa: PLC0415 - rarely needed, and start-up time counts

    missing = [name for name in variables() if name not in names]
    for name in suspects:
        # Claude Code has many variables of its own; only a slip in the one we share counts there
        cutoff = 0.93 if name.startswith("CLAUDE_CODE") else MISSPELT
        near = difflib.get_close_matches(name, missing, n=1, cutoff=cutoff)
        if near:
            yield f"{name} is no setting; did you mean {near[0]}?"


def _folder(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise SettingsError(f"The home folder in {text} is not known; write the whole path.") from None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _read_secret(path: Path, setting: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_SECRET)
        return content.decode().rstrip("\r\n")
    except (OSError, ValueError):
        raise SettingsError(f"{setting} ({path}) cannot be read as text; check path and permissions.") from None
