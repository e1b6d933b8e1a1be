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

from benchmarks.process import (
    ENVIRONMENT,
    cpu_seconds,
    first_line,
    median,
    resident_megabytes,
    running,
    threads,
    wakeups,
)
from benchmarks.world import Counter, Reading, World, endpoint, run, world
from parts.broker import available

IMPORTS = "import paho.mqtt.client, httpx, pydantic_settings"
BARE_POLLS = 300
WARM_UP = 100
"""Polls that are not counted: after them, everything that is made once exists."""

PACE = 20
"""Polls a second, of the service and of the floor: a process that sleeps in between pays for each time it wakes up.
Five minutes pass in 50 ms, and a poll takes half a minute: no sign of life is due during it or before the next."""

ALIKE = 10
"""Answers with the same numbers: with more, the service would think that nobody is working, and ask less often."""

SETTLED_AFTER, IDLE_FOR = 20, 60
"""Seconds."""

THREE_LIBRARIES = "importing the three libraries"

MISSED = 3
"""Exit status if a target is missed; other work on the same hardware is enough for that."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; `value` is what the target limits, a ratio if there is a floor of the same kind."""

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
    """Measure, print the table, return `MISSED` if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="10,000 polls, and more of everything: half an hour")
    full = parser.parse_args().full
    if sys.platform != "linux" or not available():
        print("The benchmark needs Linux and Mosquitto; nothing was measured.")
        return 0
    began, rows = time.monotonic(), []
    with world() as around:
        for measure in (start, healthcheck, idle, polls, accounts):
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
    """Return the machine that this was measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"Python {platform.python_version()}, {os.cpu_count()} × {model}"


def start(around: World, full: bool) -> Iterator[Row]:  # noqa: FBT001
    """Measure the start alternately with its floors, so that a busy moment affects all of them."""
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
    # this topic alone: a message behind others waits in the broker until those are acknowledged
    with Counter(around.broker.port, (topic,)) as counter:
        began = time.perf_counter()
        command = ["benchmarks.floor", url, str(around.broker.port), topic, "1", "0"] if bare else ["claude_usage_mqtt"]
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


def _imports() -> float:
    with running("-c", f"{IMPORTS}\nprint('done', flush=True)\ninput()") as libraries:
        first_line(libraries)
        return resident_megabytes(libraries)


def idle(around: World, full: bool) -> Iterator[Row]:  # noqa: FBT001
    """Measure a service between two polls, and a reporter that nobody asks, both in real time."""
    prefix, floor = next(around.names), _imports()
    seconds = IDLE_FOR * (5 if full else 1)
    with endpoint() as url, running("-m", "claude_usage_mqtt", environment=around.environment(prefix, url)) as service:
        environment = around.environment(prefix, url) | {"MACHINE_NAME": "idle"}
        with running("-m", "claude_usage_mqtt", "report", environment=environment) as reporter:
            time.sleep(SETTLED_AFTER)
            before = wakeups(service), wakeups(reporter)
            time.sleep(seconds)
            for name, process, first in zip(("service", "reporter"), (service, reporter), before, strict=True):
                found = (wakeups(process) - first) * 60 / seconds
                yield Row(
                    what=f"wakeups a minute of an idle {name}, all {threads(process)} threads",
                    ours=f"{found:.0f}",
                    value=found,
                    target=20,
                    unit="",
                )
            yield _memory("resident memory of an idle reporter", resident_megabytes(reporter), floor)


def _memory(what: str, resident: float, floor: float) -> Row:
    return Row(
        what=what,
        ours=f"{resident:.1f} MB",
        against=f"{THREE_LIBRARIES}: {floor:.1f} MB",
        value=resident / floor,
        target=1.15,
    )


def polls(around: World, full: bool) -> Iterator[Row]:  # noqa: FBT001
    """Measure memory, CPU and messages over many polls of one account."""
    floor, (bare, bare_resident) = _imports(), _bare_polls(around)
    marks = (1_000, 10_000) if full else (1_000,)
    for kind, alike in (("changed", 1), ("unchanged", ALIKE)):
        with run(around, alike=alike, polls_per_second=PACE) as service:
            first = service.reading_after(WARM_UP)
            for mark in marks:
                last = service.reading_after(mark)
                yield _memory(f"resident memory after {mark:,} {kind} polls", last.resident, floor)
        if kind == "changed":
            yield Row(
                what="the same",
                ours=f"{last.resident:.1f} MB",
                against=f"{BARE_POLLS} bare GETs and publishes: {bare_resident:.1f} MB",
                value=last.resident / bare_resident,
            )
        yield Row(
            what=f"growth from poll {first.polls} to {last.polls:,}", ours=f"{last.resident - first.resident:+.1f} MB"
        )
        yield from _per_poll(kind, first, last, bare)


def _bare_polls(around: World) -> tuple[float, float]:
    """Return the CPU time of one, and the resident memory after all."""
    with endpoint() as url:
        used = []
        for number in (0, BARE_POLLS):
            arguments = (url, str(around.broker.port), "floor", str(number), str(1 / PACE))
            with running("-m", "benchmarks.floor", *arguments) as process:
                first_line(process)
                used.append(cpu_seconds(process))
                resident = resident_megabytes(process)
    return (used[1] - used[0]) / BARE_POLLS, resident


def _per_poll(kind: str, first: Reading, last: Reading, bare: float) -> Iterator[Row]:
    count, has_target = last.polls - first.polls, kind == "unchanged"
    cpu, messages = (last.cpu - first.cpu) / count, (last.messages - first.messages) / count
    yield Row(
        what=f"CPU per {kind} poll, with ten looks at the credentials",
        ours=f"{cpu * 1000:.2f} ms",
        against=f"one bare GET, one bare publish: {bare * 1000:.2f} ms",
        value=cpu / bare,
        target=4 if has_target else None,
    )
    yield Row(
        what=f"messages per {kind} poll",
        ours=f"{messages:.1f}",
        value=round(messages, 1),  # counting begins and ends in the middle of a poll, and a session ends now and then
        target=3 if has_target else None,
        unit="",
    )
    yield Row(what=f"bytes per {kind} poll", ours=f"{(last.size - first.size) / count:,.0f}")


def accounts(around: World, full: bool) -> Iterator[Row]:  # noqa: FBT001
    """Measure what more accounts cost, each polled at its normal pace."""
    rounds = 24 if full else 5
    cost: dict[int, float] = {}
    for number in (1, 10, 50, 200):
        # as many polls with few accounts as with many, else the kernel's clock is too coarse
        turns = max(rounds, rounds * 100 // number)
        with run(around, accounts=number, polls_per_second=PACE) as service:
            first = service.reading_after(2 * number)
            last = service.reading_after((2 + turns) * number)
        cost[number] = (last.cpu - first.cpu) / (last.polls - first.polls) * number
        linear = number > 10
        yield Row(
            what=f"{number} account{'s' if number > 1 else ''}, polled once each: CPU; memory",
            ours=f"{cost[number] * 1000:.1f} ms; {last.resident:.1f} MB",
            against=f"10 accounts: {cost[10] * 1000:.1f} ms" if linear else "",
            value=cost[number] / cost[10] if linear else None,
            target=1.1 * number / 10 if linear else None,
        )
    yield Row(what=f"threads with {number} accounts", ours=str(last.threads), value=last.threads, target=16, unit="")


if __name__ == "__main__":
    sys.exit(main())
