"""Where the settings come from: the environment, the `.env` file, and sentences about mistakes in both.

pydantic reads the environment only; the `.env` file is read by us, so that every line of it counts or is reported.
"""

from __future__ import annotations

from pydantic import ValidationError

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.settings.env_file import EnvFile, environment, mixed_origins, read_env_file
from claude_usage_mqtt.settings.fields import Settings, variables
from claude_usage_mqtt.settings.hints import hints
from claude_usage_mqtt.settings.typos import expected, misspelled


def load_settings(*, with_env_file: bool = True) -> Settings:
    """Return the settings; raises SettingsError with one sentence per mistake, and no secret in it."""
    file = read_env_file(variables()) if with_env_file else EnvFile()
    outside = environment()
    given = {name: value for name, value in file.values.items() if value and name not in outside}
    known = {name.lower(): value for name, value in given.items() if name in variables()}
    mistakes = [*file.mistakes, *mixed_origins(file, outside)]
    mistakes += [
        f"Unknown setting {found.name}; did you mean {found.meant}?"
        for found in misspelled(outside | given, variables())
        if not found.is_set and (found.is_typo or found.name in given)
    ]
    try:
        settings = Settings(**known)  # type: ignore[arg-type]
    except ValidationError as error:
        mistakes += [
            _describe(detail["loc"], detail["type"], detail["msg"])
            for detail in error.errors(include_input=False, include_url=False)
        ]
    else:
        if not mistakes:
            return settings
    raise SettingsError(" ".join(dict.fromkeys([*mistakes, *hints(outside, given, variables())])))


def doubts() -> list[str]:
    """Return a sentence for each variable that may be a mistake but is not an error."""
    file = {name: value for name, value in read_env_file(variables()).values.items() if value}
    return list(hints(environment(), file, variables()))


def _describe(location: tuple[int | str, ...], kind: str, message: str) -> str:
    """Return our sentence for an error of pydantic, whose own words are for programmers."""
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
    if not location:
        return f"{message}."
    name = str(location[0])
    if kind != "value_error":
        field = Settings.model_fields[name]
        message = expected(field.annotation, field.metadata, is_too_long=kind in ("too_long", "string_too_long"))
    return f"{name.upper()}: {message}."
