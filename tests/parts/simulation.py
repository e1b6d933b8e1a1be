"""An account that lives in simulated time: its policy decides when to poll, the world decides what it reads."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from claude_usage_mqtt.errors import ClaudeUsageError
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.documents import documents
from claude_usage_mqtt.service.options import AccountOptions
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.sources.credentials.file import GivenToken
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.local_login import LocalLogin
from claude_usage_mqtt.sources.reporter_exchange import ReporterExchange
from claude_usage_mqtt.sources.select import polled_sources, pushed_sources
from claude_usage_mqtt.sources.source import PollResult
from claude_usage_mqtt.topics import Topics
from claude_usage_mqtt.usage.account import Rules
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.events import Event
from claude_usage_mqtt.usage.reading import OAUTH, REPORTER

TOPICS = Topics(base="claude-usage", account="default")


@dataclass(frozen=True, slots=True)
class Shown:
    """The document that was published from an instant on."""

    at: datetime
    state: dict[str, Any]

    def window(self, key: str) -> dict[str, Any]:
        """Return what is shown of a window; empty if it is not there."""
        found: dict[str, Any] = self.state["windows"].get(key, {})
        return found


NOT_ASKED = UsageApi("http://127.0.0.1:9/", "tests")
"""The simulation answers instead."""


def make_state(
    seed: int = 1, *, interval: float = 300, sources: tuple[str, ...] = (OAUTH,), is_auto: bool = False
) -> AccountState:
    """Return an account as it is at a start, with the limits of the real API."""
    login = LocalLogin(credentials=GivenToken("never-sent", name="token"))
    reporters = ReporterExchange(TOPICS.base, [TOPICS.account] if REPORTER in sources else ())
    options = AccountOptions(
        topics=TOPICS,
        label=None,
        interval=timedelta(seconds=interval),
        limited=True,
        rules=Rules(timedelta(minutes=30), (75.0, 90.0), (75.0, 90.0)),
        source=in_order([*polled_sources(sources, login, NOT_ASKED), *reporters.sources(TOPICS.account)]),
        pushed=pushed_sources(sources),
        is_auto=is_auto,
    )
    return AccountState(options, random.Random(seed))


def poll(state: AccountState, at: datetime, source: str = OAUTH, **found: Any) -> list[Event]:
    """Poll an account, with a reading, an error or nothing new as the result; return what happened."""
    state.begin_poll(at)
    return state.finish_poll(PollResult(account=state.name, source=source, **{"requests": 1, **found}), at)


@dataclass
class Simulation:
    """One account; `world` gives the response's document, or the error, of each instant."""

    world: Callable[[datetime], Any]
    now: datetime
    state: AccountState
    polls: list[datetime] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)

    @property
    def event_types(self) -> list[str]:
        """Return the types of all events so far."""
        return [event.event_type for event in self.events]

    def run(self, until: datetime) -> None:
        """Let time pass, and do what the service would do."""
        while True:
            due = self.state.due(self.now)
            if due is not None and due <= self.now:
                self._poll()
            self.state.tick(self.now)
            self._show()
            moments = [self.state.due(self.now), self.state.wake_at(self.now)]
            following = min(moment for moment in moments if moment is not None)
            if following > until:
                self.now = until
                self._show()
                return
            self.now = max(following, self.now)

    def _poll(self) -> None:
        self.polls.append(self.now)
        found: dict[str, Any] = {}
        try:
            found["reading"] = parse_usage(self.world(self.now), self.now)
        except ClaudeUsageError as refused:
            found["error"] = refused
        self.events += poll(self.state, self.now, **found)

    def _show(self) -> None:
        state = state_document(self.state.usage, self.now)
        if not self.shown or self.shown[-1].state != state:
            self.shown.append(Shown(self.now, state))

    def restart(self) -> None:
        """Restart the service: the next run knows only what is retained."""
        retained = dict(documents(self.state, self.now))
        restarted = make_state(7, interval=self.state.options.interval.total_seconds())
        restarted.restore(retained, self.now)
        self.state = restarted

    def set_clock(self, step: timedelta) -> None:
        """Set the wall clock; the world's time does not change."""
        self.now += step
        self.state.clock_stepped(step, self.now)


def sequence(entries: Mapping[datetime, Any], one_poll: tuple[datetime, ...] = ()) -> Callable[[datetime], Any]:
    """Return a world in which each entry holds from its instant to the next; those in `one_poll` only for one poll."""
    seen: set[datetime] = set()

    def respond(now: datetime) -> Any:
        begun = [at for at in sorted(entries) if at <= now and at not in seen]
        at = begun[-1]
        if at in one_poll:
            seen.add(at)
        return entries[at]

    return respond
