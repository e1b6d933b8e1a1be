"""Extra usage on the wire: `extra_usage` and `spend`, amounts in minor units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from claude_usage_mqtt.untrusted import CURRENCY, clean_text, matching, number
from claude_usage_mqtt.usage.reading import MAX_AMOUNT, MAX_UTILIZATION, MINOR_DIGITS, ExtraUsage

NO_POOL = "no_pool"
"""Our `disabled_reason` for extra usage that is enabled with a limit of 0, if the API gives none."""

MAX_PERCENT = 50 * MAX_UTILIZATION
"""The highest percentage of a limit of money, which can be overspent by more than a window."""


class Malformed(Exception):  # noqa: N818 - never leaves this package
    """A section is not in the expected form."""


def parse_money(body: Mapping[str, Any], malformed: list[str]) -> ExtraUsage | None:
    """Return `extra_usage` with what only `spend` reports, or `spend` if the former is missing, off or malformed."""
    found: dict[str, ExtraUsage] = {}
    for key, parse in (("extra_usage", _parse_extra_usage), ("spend", _parse_spend)):
        section = body.get(key)
        if section is None:
            continue
        try:
            found[key] = parse(section)
        except Malformed:
            malformed.append(key)
    money, spend = found.get("extra_usage"), found.get("spend")
    if money is None or spend is None:
        return money or spend
    if spend.enabled and not money.enabled:
        return spend
    return _completed(money, spend)


def _completed(money: ExtraUsage, spend: ExtraUsage) -> ExtraUsage:
    if money.currency is not None and spend.currency not in (None, money.currency):
        return money
    names = ("used", "limit", "utilization", "currency", "balance", "disabled_reason")
    missing = {name: getattr(spend, name) for name in names if getattr(money, name) is None}
    return _consistent(replace(money, **missing))


def _parse_extra_usage(section: object) -> ExtraUsage:
    if not isinstance(section, dict) or not isinstance(section.get("is_enabled"), bool):
        raise Malformed
    places, currency = section.get("decimal_places"), _currency(section.get("currency"))
    return _consistent(
        ExtraUsage(
            enabled=section["is_enabled"],
            used=_amount(section.get("used_credits"), places, currency),
            limit=_amount(section.get("monthly_limit"), places, currency),
            utilization=_percent(section.get("utilization")),
            currency=currency,
            balance=_balance(section.get("balance"), places, currency),
            disabled_reason=clean_text(section.get("disabled_reason")),
        )
    )


def _parse_spend(section: object) -> ExtraUsage:
    if not isinstance(section, dict):
        raise Malformed
    used, limit = section.get("used"), section.get("limit")
    enabled = section.get("enabled", used is not None)
    if not isinstance(used, dict | None) or not isinstance(limit, dict | None) or not isinstance(enabled, bool):
        raise Malformed
    currencies = {_currency(amount.get("currency")) for amount in (used, limit) if amount} - {None}
    if len(currencies) > 1:
        raise Malformed
    currency = next(iter(currencies), None)
    return _consistent(
        ExtraUsage(
            enabled=enabled,
            used=_minor(used, currency),
            limit=_minor(limit, currency),
            utilization=_percent(section.get("percent")),
            currency=currency,
            balance=_balance(section.get("balance"), None, currency),
            disabled_reason=clean_text(section.get("disabled_reason")),
        )
    )


def _consistent(money: ExtraUsage) -> ExtraUsage:
    """Return extra usage with the utilization that its amounts imply."""
    if money.limit == 0:
        # There is no pool: nothing can be spent, but "0 left" would read as used up.
        reason = money.disabled_reason or (NO_POOL if money.enabled else None)
        return replace(money, limit=None, utilization=None, disabled_reason=reason)
    if money.limit is None:
        return replace(money, utilization=None)  # without a limit the percentage, which is given as 0, means nothing
    if money.utilization is None and money.used is not None:
        return replace(money, utilization=100 * money.used / money.limit)
    return money


def _percent(value: object) -> float | None:
    percent = number(value, maximum=MAX_PERCENT)
    if percent is None and value is not None:
        raise Malformed
    return percent


def _currency(value: object) -> str | None:
    if value is None:
        return None
    code = matching(CURRENCY, value.upper() if isinstance(value, str) and value.isascii() else None)
    if code is None:
        raise Malformed
    return code


def _balance(value: object, places: object, currency: str | None) -> float | None:
    """Return a prepaid balance, which is an amount or an object like those of `spend`; an unreadable one is unknown."""
    try:
        return _minor(value, currency) if isinstance(value, dict) else _amount(value, places, currency)
    except Malformed:
        return None


def _minor(section: Mapping[str, Any] | None, currency: str | None) -> float | None:
    return None if not section else _amount(section.get("amount_minor"), section.get("exponent"), currency)


def _amount(minor: object, places: object, currency: str | None) -> float | None:
    """Return minor units as whole ones: divided by 10^`places`, the currency's own number of places if missing."""
    if minor is None:
        return None
    own = MINOR_DIGITS.get(currency or "", 2)
    places = own if places is None or own == 0 else places
    amount, digits = number(minor, maximum=MAX_AMOUNT), number(places, maximum=8)
    if amount is None or digits is None or not digits.is_integer():
        raise Malformed
    return float(amount / 10 ** int(digits))
