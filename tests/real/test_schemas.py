"""The discovery messages against Home Assistant's own schemas: the newest, and the oldest that the README names."""

import datetime as dt
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.homeassistant.summary import SUMMARY, summary_discovery
from claude_usage_mqtt.service.discovery_message import DiscoveryMessage
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.topics import Topics, encode
from claude_usage_mqtt.usage.account import AccountUsage
from parts.documents import make_extra_usage, make_limit, plans, sample_usage
from parts.readings import take
from parts.simulation import make_state

NOW = dt.datetime(2026, 11, 20, 12, 30, tzinfo=dt.UTC)
INSTALLED = {"newest": "hass", "oldest (2025.12)": "h2512"}
LABELS = {1: (None,), 3: ("personal", "Work", 'He said "{{ hi }}" \N{PILE OF POO}')}
MONEY = {
    "EUR": make_extra_usage(190.0, 1700, "EUR"),
    "USD": make_extra_usage(1234.0, None, "USD"),
    "JPY": make_extra_usage(4500, 30000, "JPY", decimal_places=0),
    "unknown": make_extra_usage(190.0, 1700, "EUR") | {"currency": None},
}
HOSTILE = "{{ states('x') }} {% raw %} \" ' \N{HEAVY BLACK HEART} Opus"


def announce(document: dict[str, Any], label: str | None, *, later: dict[str, Any] | None = None) -> bytes:
    """Return the discovery message of an account that got this answer, and 24 hours later this one if there is one."""
    account = AccountUsage("default" if label is None else "account")
    topics = Topics(base="claude-usage", account=account.account)
    message = DiscoveryMessage(make_state().options._replace(topics=topics, label=label))

    def update(now: dt.datetime) -> bytes:
        return message.update(account, now, has_login_expiry=True, reporters=("laptop", "work_mac"))

    take(account, parse_usage(document, NOW, plan="max"), (75.0,))
    payload = update(NOW)
    for hour in range(1, 26 if later else 1):
        now = NOW + dt.timedelta(hours=hour)
        take(account, parse_usage(later or {}, now, plan="max"), (75.0,))
        payload = update(now)
    return payload


def messages() -> Iterator[tuple[str, bytes]]:
    """Yield a name and a discovery message for every shape."""
    for (plan, document), (count, labels) in itertools.product(plans(NOW), LABELS.items()):
        for number, label in enumerate(labels):
            yield f"{plan}-{count}-{number}", announce(document, label)
    for currency, money in MONEY.items():
        yield f"currency-{currency}", announce(sample_usage(now=NOW, extra_usage=money), None)
    limits = [make_limit("weekly_scoped", 5, NOW + dt.timedelta(days=2), model=HOSTILE)]
    yield "hostile", announce(sample_usage(now=NOW, limits=limits), None)
    topics = Topics(base="claude-usage", account=SUMMARY)
    yield "summary", encode(summary_discovery(topics, topics._replace(account="work").health))


def validate(scripts: Path, installed: str, payloads: dict[str, bytes]) -> str:
    """Return the findings of Home Assistant's schemas, a line per message and one per finding."""
    root = Path(os.environ.get("HA_ROOT") or Path(os.environ.get("TMPDIR", "/tmp")) / "real-parts") / "forky"  # noqa: S108
    if not (root / "opt" / installed / "VERSION").exists():
        pytest.skip(f"NOT VALIDATED: Home Assistant {installed} is not installed (setup_ha.sh with INST={installed})")
    folder = Path(tempfile.mkdtemp(dir=root / "tmp"))
    try:
        for name, payload in payloads.items():
            (folder / f"{name}.json").write_bytes(payload)
        inside = [f"/tmp/{folder.name}/{name}.json" for name in payloads]  # noqa: S108
        with (scripts / "ha_validate.py").open("rb") as program:
            done = subprocess.run(
                ["chroot", str(root), f"/opt/{installed}/bin/python", "-", *inside],
                stdin=program,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
    finally:
        shutil.rmtree(folder)
    assert done.stdout, done.stderr
    return done.stdout


@pytest.mark.parametrize("which", INSTALLED)
def test_home_assistant_accepts_everything(scripts: Path, which: str) -> None:
    """For every plan, number of accounts and currency all entities are accepted, with no option ignored."""
    payloads = dict(messages())
    said = validate(scripts, INSTALLED[which], payloads)
    found = dict(re.findall(r"/([^/]+)\.json: (\d+) findings", said))
    assert found == dict.fromkeys(payloads, "0"), said


@pytest.mark.parametrize("which", INSTALLED)
def test_home_assistant_understands_removals(scripts: Path, which: str) -> None:
    """After a window and the money have been gone for a day, their entities are removed, and only those."""
    gone = announce(
        sample_usage(now=NOW, scoped={"Fable": 3}, extra_usage=MONEY["EUR"]), None, later=sample_usage(now=NOW)
    )
    lines = validate(scripts, INSTALLED[which], {"gone": gone}).splitlines()[1:]
    removed = [line.split() for line in lines]
    assert {row[0] for row in removed} == {"INFO"}, lines
    assert {re.sub("_fable_.*|_usage_.*", "", row[1]) for row in removed} == {"seven_day", "extra"}
    assert len(removed) == 12 + 6
