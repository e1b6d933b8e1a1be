"""`guard`: may heavy work start now? Answered from what is retained on the broker, without a request to the API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from claude_usage_mqtt.errors import SettingsError
from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.mqtt.session import Session
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.settings.load import load_settings
from claude_usage_mqtt.topics import ONLINE, Topics
from claude_usage_mqtt.untrusted import clean_text, json_object, number, slug
from claude_usage_mqtt.usage.reading import MAX_UTILIZATION, stops_all_work
from claude_usage_mqtt.usage.standing import clock_time

WITHIN, QUIET = 10.0, 1.0
"""Seconds for all retained messages, and seconds without one until no more is expected."""

YES, WAIT, UNKNOWN = 0, 9, 10
"""Exit statuses."""


class Verdict(NamedTuple):
    """An exit status and one sentence."""

    status: int
    sentence: str


class _Window(NamedTuple):
    label: str
    utilization: float | None
    resets_at: datetime | None
    is_locked: bool

    def is_full(self, below: float | None) -> bool:
        if below is None or self.utilization is None:
            return False
        return self.utilization >= below or self.is_locked


def guard(*, account: str | None, window: str | None, below: float | None) -> int:
    """Print whether heavy work may start, and return that as the exit status."""
    settings = load_settings()
    name = _account(settings, account)
    place = settings.topics(name)
    with Session(settings.broker(), WITHIN) as session:
        found = session.read((place.status, place.health, place.state), QUIET)
        others = _others(session, place) if found.keys() == {place.status} else []
    if others:
        print(f"No account {place.account} on the broker, only {', '.join(others)}; pass one with --account.")
        return UNKNOWN
    health, state = (json_object(found.get(topic)) for topic in (place.health, place.state))
    window = slug(window) if window else None
    verdict = decide(found.get(place.status, b""), health, state, datetime.now(UTC), window=window, below=below)
    print(verdict.sentence)
    return verdict.status


def _others(session: Session, place: Topics) -> list[str]:
    """Return the accounts that are published: a misspelled account is not a service that is gone."""
    session.subscribe([place._replace(account="+").health])
    names = {message.topic.split("/")[-2] for message in session.collect(QUIET, WITHIN) if message.payload}
    return sorted(name for name in names if slug(name) == name)[:10]


def _account(settings: Settings, account: str | None) -> str:
    if account is not None:
        return slug(account) or account
    accounts = settings.accounts(with_logins=False)
    if len(accounts) > 1:
        raise SettingsError(f"There are several accounts; pass --account {accounts[0].id}, for example.")
    return accounts[0].id


def decide(
    status: bytes,
    health: dict[str, Any],
    state: dict[str, Any],
    now: datetime,
    *,
    window: str | None = None,
    below: float | None = None,
) -> Verdict:
    """Return the verdict on retained messages, which are untrusted: what is not certain counts as unknown.

    Wait if the account is blocked, or the `window` (without it: the session, the week, or a pool of dollars) has
    reached its limit, or `below` percent.
    """
    trouble = _not_current(status, health, now)
    if trouble is not None:
        return Verdict(UNKNOWN, trouble)
    windows = _windows(state, now)
    if state.get("blocked") is True:
        return _wait("Blocked", [parse_instant(state.get("blocked_until"))], now)
    if window is not None and window not in windows:
        known = ", ".join(windows) or "none"
        return Verdict(UNKNOWN, f"Nothing is known of the window {window}; known windows: {known}.")
    looked_at = [numbers for key, numbers in windows.items() if (key == window if window else stops_all_work(key))]
    full = [numbers for numbers in looked_at if numbers.is_full(100.0 if window and below is None else below)]
    if full:
        names = ", ".join(f"{numbers.label} {numbers.utilization:g} %" for numbers in full)
        return _wait(names, [numbers.resets_at for numbers in full], now)
    is_certain = window is not None or state.get("blocked") is False
    if window is not None or below is not None:
        is_certain = is_certain and bool(looked_at) and all(numbers.utilization is not None for numbers in looked_at)
    if not is_certain:
        return Verdict(UNKNOWN, "The usage is not completely known.")
    summary = clean_text(state.get("summary"), 200)
    return Verdict(YES, f"Yes. {summary}" if summary else "Yes.")


def _not_current(status: bytes, health: dict[str, Any], now: datetime) -> str | None:
    """Return why the retained numbers must not be believed, None if they may be."""
    if not status and not health:
        return "No data on the broker; is the service running?"
    if status != ONLINE:
        return "The service is not running."
    alive_until = parse_instant(health.get("alive_until"))
    if alive_until is None or alive_until < now:
        return "The service has given no sign of life for too long."
    if health.get("fresh") is not True:
        detail = clean_text(health.get("detail"), 500)
        return f"The usage is not known. {detail}" if detail else "The usage is not known."
    return None


def _windows(state: dict[str, Any], now: datetime) -> dict[str, _Window]:
    """Return the windows whose reset has not passed: the numbers of the others are over."""
    windows = state.get("windows")
    found = {
        key: _Window(
            clean_text(window.get("label")) or "a window",
            number(window.get("utilization"), maximum=MAX_UTILIZATION),
            parse_instant(window.get("resets_at")),
            window.get("locked") is True,
        )
        for key, window in (windows.items() if isinstance(windows, dict) else ())
        if isinstance(window, dict)
    }
    return {key: window for key, window in found.items() if (window.resets_at or now) >= now}


def _wait(why: str, resets: list[datetime | None], now: datetime) -> Verdict:
    """Return the verdict to wait until the last of the resets, if all are known."""
    known = [reset for reset in resets if reset is not None and reset > now]
    until = f" Wait until {clock_time(max(known), now)}." if known and len(known) == len(resets) else ""
    return Verdict(WAIT, f"{why}.{until or ' It is not known until when.'}")
