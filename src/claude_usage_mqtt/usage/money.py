"""Extra usage over time: its age, its thresholds, and the period it is counted in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from claude_usage_mqtt.usage.absence import MayBeAbsent
from claude_usage_mqtt.usage.events import (
    EXTRA_USAGE_LIMIT_REACHED,
    EXTRA_USAGE_THRESHOLD_REACHED,
    LIMIT,
    Event,
    newly_reached,
)
from claude_usage_mqtt.usage.plausibility import REFILL
from claude_usage_mqtt.usage.reading import ExtraUsage
from claude_usage_mqtt.usage.window_state import AHEAD

ACCOUNT_EVENT_LASTS = timedelta(days=1)
"""How long an event of the account is worth delivering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyState(MayBeAbsent):
    """The remembered state of extra usage.

    `period_start` is when the amount last started over, for statistics that must not count a new month as a refund.
    `money` is None after responses without extra usage.
    """

    money: ExtraUsage | None
    read_at: datetime
    period_start: datetime
    currency: str | None = None
    enabled: bool = False
    peak: float = 0.0
    absent_for: timedelta = timedelta(0)
    seen_among: tuple[str, ...] = field(default=(), repr=False)

    def known(self, now: datetime, stale_after: timedelta) -> ExtraUsage | None:
        """Return the amounts if they may be shown."""
        return self.money if -AHEAD <= now - self.read_at < stale_after else None


def next_money(
    known: MoneyState | None, money: ExtraUsage, read_at: datetime, *, thresholds: Iterable[float], now: datetime
) -> tuple[MoneyState, list[Event]]:
    """Update `known` with newer amounts; return the new state, and what happened in between."""
    utilization = money.utilization or 0.0
    state = MoneyState(
        money=money,
        read_at=read_at,
        period_start=month_of(read_at),
        currency=money.currency or (known.currency if known else None),
        enabled=money.enabled,
        peak=utilization,
        seen_among=known.seen_among if known else (),
    )
    if known is None:
        return state, []
    if known.money is None and not known.peak:  # another account's, or nothing was spent before
        return replace(state, period_start=known.period_start), []
    # If a response lacked the amounts in between, the share of the limit is remembered.
    before = known.money or ExtraUsage(
        enabled=known.enabled, used=None, limit=None, utilization=known.peak, currency=None
    )
    is_another_currency = known.currency is not None and money.currency not in (None, known.currency)
    starts_over = is_another_currency or _starts_over(before, money, known.read_at, read_at)
    period_start = read_at.replace(microsecond=0) if starts_over else known.period_start
    # While it is off, the amounts may be blank: that is not a drop, nor a rise when it is on again.
    high = (before.utilization or 0.0) if before.enabled else known.peak
    dropped = starts_over or (money.enabled and high - utilization >= REFILL)
    peak = utilization if dropped else known.peak
    events: list[Event] = []
    limit_reached = Event(
        event_type=EXTRA_USAGE_LIMIT_REACHED,
        at=now,
        utilization=money.utilization,
        previous_utilization=before.utilization,
        expires_at=now + ACCOUNT_EVENT_LASTS,
    )
    was_on = money.enabled or before.enabled  # the API turns it off when its limit is reached
    # A spent balance is the limit: a threshold below it is not reported.
    counted = 0.0 if money.is_used_up and utilization < LIMIT else utilization
    reached = newly_reached(peak, counted, thresholds) if was_on else ()
    if reached:
        events.append(limit_reached._replace(event_type=EXTRA_USAGE_THRESHOLD_REACHED, thresholds=reached))
    if was_on and money.is_used_up and not before.is_used_up:
        events.append(limit_reached)
    return replace(state, period_start=period_start, peak=max(peak, counted)), events


def month_of(instant: datetime) -> datetime:
    """Return when the month began."""
    return instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _starts_over(before: ExtraUsage, new: ExtraUsage, read_before: datetime, read_at: datetime) -> bool:
    """Whether the amount dropped because a month began; a small drop within one month is a correction."""
    if before.used is None or new.used is None or new.used >= before.used:
        return False
    is_another_month = (read_before.year, read_before.month) != (read_at.year, read_at.month)
    return is_another_month or (new.enabled and new.used <= before.used / 2)
