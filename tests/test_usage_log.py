"""The log of the numbers: whole lines, and no harm if there can be none."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.service.usage_log import MAX_WAITING, UsageLog
from claude_usage_mqtt.sources.api.wire import parse_usage
from claude_usage_mqtt.usage.account import AccountUsage
from claude_usage_mqtt.usage.document import state_document
from parts.documents import make_extra_usage, make_window, sample_usage
from parts.readings import take
from parts.waiting import eventually

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
RESET = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


def document(percent: float = 42.0, **more: Any) -> dict[str, Any]:
    """Return the state document of an answer."""
    account = AccountUsage("work")
    answer = sample_usage(now=NOW, five_hour=make_window(percent, RESET), **more)
    take(account, parse_usage(answer, NOW, plan="max"), ())
    return state_document(account, NOW)


def lines(path: Path) -> list[Any]:
    """Return the lines of a file, each of which is whole."""
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def numbers(path: Path) -> list[float]:
    """Return the session's percentage in each line."""
    return [line["five_hour_utilization"] for line in lines(path)]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_is_flat(tmp_path: Path) -> None:
    """Every number has its own key at the top level, as Loki and jq want it; what is not known is null, never 0."""
    path = tmp_path / "usage.log"
    UsageLog(path).write(document(scoped={"Fable": 31}, extra_usage=make_extra_usage(190.0, 1700, "EUR")), NOW)
    UsageLog(path).write(document(), NOW)
    line, without_money = lines(path)
    assert line["timestamp"] == "2026-11-20T12:00:00+00:00"
    assert (line["account"], line["plan"]) == ("work", "max")
    assert (line["five_hour_utilization"], line["five_hour_time_remaining_hours"]) == (42.0, 2.5)
    assert (line["five_hour_resets_at"], line["seven_day_fable_utilization"]) == ("2026-11-20T14:30:00+00:00", 31)
    assert (line["extra_usage_used"], line["extra_usage_limit"], line["extra_usage_currency"]) == (1.9, 17.0, "EUR")
    assert not any(isinstance(value, dict | list) for value in line.values())
    assert (without_money["extra_usage_used"], without_money["extra_usage_enabled"]) == (None, None)


def test_a_rotated_file_is_left_alone(tmp_path: Path) -> None:
    """After logrotate has moved or emptied the file the next line is in the new one."""
    path = tmp_path / "usage.log"
    log = UsageLog(path)
    log.write(document(1), NOW)
    log.write(document(2), NOW)
    path.rename(tmp_path / "usage.log.1")
    log.write(document(3), NOW)
    assert numbers(tmp_path / "usage.log.1") == [1, 2]
    assert numbers(path) == [3]
    os.truncate(path, 0)
    log.write(document(4), NOW)
    assert numbers(path) == [4]


def test_a_half_line_on_a_full_disk_spoils_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What does not fit is cut; that is logged once, and again when there is room, and the next line is whole."""
    path = tmp_path / "usage.log"
    log = UsageLog(path)
    log.write(document(1), NOW)
    caplog.set_level(logging.INFO)
    with largest_file(path.stat().st_size + 40):
        log.write(document(2), NOW)
    log.write(document(4), NOW)
    first, torn, fourth = path.read_text().splitlines()
    assert [json.loads(line)["five_hour_utilization"] for line in (first, fourth)] == [1, 4]
    assert len(torn) == 40
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert str(path) in caplog.records[0].message


def test_a_file_that_cannot_be_written_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the folder is missing, for example, the service continues, and writes as soon as it is there."""
    path = tmp_path / "missing" / "usage.log"
    log = UsageLog(path)
    log.write(document(1), NOW)
    log.write(document(2), NOW)
    assert len(caplog.records) == 1
    path.parent.mkdir()
    log.write(document(3), NOW)
    assert numbers(path) == [3]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_that_nobody_reads_does_not_hang(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A named pipe gets the lines while somebody reads it, and stops nothing while nobody does."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = UsageLog(path)
    log.write(document(1), NOW)
    assert len(caplog.records) == 1
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        log.write(document(2), NOW)
        assert json.loads(os.read(reader, 10_000))["five_hour_utilization"] == 2
    finally:
        os.close(reader)


def test_a_dead_mount_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a write hangs the service continues; lines wait, and if there are too many, that is logged once."""
    hangs, written = threading.Event(), []
    log, state = UsageLog(tmp_path / "usage.log"), document()

    def append(_self: UsageLog, line: bytes) -> None:
        hangs.wait()
        written.append(line)

    monkeypatch.setattr(UsageLog, "_append", append)
    for _ in range(MAX_WAITING + 10):
        log.put(state, NOW)
    assert len(caplog.records) == 1
    hangs.set()
    eventually(lambda: len(written) >= MAX_WAITING)
    log.close()
    assert len(written) <= MAX_WAITING + 1


def test_the_last_lines_are_written(tmp_path: Path) -> None:
    """When the service is stopped, the line of its last poll is written."""
    log = UsageLog(tmp_path / "usage.log")
    for percent in range(1, 4):
        log.put(document(percent), NOW)
    log.close()
    assert numbers(tmp_path / "usage.log") == [1, 2, 3]
