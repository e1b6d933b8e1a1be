"""What `watch` shows, and how it looks. What came from the broker is outside data: cleaned here, never markup.

Times are computed from the local clock, so that they continue between two messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from rich.console import ConsoleOptions, Group, RenderableType
from rich.text import Text

from claude_usage_mqtt.cli.statusline import CRITICAL, WARNING
from claude_usage_mqtt.homeassistant.summary import SUMMARY
from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.topics import ACCOUNT_ID, DEFAULT_ACCOUNT, NO_PROBLEM, ONLINE
from claude_usage_mqtt.untrusted import clean_text, json_object, number
from claude_usage_mqtt.usage import derived
from claude_usage_mqtt.usage.reading import MAX_AMOUNT, MAX_UTILIZATION, MAX_WINDOWS
from claude_usage_mqtt.usage.standing import MAX_SUMMARY, clock_time

MAX_ACCOUNTS = 500
LONGEST_MESSAGE = 256 * 1024
LABEL, PERCENT = 13, 6
"""Columns of a window's line next to its bar."""

LONGEST_LABEL = 30
LONGEST_SENTENCE = 500


@dataclass(slots=True)
class Board:
    """Everything that has arrived."""

    base: str
    broker: str
    problem: str | None = None
    is_connected: bool = False
    is_online: bool | None = None
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    healths: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        """Process a message; a malformed one is ignored, an empty one removes its topic."""
        parts = message.topic.removeprefix(self.base + "/").split("/")
        if parts == ["status"]:
            self.is_online = message.payload == ONLINE
            return
        if len(parts) != 2 or parts[0] == SUMMARY or not ACCOUNT_ID.fullmatch(parts[0]):
            return
        found = {"state": self.states, "health": self.healths}.get(parts[1])
        if found is None or (len(found) >= MAX_ACCOUNTS and parts[0] not in found):
            return
        if not message.payload:
            found.pop(parts[0], None)
            return
        document = json_object(message.payload, LONGEST_MESSAGE)
        if document:
            found[parts[0]] = document

    def view(self, now: datetime, options: ConsoleOptions) -> RenderableType:
        """Return what to show, on a terminal with these options."""
        accounts = sorted({*self.states, *self.healths})
        parts: list[Text] = []
        if self.is_connected and self.is_online is False:
            parts.append(Text("The service is not running.", style="red"))
        if self.problem is not None:
            parts.append(Text(self.problem, style="red"))
        if not self.is_connected:
            parts.append(Text(f"Connecting to {self.broker} ...", style="dim"))
        elif not accounts:
            parts.append(Text(f"No data under {self.base}/ yet; is the service running?"))
        for account in accounts:
            parts += [*self._account(account, now, options), Text()]
        return Group(*parts, Text("Ctrl-C ends this.", style="dim"))

    def _account(self, account: str, now: datetime, options: ConsoleOptions) -> Iterator[Text]:
        state, health = self.states.get(account, {}), self.healths.get(account, {})
        plan = clean_text(state.get("tier")) or clean_text(state.get("plan"))
        title = Text("Claude" if account == DEFAULT_ACCOUNT else f"Claude {account}", style="bold")
        yield title.append(f" ({plan})" if plan else "", style="not bold dim")
        alive_until = parse_instant(health.get("alive_until"))
        is_alive = alive_until is None or now <= alive_until
        is_current = health.get("fresh") is True and self.is_online is not False and is_alive
        if is_current:
            yield from _answer(state, now)
        for window in _windows(state):
            yield from _window(window, now, options, is_current=is_current)
        money = _money(state.get("extra_usage"))
        if money is not None:
            yield money if is_current else Text(money.plain, style="dim")
        yield from _health(health, now, is_current=is_current)
        if not is_alive:
            yield Text("No sign of life from the service; these numbers are old.", style="red")


def _health(health: dict[str, Any], now: datetime, *, is_current: bool) -> Iterator[Text]:
    status = clean_text(health.get("status")) or "unknown"
    said = Text(status.replace("_", " "), style="green" if status in NO_PROBLEM else "red")
    last = parse_instant(health.get("last_success"))
    if last is not None:
        said.append(f", updated {_at(last, now)}, {_rough(now - last)} ago", style="dim" if is_current else "yellow")
    yield said
    detail = clean_text(health.get("detail"), LONGEST_SENTENCE)
    if detail:
        yield Text(detail, style="yellow")


def _window(window: dict[str, Any], now: datetime, options: ConsoleOptions, *, is_current: bool) -> Iterator[Text]:
    """Yield label, bar and percent; countdown, pace and projection; the severity that the API gives."""
    utilization = number(window.get("utilization"), maximum=MAX_UTILIZATION)
    resets_at = parse_instant(window.get("resets_at"))
    hours = number(window.get("duration_hours"), maximum=1000)
    elapsed = derived.elapsed(resets_at, timedelta(hours=hours), now) if hours else None
    label = Text(clean_text(window.get("label"), LONGEST_LABEL) or "?")
    label.truncate(LABEL - 1, overflow="ellipsis", pad=True)
    width = max(4, options.max_width - LABEL - PERCENT)
    color = _color(utilization) if is_current else "dim"
    percent = "?" if utilization is None else f"{utilization:.0f}%"
    bar = _bar(width, utilization, elapsed, color, is_ascii=options.ascii_only)
    yield _one_line(label.append(" "), bar, Text(percent.rjust(PERCENT), style=color))
    if utilization is None:
        return
    sign = " " if options.ascii_only else " ↻ "
    yield _one_line(Text(sign + _times(utilization, resets_at, elapsed, now), style="dim"))
    severity = clean_text(window.get("severity"))
    words = ["locked"] if window.get("locked") is True else []
    words += [severity] if severity and severity != "normal" else []
    if words:
        yield Text(f"   {', '.join(words)}", style="yellow" if is_current else "dim")


def _times(utilization: float, resets_at: datetime | None, elapsed: float | None, now: datetime) -> str:
    if resets_at is None:
        return "not started" if utilization == 0 else "reset unknown"
    line = _countdown(resets_at - now)
    line += "" if elapsed is None else f"  pace {utilization - elapsed:+.0f}"
    projected = derived.projected(utilization, elapsed)
    return line + ("" if projected is None else f"  at reset {projected:.0f}%")


def _one_line(*parts: Text) -> Text:
    line = Text.assemble(*parts)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _bar(width: int, utilization: float | None, elapsed: float | None, color: str, *, is_ascii: bool) -> Text:
    """Return a bar; a mark in it shows where an even pace would be."""
    full, empty, mark = ("#", "-", "|") if is_ascii else ("█", "░", "┃")
    filled = 0 if utilization is None else round(width * min(utilization, 100) / 100)
    bar = Text(full * filled, style=color) + Text(empty * (width - filled), style="dim")
    if elapsed is None:
        return bar
    place = min(width - 1, int(width * elapsed / 100))
    return bar[:place] + Text(mark, style="bold") + bar[place + 1 :]


def _answer(state: dict[str, Any], now: datetime) -> Iterator[Text]:
    """Yield whether one can work now, and the summary."""
    blocked, until = state.get("blocked"), parse_instant(state.get("blocked_until"))
    if blocked is True:
        ends = f" until {clock_time(until, now)}" if until is not None and until > now else ""
        yield Text(f"Blocked{ends}", style="bold red")
    elif blocked is False:
        yield Text("Not blocked", style="green")
    tightest = state.get("tightest")
    label = clean_text(tightest.get("label"), LONGEST_LABEL) if isinstance(tightest, dict) else None
    if label is not None and len(_windows(state)) > 1:
        yield Text(f"Closest to its limit: {label}", style="dim")
    summary = clean_text(state.get("summary"), MAX_SUMMARY)
    if summary:
        yield Text(summary, style="dim")


def _windows(state: dict[str, Any]) -> list[dict[str, Any]]:
    windows = state.get("windows")
    found = list(windows.values())[:MAX_WINDOWS] if isinstance(windows, dict) else []
    return [window for window in found if isinstance(window, dict)]


def _money(section: object) -> Text | None:
    if not isinstance(section, dict):
        return None
    line = Text("Extra usage".ljust(LABEL))
    if section.get("enabled") is not True:
        return line.append("off", style="dim")
    used, limit = (number(section.get(key), maximum=MAX_AMOUNT) for key in ("used", "limit"))
    amount = "?" if used is None else f"{used:.2f}"
    line.append(amount if limit is None else f"{amount} of {limit:.2f}")
    line.append(f" {clean_text(section.get('currency'), 3) or ''}".rstrip())
    percent = number(section.get("utilization"), maximum=MAX_UTILIZATION)
    return line if percent is None else line.append(f" ({percent:.0f}%)", style=_color(percent))


def _color(utilization: float | None) -> str:
    if utilization is None:
        return "dim"
    return "red" if utilization >= CRITICAL else "yellow" if utilization >= WARNING else "green"


def _countdown(left: timedelta) -> str:
    seconds = max(0, int(left.total_seconds()))
    if seconds == 0:
        return "resets now"
    days, seconds = divmod(seconds, 86400)
    clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{days}d {clock.zfill(8)}" if days else clock


def _at(instant: datetime, now: datetime) -> str:
    """Return the local time of an instant that has passed, with its day unless that is today."""
    local = instant.astimezone()
    return f"{local:%H:%M}" if local.date() == now.astimezone().date() else f"{local:%a %H:%M}"


def _rough(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
