"""What Claude Code passes to its status-line command: the section `rate_limits`, and what identifies a response.

Somebody waits for the status line, so this module imports next to nothing: no dataclasses, no readings.

`rate_limits` has `five_hour` and `seven_day`, each with `used_percentage` and `resets_at` (seconds since 1970, or
ISO 8601), and for some seats `spend_limit`, which also has `used_usd` and `limit_usd`. Any of them may be missing.
Our message on `<base>/<account>/statusline` is that section, when it was read, and whether a response had just come:

    {"at": 1795180000.5, "response": true,
     "rate_limits": {"five_hour": {"used_percentage": 23.5, "resets_at": 1795190400}}}
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from claude_usage_mqtt.instants import from_epoch, parse_reset
from claude_usage_mqtt.untrusted import json_object, number

TYPE_CHECKING = False  # typing itself is not worth importing here

if TYPE_CHECKING:
    from typing import Any

SPEND_LIMIT = "spend_limit"

LONGEST = {"five_hour": timedelta(hours=5), "seven_day": timedelta(days=7), SPEND_LIMIT: timedelta(days=366)}
"""The sections that are read, and how far ahead each one's reset can be: 2030 has been seen when none was known."""

SLACK = timedelta(hours=1)
"""How far two clocks may be apart before a reset looks impossible."""

HIGHEST = 1000.0
"""Percent. The epoch of the reset has been seen in place of the percentage; a spend limit of 130 % is real."""

MOST_DOLLARS = 1e12

MAX_MESSAGE = 4096
"""Bytes; ours has about 200."""

AHEAD = timedelta(seconds=60)
"""How far the sender's clock may be ahead of ours."""

OLDEST = timedelta(hours=1)
"""Older readings say nothing about now; nor does a sender whose clock is that far behind."""

CAP = 100.0
"""Claude Code never reports a higher percentage of a window than this: the true one is this or more."""


class Limit:
    """One section: percent used, when it resets, and the dollars of a spend limit."""

    __slots__ = ("key", "limit", "percent", "resets_at", "used")

    def __init__(
        self, key: str, percent: float, resets_at: datetime | None, used: float | None, limit: float | None
    ) -> None:
        self.key = key
        self.percent = percent
        self.resets_at = resets_at
        self.used = used
        self.limit = limit

    @property
    def is_capped(self) -> bool:
        """Whether the true percentage may be higher."""
        return self.key != SPEND_LIMIT and self.percent >= CAP

    def section(self) -> dict[str, Any]:
        """Return the section as `parse_limits` reads it."""
        found: dict[str, Any] = {
            "used_percentage": self.percent,
            "resets_at": None if self.resets_at is None else int(self.resets_at.timestamp()),
        }
        if self.key == SPEND_LIMIT:
            found |= {"used_usd": self.used, "limit_usd": self.limit}
        return found


def parse_limits(section: object, seen_at: datetime, now: datetime) -> dict[str, Limit]:
    """Return the usable sections of `rate_limits` as they were seen at an instant; never raises.

    A section with a reset that has passed is left out: a session that stays open keeps showing its last response.
    """
    if not isinstance(section, dict):
        return {}
    found = (_limit(key, section.get(key), seen_at, now) for key in LONGEST)
    return {limit.key: limit for limit in found if limit is not None}


def _limit(key: str, section: object, seen_at: datetime, now: datetime) -> Limit | None:
    if not isinstance(section, dict):
        return None
    percent, resets_at = number(section.get("used_percentage"), maximum=HIGHEST), section.get("resets_at")
    reset = parse_reset(resets_at)
    if percent is None or (reset is None and resets_at is not None):
        return None
    if reset is not None and not now < reset <= seen_at + LONGEST[key] + SLACK:
        return None
    used, limit = (number(section.get(name), maximum=MOST_DOLLARS) for name in ("used_usd", "limit_usd"))
    return Limit(key, round(percent, 2), reset, used, limit)


class StatusLineMessage:
    """What was read at one moment, and whether a response had just come; None if that is not known."""

    __slots__ = ("at", "is_response", "limits")

    def __init__(self, at: datetime, limits: dict[str, Limit], *, is_response: bool | None) -> None:
        self.at = at
        self.limits = limits
        self.is_response = is_response

    def encode(self) -> bytes:
        """Return the payload."""
        limits = {key: limit.section() for key, limit in self.limits.items()}
        document = {"at": round(self.at.timestamp(), 3), "response": self.is_response, "rate_limits": limits}
        return json.dumps(document).encode()


def parse_message(payload: bytes, now: datetime) -> StatusLineMessage | None:
    """Return what a payload says; None if it is not one of our messages, from the future, or older than an hour.

    Anybody who may publish can send one: nothing in it is trusted. Never raises.
    """
    document = json_object(payload, MAX_MESSAGE)
    at = from_epoch(document.get("at"))
    if at is None or not now - OLDEST <= at <= now + AHEAD:
        return None
    limits, response = parse_limits(document.get("rate_limits"), at, now), document.get("response")
    is_response = response if isinstance(response, bool) else None
    return StatusLineMessage(at, limits, is_response=is_response) if limits else None


def is_from_another_time(payload: bytes, now: datetime) -> bool:
    """Whether a message that has just come has a time that proves its sender's clock, or ours, wrong."""
    at = from_epoch(json_object(payload, MAX_MESSAGE).get("at"))
    return at is not None and not now - OLDEST - AHEAD <= at <= now + AHEAD


class Mark:
    """The part of Claude Code's object that changes with a response: `cost.total_api_duration_ms`, `prompt_id`."""

    __slots__ = ("duration", "prompt", "session")

    def __init__(self, document: object) -> None:
        document = document if isinstance(document, dict) else {}
        cost, session, prompt = document.get("cost"), document.get("session_id"), document.get("prompt_id")
        self.session = session if isinstance(session, str) else ""
        self.prompt = prompt[:100] if isinstance(prompt, str) else None
        duration = cost.get("total_api_duration_ms") if isinstance(cost, dict) else None
        self.duration = number(duration, maximum=1e15)

    def is_other_than(self, duration: object, prompt: object) -> bool:
        """Whether there was a response since these were seen.

        The prompt changes when it is sent, and its response comes later: in between, the old numbers are shown again.
        So the prompt decides only if the duration is missing.
        """
        if self.duration is not None and duration is not None:
            return self.duration != duration
        return self.prompt is not None and self.prompt != prompt
