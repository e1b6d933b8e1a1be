"""All measurements and the table of them: `python -m benchmarks [--full]`."""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.process import ENVIRONMENT, cpu_seconds, first_line, median, resident_megabytes, running
from benchmarks.world import Counter, Reading, Run, World, endpoint, world
from parts.broker import available

IMPORTS = "import paho.mqtt.client, httpx, pydantic_settings"
WARM_UP = 100
"""Polls that are not counted: what is made once has been made after them."""


THREE_LIBRARIES = "importing the three libraries"

MISSED = 3
"""Exit status where a target is missed; other machines at work are enough for that."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; `value` is what the target is for, a ratio where there is a floor of the same kind."""

    what: str
    ours: str
    against: str = ""
    value: float | None = None
    target: float | None = None
    unit: str = "×"

    @property
    def is_met(self) -> bool:
        """Whether no target exists, or it is met."""
        return self.target is None or self.value is None or self.value <= self.target

    def cells(self) -> tuple[str, ...]:
        """Return the cells, as Markdown."""
        ratio = f"{self.value:.2f} ×" if self.value is not None and self.unit == "×" else ""
        target = "" if self.target is None else f"≤ {self.target:g} {self.unit}".rstrip()
        return self.what, self.ours, self.against, ratio, target if self.is_met else f"**missed:** {target}"


def main() -> int:
    """Measure, print the table, return `MISSED` where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="10,000 polls, and more of everything: some ten minutes")
    full = parser.parse_args().full
    if sys.platform != "linux" or not available():
        print("The benchmark needs Linux and Mosquitto; nothing was measured.")
        return 0
    began, rows = time.monotonic(), []
    with world() as around:
        for measure in (start, healthcheck, polls, accounts):
            for row in measure(around, full):
                rows.append(row)
                print(f"{time.monotonic() - began:5.0f} s  {row.what}: {row.ours}", file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {machine()}")
    missed = [row.what for row in rows if not row.is_met]
    if missed:
        print(f"Missed: {', '.join(missed)}")
    return MISSED if missed else 0


def table(rows: list[Row]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| what | ours | against | ratio | target |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield f"| {' | '.join(row.cells())} |"


def machine() -> str:
    """Return what this was measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"Python {platform.python_version()}, {os.cpu_count()} × {model}"


def start(around: World, full: bool) -> Iterator[Row]:  # noqa: FBT001
    """Measure the start, turn by turn with its floors, so that a busy moment meets all of them."""
    imports, bare, ours = [], [], []
    with endpoint() as url:
        for _ in range(15 if full else 7):
            began = time.perf_counter()
            with running("-c", IMPORTS) as libraries:
                libraries.wait()
                imports.append(time.perf_counter() - began)
            bare.append(_until_retained(around, url, bare=True))
            ours.append(_until_retained(around, url, bare=False))
    floor, value = median(imports), median(ours)
    yield Row(
        what="process start to the first retained state",
        ours=f"{value * 1000:.0f} ms",
        against=f"{THREE_LIBRARIES}: {floor * 1000:.0f} ms",
        value=value / floor,
        target=1.5,
    )
    yield Row(
        what="the same",
        ours=f"{value * 1000:.0f} ms",
        against=f"and one bare GET, one bare publish: {median(bare) * 1000:.0f} ms",
        value=value / median(bare),
    )


def _until_retained(around: World, url: str, *, bare: bool) -> float:
    prefix = next(around.names)
    topic = f"{prefix}/default/state"
    # this topic alone: a message that comes behind others waits in the broker until those are acknowledged
    with Counter(around.broker.port, (topic,)) as counter:
        began = time.perf_counter()
        command = ["benchmarks.floor", url, str(around.broker.port), topic, "1"] if bare else ["claude_usage_mqtt"]
        with running("-m", *command, environment=around.environment(prefix, url)):
            return counter.wait_for(topic) - began


def healthcheck(_around: World, full: bool) -> Iterator[Row]:  # noqa: FBT001
    """Measure how long `healthcheck` takes, as the container starts it."""
    script = Path(sys.executable).parent / "claude-usage-mqtt"
    command = [str(script)] if script.exists() else [sys.executable, "-m", "claude_usage_mqtt"]
    bare, ours = [], []
    for _ in range(60 if full else 20):
        for times, arguments in ((bare, [sys.executable, "-c", "pass"]), (ours, [*command, "healthcheck"])):
            began = time.perf_counter()
            said = subprocess.run(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, check=False).stdout
            times.append(time.perf_counter() - began)
    assert said.startswith(b"claude-usage-mqtt"), said
    yield Row(
        what="`healthcheck`",
        ours=f"{median(ours) * 1000:.1f} ms",
        against=f"`python -c pass`: {median(bare) * 1000:.1f} ms",
        value=median(ours) / median(bare),
        target=2,
    )


def polls(around: World, full: bool) -> Iterator[Row]:  # noqa: FBT001
    """Measure memory, CPU and messages over many polls of one account."""
    with running("-c", f"{IMPORTS}\nprint('done', flush=True)\ninput()") as libraries:
        first_line(libraries)
        floor = resident_megabytes(libraries)
    bare = _bare_poll(around)
    marks = (1_000, 10_000) if full else (1_000,)
    for kind, changes in (("changed", True), ("unchanged", False)):
        # without a change it asks half as often
        with Run(around, changes=changes, polls_per_second=150 if changes else 300) as run:
            first = run.reading_after(WARM_UP)
            for mark in marks:
                last = run.reading_after(mark)
                yield Row(
                    what=f"resident memory after {mark:,} {kind} polls",
                    ours=f"{last.resident:.1f} MB",
                    against=f"{THREE_LIBRARIES}: {floor:.1f} MB",
                    value=last.resident / floor,
                    target=1.15,
                )
        yield Row(
            what=f"growth from poll {first.polls} to {last.polls:,}", ours=f"{last.resident - first.resident:+.1f} MB"
        )
        yield from _per_poll(first, last, bare, changes=changes)


def _bare_poll(around: World) -> float:
    count = 500
    with endpoint() as url:
        used = []
        for number in (0, count):
            with running("-m", "benchmarks.floor", url, str(around.broker.port), "floor", str(number)) as process:
                first_line(process)
                used.append(cpu_seconds(process))
    return (used[1] - used[0]) / count


def _per_poll(first: Reading, last: Reading, bare: float, *, changes: bool) -> Iterator[Row]:
    kind = "changed" if changes else "unchanged"
    count = last.polls - first.polls
    cpu, messages = (last.cpu - first.cpu) / count, (last.messages - first.messages) / count
    yield Row(
        what=f"CPU per {kind} poll" + ("" if changes else ", with 20 looks at the credentials"),
        ours=f"{cpu * 1000:.2f} ms",
        against=f"one bare GET, one bare publish: {bare * 1000:.2f} ms",
        value=cpu * 1000,
        target=None if changes else 5,
        unit="ms",
    )
    yield Row(
        what=f"messages per {kind} poll",
        ours=f"{messages:.1f}",
        value=round(messages, 1),  # counting begins and ends in the middle of a poll, and a week ends once
        target=None if changes else 2,
        unit="",
    )
    yield Row(what=f"bytes per {kind} poll", ours=f"{(last.size - first.size) / count:,.0f}")


def accounts(around: World, full: bool) -> Iterator[Row]:  # noqa: FBT001
    """Measure what more accounts cost, each polled at its normal pace."""
    rounds = 24 if full else 5
    cost: dict[int, float] = {}
    for number in (1, 10, 50, 200):
        # as many polls for few as for many, else the kernel's clock is too coarse
        turns = max(rounds, rounds * 100 // number)
        with Run(around, changes=True, accounts=number, polls_per_second=200) as run:
            first = run.reading_after(2 * number)
            last = run.reading_after((2 + turns) * number)
        cost[number] = (last.cpu - first.cpu) / (last.polls - first.polls) * number
        linear = number > 10
        yield Row(
            what=f"{number} account{'s' if number > 1 else ''}, polled once each: CPU; memory",
            ours=f"{cost[number] * 1000:.1f} ms; {last.resident:.1f} MB",
            against=f"10 accounts: {cost[10] * 1000:.1f} ms" if linear else "",
            value=cost[number] / cost[10] if linear else None,
            target=1.1 * number / 10 if linear else None,
        )


if __name__ == "__main__":
    sys.exit(main())
