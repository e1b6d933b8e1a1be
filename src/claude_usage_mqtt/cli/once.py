"""`once`: the usage, printed."""

from __future__ import annotations

from typing import Any

from claude_usage_mqtt.cli.api_block import blocks
from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import ClaudeUsageError, RateLimited, SettingsError
from claude_usage_mqtt.instants import parse_instant
from claude_usage_mqtt.settings.load import load_settings
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.credentials.watch import require_answer
from claude_usage_mqtt.sources.in_order import in_order
from claude_usage_mqtt.sources.select import polled_sources, with_other_sources
from claude_usage_mqtt.sources.source import PolledSource
from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, encode
from claude_usage_mqtt.untrusted import clean_text
from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.document import state_document
from claude_usage_mqtt.usage.reading import Reading


def once(*, as_json: bool, force: bool = False) -> int:
    """Print the usage of each account, as a table or as one line of JSON; raises the first error after that.

    `force` asks the API even if the service on the broker may not.
    """
    settings = load_settings()
    api = UsageApi(settings.claude_api_url, settings.claude_user_agent)
    first_error: Exception | None = None
    polled = [
        (account, in_order(polled_sources(settings.sources, account.login, api, settings.claude_code_command)))
        for account in settings.accounts()
    ]
    if not any(source for _, source in polled):
        raise SettingsError(
            f"CLAUDE_SOURCE={settings.claude_source} has nothing to ask once; "
            "run it on a machine with Claude Code, or use `watch` or `guard` here."
        )
    blocked = {} if force else blocks(settings, [account for account, _ in polled])
    for account, source in polled:
        try:
            reading = None if source is None else _ask(account.id, source, blocked.get(account.id))
        except ClaudeUsageError as error:
            first_error = first_error or error
            continue
        if reading is not None:
            usage = AccountUsage(account.id)
            usage.update(reading, reading.read_at)
            document = state_document(usage, reading.read_at)
            print(encode(document).decode() if as_json else table(document))
    if first_error is not None:
        raise first_error
    return 0


def _ask(account: str, source: PolledSource, blocked: RateLimited | None) -> Reading | None:
    """Return a source's reading, None if there is nothing new; `blocked` says why it must not be asked."""
    if blocked is not None:
        raise blocked
    require_answer(source, source.login)
    result = source.poll(account, SystemClock(), may_retry=True)
    if result.error is not None:
        raise with_other_sources(result.error, result.source)  # this may be the first request ever
    return result.reading


def table(document: dict[str, Any]) -> str:
    """Return a state document as a small table, instants in the local time zone."""
    rows = [("", "used", "resets", "at reset", "")]
    for key, window in document["windows"].items():
        projected = "" if window["projected"] is None else f"{window['projected']:.0f} %"
        resets = "not started" if window["utilization"] == 0 else ""
        used = "?" if window["utilization"] is None else f"{window['utilization']:g} %"  # its reset has passed
        notes = ", ".join(_notes(key, window, document))
        rows.append((window["label"], used, _weekday_and_time(window["resets_at"]) or resets, projected, notes))
    money = document["extra_usage"]
    if money is not None:
        rows.append(("Extra usage", _amounts(money), "", "", "active" if money["active"] else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    plan = document["tier"] or document["plan"]
    plan = f" ({plan})" if plan else ""
    title = f"Claude{plan}" if document["account"] == DEFAULT_ACCOUNT else f"Claude {document['account']}{plan}"
    lines = [
        f"{label:<{widths[0]}}  {used:>{widths[1]}}  {resets:<{widths[2]}}  {projected:>{widths[3]}}  {notes}".rstrip()
        for label, used, resets, projected, notes in rows
    ]
    if not document["windows"] and money is None:
        lines = ["The API reports no limits for this account."]
    return "\n".join([title, *_answer(document), *lines])


def _answer(document: dict[str, Any]) -> list[str]:
    """Return whether one can work now, as of when, and the summary."""
    until = _weekday_and_time(document["blocked_until"])
    words = {True: "Blocked" + (f" until {until}" if until else ""), False: "Not blocked"}
    read_at = _weekday_and_time(document["updated_at"])
    as_of = f", as of {read_at}" if read_at else ""
    answer = [f"{words[document['blocked']]}{as_of}"] if document["blocked"] is not None else []
    return [*answer, document["summary"]] if document["windows"] else answer


def _notes(key: str, window: dict[str, Any], document: dict[str, Any]) -> list[str]:
    severity = clean_text(window["severity"])
    is_tightest = key == (document["tightest"] or {}).get("window") and len(document["windows"]) > 1
    notes = ["tightest"] if is_tightest else []
    notes += ["locked"] if window["locked"] else []
    return notes + ([severity] if severity and severity != "normal" else [])


def _weekday_and_time(instant: str | None) -> str:
    """Return weekday and time of an instant in the local time zone, empty if there is none."""
    parsed = parse_instant(instant)
    return "" if parsed is None else parsed.astimezone().strftime("%a %H:%M")


def _amounts(money: dict[str, Any]) -> str:
    currency = money["currency"] or ""
    if not money["enabled"]:
        return "off"
    used = "?" if money["used"] is None else f"{money['used']:g}"
    limit = "" if money["limit"] is None else f" of {money['limit']:g}"
    return f"{used}{limit} {currency}".strip()
