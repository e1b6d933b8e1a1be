"""The wire format of the usage endpoint: what is understood, and that nothing in it can do harm."""

import math
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings

from claude_usage_mqtt.errors import InvalidResponse
from claude_usage_mqtt.homeassistant.inventory import Inventory, entities
from claude_usage_mqtt.sources.api.wire import MAX_SCOPED_WINDOWS, parse_usage
from claude_usage_mqtt.untrusted import MAX_LABEL, slug
from claude_usage_mqtt.usage.reading import ExtraUsage, Reading
from claude_usage_mqtt.usage.saved_state import WINDOW_KEY
from parts.documents import make_extra_usage, make_limit, make_spend, make_window, plans, sample_usage
from parts.hostile import INJECTIONS, spoiled, values

NOW = datetime(2026, 11, 20, 12, 34, 56, tzinfo=UTC)
RESET = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
PLANS = dict(plans(NOW))
EXTRA = make_extra_usage(190, 1700, "EUR")


def parse(answer: Any, plan: str | None = None) -> Reading:
    """Parse an answer read NOW."""
    return parse_usage(answer, NOW, plan=plan)


def money_of(**sections: Any) -> ExtraUsage:
    """Return the money of an answer with these sections."""
    money = parse(sample_usage(now=NOW, **sections)).extra_usage
    assert money is not None
    return money


def scoped(*names: object) -> dict[str, Any]:
    """Return an answer that has only the weekly windows of models of these names."""
    limits = [make_limit("weekly_scoped", 5, RESET, model="x") for _ in names]
    for limit, name in zip(limits, names, strict=True):
        limit["scope"]["model"]["display_name"] = name
    return sample_usage(now=NOW, five_hour=None, seven_day=None, limits=limits)


TWO = {"five_hour": "Session", "seven_day": "Weekly"}


@pytest.mark.parametrize(
    ("plan", "windows", "money"),
    [
        ("pro", TWO, (True, 1.9, 17.0, "EUR")),
        (
            "max",
            TWO | {"seven_day_opus": "Weekly Opus", "seven_day_fable": "Weekly Fable"},
            (True, 12.34, None, "USD"),
        ),
        ("team", TWO, (True, 50.23, None, "USD")),
        ("enterprise", {}, (True, 4500.0, 30000.0, "EUR")),
        ("free", {}, None),
    ],
)
def test_each_plan_shows_its_windows_and_its_money(
    plan: str, windows: dict[str, str], money: tuple[bool, float, float | None, str] | None
) -> None:
    """Whatever the subscription, its windows and amounts are there under their names, and nothing is made up."""
    usage = parse(PLANS[plan], plan)
    assert {window.key: window.label for window in usage} == windows
    assert usage.plan == plan
    assert usage.malformed == ()
    found = usage.extra_usage
    assert (found and (found.enabled, found.used, found.limit, found.currency)) == money


def test_the_more_precise_number_is_shown() -> None:
    """The flat windows carry decimals that `limits` has rounded away."""
    usage = parse(sample_usage(now=NOW, five_hour=41.6, seven_day=16.580000000000002))
    assert usage["five_hour"].utilization == 41.6
    assert usage["seven_day"].utilization == pytest.approx(16.58)


def test_limits_alone_are_enough() -> None:
    """If the flat windows are null, session and week come from `limits`, with the resets given there."""
    usage = parse(sample_usage(now=NOW, scoped={"Fable": 31}) | {"five_hour": None, "seven_day": None})
    assert [(w.key, w.utilization) for w in usage] == [("five_hour", 42), ("seven_day", 17), ("seven_day_fable", 31)]
    assert all(window.resets_at is not None for window in usage)


def test_flat_windows_alone_are_enough() -> None:
    """An answer of the older shape, without `limits`, shows the same windows."""
    document = sample_usage(now=NOW, seven_day_opus=3, seven_day_sonnet=4.5)
    del document["limits"]
    usage = parse(document)
    numbers = {"five_hour": 42, "seven_day": 16.580000000000002, "seven_day_opus": 3, "seven_day_sonnet": 4.5}
    assert {window.key: window.utilization for window in usage} == numbers


def test_the_reset_may_be_in_either_place() -> None:
    """A reset that only one of the two shapes gives is not lost."""
    document = sample_usage(now=NOW, five_hour=make_window(7, None))
    document["limits"] = [make_limit("session", 7, RESET)]
    assert parse(document)["five_hour"].resets_at == RESET
    document["five_hour"] = make_window(7, RESET)
    document["limits"][0].pop("resets_at")
    assert parse(document)["five_hour"].resets_at == RESET


def test_an_idle_window_stays_idle() -> None:
    """0 % and no reset means that the window has not started; `limits` do not start it."""
    document = sample_usage(now=NOW, five_hour=make_window(0, None))
    document["limits"] = [make_limit("session", 0, RESET)]
    assert parse(document)["five_hour"].is_idle


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20T15:00:00+00:00",
        "2026-11-20T15:00:00Z",
        "2026-11-20T15:00:00.000000+00:00",
        "2026-11-20T16:00:00+01:00",
        "2026-11-20T15:00:00",
        # Claude Code already understands seconds; one day the API may send them, or milliseconds.
        RESET.timestamp(),
        int(RESET.timestamp() * 1000),
        str(int(RESET.timestamp())),
    ],
)
def test_every_form_of_a_reset_is_the_same_instant(text: Any) -> None:
    """The API writes the same instant in several ways, even within one answer."""
    assert parse(sample_usage(now=NOW, five_hour=make_window(1, text)))["five_hour"].resets_at == RESET


def test_one_percent_is_one_percent() -> None:
    """1.0 is 1 %, not all of it; whole numbers and those above 100 are taken as they are."""
    for value in (1.0, 1, 0.4, 100, 137.5):
        assert parse(sample_usage(now=NOW, five_hour=make_window(value, RESET)))["five_hour"].utilization == value


@pytest.mark.parametrize(
    "section",
    [
        *("full", 7, [], {}),
        *({"utilization": n, "resets_at": None} for n in (None, "42", True, -1, math.nan, math.inf, 10**400, 201)),
        {"utilization": 900.0, "resets_at": "2026-11-20T15:00:00Z"},
        {"utilization": 5, "resets_at": "2026-11-25T15:00:00Z"},
    ],
)
def test_a_malformed_window_becomes_unknown_and_affects_no_other(section: Any) -> None:
    """Numbers that cannot be right are not shown; everything else in the same answer is."""
    usage = parse(sample_usage(now=NOW, five_hour=None, extra_usage=EXTRA) | {"five_hour": section})
    assert usage.five_hour is None
    assert usage.malformed == ("five_hour",)
    assert usage.seven_day is not None
    assert usage.extra_usage is not None


@pytest.mark.parametrize("limits", ["all", 5, {}, [None, 7, "x", [], {}], [{"kind": "session"}], [{"kind": "new"}]])
def test_malformed_limits_affect_nothing_else(limits: Any) -> None:
    """Whatever is in `limits`, the flat windows stay."""
    usage = parse(sample_usage(now=NOW, limits=limits))
    assert set(usage.windows) == {"five_hour", "seven_day"}


def test_a_malformed_entry_of_limits_affects_no_other() -> None:
    """One model's bad entry does not hide the next model's."""
    document = scoped("Fable", "Opus")
    document["limits"][0]["percent"] = "much"
    usage = parse(document)
    assert set(usage.windows) == {"seven_day_opus"}
    assert usage.malformed == ("limits.seven_day_fable",)


@pytest.mark.parametrize(
    "section",
    [
        *("none", [], {}, {"is_enabled": "yes"}),
        *(EXTRA | {"used_credits": used} for used in ("190", -3)),
        *(EXTRA | {"decimal_places": places} for places in (1000, -2, True)),
        EXTRA | {"monthly_limit": math.nan},
        EXTRA | {"currency": "{{ x }}"},
        EXTRA | {"utilization": "11"},
    ],
)
def test_malformed_money_is_unknown_and_affects_nothing_else(section: Any) -> None:
    """A wrong amount is worse than none; the windows are still shown."""
    usage = parse(sample_usage(now=NOW, extra_usage=section))
    assert usage.extra_usage is None
    assert usage.malformed == ("extra_usage",)
    assert set(usage.windows) == {"five_hour", "seven_day"}


@pytest.mark.parametrize(
    "section",
    [
        [],
        {"used": 5},
        {"used": {"amount_minor": "5"}},
        {"used": {"amount_minor": 5, "currency": "EUR"}, "limit": {"amount_minor": 9, "currency": "USD"}},
        make_spend(1, 2, "EUR") | {"enabled": "yes"},
    ],
)
def test_malformed_spend_is_unknown(section: Any) -> None:
    """The other form of the money is trusted no more than the first."""
    usage = parse(sample_usage(now=NOW, spend=section))
    assert usage.extra_usage is None
    assert usage.malformed == ("spend",)


def test_amounts_are_whole_units() -> None:
    """190 minor units are 1.90 EUR, 4500 are 4500 JPY, 1250 are 1.250 KWD; without places it is 2."""
    for currency, places, used in (("EUR", 2, 1.9), ("JPY", 0, 190.0), ("KWD", 3, 0.19)):
        extra = make_extra_usage(190, 1700, currency, decimal_places=places)
        spend = make_spend(190, 1700, currency, exponent=places)
        for money in (money_of(extra_usage=extra), money_of(spend=spend)):
            assert (money.used, money.limit) == (used, 1700 / 10**places)
            assert money.remaining == pytest.approx(1510 / 10**places)
    without_places = {key: value for key, value in EXTRA.items() if key != "decimal_places"}
    assert money_of(extra_usage=without_places).used == 1.9


def test_spend_is_used_if_extra_usage_is_disabled_or_missing() -> None:
    """Money that is really spent is shown; extra usage that is off is shown as off."""
    off = make_extra_usage(0, None, "EUR", enabled=False)
    spend = make_spend(100, 200, "EUR")
    assert money_of(extra_usage=off).enabled is False
    assert money_of(extra_usage=off, spend=spend).used == 1.0
    assert money_of(extra_usage=off, spend=spend | {"enabled": False}).used == 0.0
    assert money_of(extra_usage=EXTRA, spend=spend).used == 1.9
    assert money_of(extra_usage="broken", spend=spend).used == 1.0


@pytest.mark.parametrize(("used", "limit"), [("usd", "USD"), (None, "USD"), ("USD", None)])
def test_one_currency_may_be_written_in_two_ways(used: str | None, limit: str | None) -> None:
    """Lower case, or a currency at one of the two amounts only, loses neither."""
    spend = make_spend(100, 200, "USD")
    spend["used"]["currency"], spend["limit"]["currency"] = used, limit
    money = money_of(spend=spend)
    assert (money.used, money.limit, money.currency) == (1.0, 2.0, "USD")


def test_what_only_spend_reports_is_not_lost() -> None:
    """Of two sections that describe the same money, each completes the other: amounts, percentage and reason."""
    extra = make_extra_usage(0, 5000, "USD") | {"used_credits": None, "utilization": None}
    spend = make_spend(1000, None, "USD") | {"disabled_reason": "org_spend_cap_reached"}
    money = money_of(extra_usage=extra, spend=spend)
    assert (money.used, money.limit, money.utilization) == (10.0, 50.0, 20.0)
    assert money.disabled_reason == "org_spend_cap_reached"


def test_a_limit_of_nothing_is_none_while_extra_usage_is_off() -> None:
    """An organization that used up its money is reported with a limit of 0, which nobody can have reached."""
    off = make_spend(0, 0, "USD") | {"enabled": False, "disabled_reason": "org_level_disabled_until"}
    money = money_of(spend=off)
    assert (money.limit, money.remaining, money.utilization, money.is_used_up) == (None, None, None, False)
    assert money.disabled_reason == "org_level_disabled_until"


@pytest.mark.parametrize(
    "resets_at", ["soon", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", {}, True, "2026-11-20T21:00:00Z"]
)
def test_a_reset_that_cannot_be_right_leaves_the_number(resets_at: Any) -> None:
    """An unreadable reset, or one later than the window can end, is unknown; the number is what people need."""
    window = parse({"five_hour": {"utilization": 5, "resets_at": resets_at}})["five_hour"]
    assert (window.utilization, window.resets_at) == (5, None)


@pytest.mark.parametrize("dollars", [{"used_dollars": 20.0}, {"remaining_dollars": 60}, {"used_dollars": 20, "x": 1}])
@pytest.mark.parametrize(("section", "key"), [("amber_ladder", "pool_amber_ladder"), ("five_hour", "five_hour")])
def test_dollars_make_up_for_a_missing_percentage(section: str, key: str, dollars: dict[str, float]) -> None:
    """A limit in dollars is shown in percent, whether the API reports what is used or what is left of it."""
    usage = parse({section: {"utilization": None, "resets_at": None, "limit_dollars": 80} | dollars})
    assert usage.windows[key].utilization == 25


@pytest.mark.parametrize("reason", [None, "", False])
def test_an_empty_reason_locks_no_window(reason: object) -> None:
    """Only a reason locks a window."""
    assert parse({"five_hour": make_window(5, RESET) | {"locked_reason": reason}})["five_hour"].locked is False
    assert parse({"five_hour": make_window(5, RESET) | {"locked_reason": "billing"}})["five_hour"].locked is True


def test_a_scope_may_be_a_name() -> None:
    """A limit of a model or a surface that is named without an object around it is not lost."""
    limits = [make_limit("weekly_scoped", 5, RESET, model="x"), make_limit("weekly_scoped", 6, RESET, model="x")]
    limits[0]["scope"], limits[1]["scope"] = {"model": "Opus"}, {"model": None, "surface": "code"}
    usage = parse(sample_usage(now=NOW, limits=limits))
    assert {"seven_day_opus", "seven_day_code"} <= set(usage.windows)


def test_unknown_sections_are_ignored_and_named() -> None:
    """Code names come and go every month; a window under one of them is not shown, and null means nothing."""
    usage = parse(sample_usage(now=NOW, amber_ladder=make_window(99, RESET)))
    assert set(usage.windows) == {"five_hour", "seven_day"}
    assert usage.ignored == ("amber_ladder", "tangelo")


@pytest.mark.parametrize("answer", [None, [], "x", 5, True, {"error": {"type": "overloaded_error"}}, {"x": None}])
def test_what_is_not_a_usage_document_is_refused(answer: Any) -> None:
    """Anything but a usage document is never mistaken for an account without windows."""
    with pytest.raises(InvalidResponse):
        parse(answer)


def test_limits_of_unknown_kinds_are_not_an_account_without_limits() -> None:
    """If the API renames all its limits, the plan is not shown as having none."""
    limits = [make_limit("session_v2", 5, RESET), make_limit("weekly_v2", 6, RESET)]
    with pytest.raises(InvalidResponse, match="limits of unknown kinds"):
        parse(sample_usage(now=NOW, five_hour=None, seven_day=None, limits=limits))
    assert dict(parse(sample_usage(now=NOW, five_hour=None, seven_day=None, limits=[])).windows) == {}


@pytest.mark.parametrize(
    "name", [*INJECTIONS, "A" * 10_000, "Ünïcødé Modèl", "模型", "  spaced   out  ", "\u0435", "\u0663", "\ufdfd" * 500]
)
def test_a_hostile_model_name_gets_into_no_key(name: str) -> None:
    """Keys become topics, entity ids and templates: they consist of a-z, 0-9 and _ whatever the API calls a model."""
    usage = parse(scoped(name) | {"five_hour": make_window(5, RESET)})
    for window in usage:
        assert WINDOW_KEY.fullmatch(window.key)
        rows = entities(Inventory(windows={window.key: window.label}))
        assert all(re.fullmatch(r"[a-z0-9_]{1,80}", row.key) for row in rows)
        assert window.label.isprintable()
        assert len(window.label) <= MAX_LABEL
    assert len(usage.windows) == 1 + bool(slug(name))


def test_only_so_many_windows_are_taken() -> None:
    """An answer with thousands of models cannot fill a broker with entities."""
    usage = parse(scoped(*(f"Model {n}" for n in range(5000))))
    assert len(usage.windows) == MAX_SCOPED_WINDOWS


def test_of_two_limits_of_one_name_the_tighter_is_shown() -> None:
    """The tighter one is the one that stops the work, whatever the order."""
    for percents in ((10, 60), (60, 10)):
        document = scoped("Opus", "opus!")
        for limit, percent in zip(document["limits"], percents, strict=True):
            limit["percent"] = percent
        assert parse(document)["seven_day_opus"].utilization == 60


def test_a_limit_is_not_hidden_by_a_placeholder_of_its_name() -> None:
    """A placeholder section with 0 % does not hide the limit that `limits` reports for the same model or surface."""
    limit = make_limit("weekly_scoped", 63, RESET, model="x")
    limit["scope"] = {"model": None, "surface": {"id": "cowork", "display_name": "Cowork"}}
    usage = parse({"seven_day_cowork": {"utilization": 0.0, "resets_at": None}, "limits": [limit]})
    window = usage["seven_day_cowork"]
    assert (window.utilization, window.resets_at, window.is_placeholder) == (63, RESET, False)


ANSWER = sample_usage(
    now=NOW,
    seven_day_opus=3.0,
    scoped={"Fable": 3},
    extra_usage=EXTRA,
    spend=make_spend(190, 1700, "EUR"),
)


@given(spoiled(ANSWER) | values)
@settings(max_examples=100)
def test_any_answer_is_a_usage_or_refused(answer: Any) -> None:
    """Whatever JSON arrives, what is shown is finite, named safely and bounded, or the answer is refused."""
    try:
        usage = parse(answer)
    except InvalidResponse:
        return
    assert len(usage.windows) <= MAX_SCOPED_WINDOWS + 7
    for key, window in usage.windows.items():
        assert key == window.key
        assert WINDOW_KEY.fullmatch(key)
        assert window.label.isprintable()
        assert 0 <= window.utilization <= 100_000
        assert window.resets_at is None or window.resets_at <= NOW + 2 * window.duration
    money = usage.extra_usage
    if money is not None:
        assert all(n is None or 0 <= n <= 1e12 for n in (money.used, money.limit, money.utilization, money.remaining))
        assert money.currency is None or re.fullmatch("[A-Z]{3}", money.currency)
    assert len(usage.ignored) <= 50
    assert all(name.isprintable() and len(name) <= MAX_LABEL for name in usage.ignored)


def test_a_huge_answer_takes_no_time() -> None:
    """An answer of the full megabyte that is allowed takes hardly any processor time."""
    document = scoped(*("x" * 100_000 for _ in range(9))) | {f"key{n}": n for n in range(20_000)}
    began = time.process_time()
    parse(document)
    assert time.process_time() - began < 1
