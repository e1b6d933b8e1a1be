"""Whatever the API and the clock do: numbers are right or unknown, with one line at each break and return."""

import datetime as dt
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.service import liveness, workers
from parts import faults
from parts.credentials import FILE_NAME, write_credentials
from parts.documents import sample_usage
from parts.endpoint import Endpoint, Fault
from parts.service import HEALTH, STATE, Clock, Running, Serve, command, has_status, is_ok, session_is
from parts.watcher import Watcher

DEADLINE = 0.4
SPEED = 600.0
"""Five minutes in half a second: a back-off of ten minutes takes one."""
AGAIN = "the usage is known again"


@pytest.fixture
def running(serve: Serve, watcher: Watcher, endpoint: Endpoint) -> Iterator[Running]:
    """Run the service on a fast clock until its first numbers are on the broker."""
    clock = Clock(SPEED)
    endpoint.document = lambda _: truth(clock)
    with serve(clock=clock, deadline=DEADLINE) as found:
        watcher.wait_topic(HEALTH, is_ok)
        yield found


def truth(clock: Clock) -> Any:
    """Return an answer whose session ends two hours from now."""
    return sample_usage(now=clock.now(), five_hour=55.0, resets_at=clock.now() + dt.timedelta(hours=2))


FAULTS: list[tuple[Fault, str]] = [
    (faults.rate_limited(), "rate_limited"),
    (faults.rate_limited(120), "rate_limited"),
    (faults.server_error(), "server_error"),
    (faults.Hang(), "network_error"),
    (faults.invalid_json(), "invalid_response"),
]
"""One of each kind: the tests of the client cover which answers are of which kind."""


@pytest.mark.parametrize(("fault", "status"), FAULTS)
def test_each_fault_is_reported_once_and_recovered_from(
    endpoint: Endpoint, watcher: Watcher, running: Running, fault: Fault, status: str
) -> None:
    """The last good numbers stay, the status says what is wrong, and one back-off after the fault all is well."""
    endpoint.fault = fault
    shown = watcher.wait_topic(HEALTH, has_status(status)).json()
    watcher.wait_topic(HEALTH, lambda m: m.payload and m.json()["consecutive_failures"] >= 2)
    assert watcher.json(STATE)["windows"]["five_hour"]["utilization"] in (55.0, None)
    since = watcher.mark()
    endpoint.fault = None
    endpoint.release()
    watcher.wait_topic(HEALTH, is_ok, since=since)
    running.log.wait_for(AGAIN)
    assert shown["detail"].endswith(".")
    assert (running.log.count("WARNING"), running.log.count(AGAIN)) == (1, 1), running.log.text
    assert not watcher.messages("claude-usage/default/event/#")


def test_old_numbers_are_marked_old(endpoint: Endpoint, watcher: Watcher, running: Running) -> None:
    """After an hour without an answer the numbers must not be used, and after the reset they are unknown."""
    endpoint.fault = faults.server_error()
    watcher.wait_topic(HEALTH, has_status("server_error"))
    running.clock.sleep(dt.timedelta(minutes=55))
    watcher.wait_topic(HEALTH, lambda m: m.payload and not m.json()["fresh"] and m.json()["last_success"])
    running.clock.sleep(dt.timedelta(minutes=55))
    watcher.wait_topic(STATE, session_is(None))
    since = watcher.mark()
    endpoint.fault = None
    fresh = watcher.wait_topic(HEALTH, lambda m: m.json()["fresh"], since=since)
    known = watcher.wait_topic(
        STATE, lambda m: m.json()["windows"]["five_hour"]["utilization"] is not None, since=since
    )
    assert known.order < fresh.order
    assert running.log.count(AGAIN) == 1


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("fault", "status"), [(faults.unauthorized(), "unauthorized"), (faults.insufficient_scope(), "insufficient_scope")]
)
def test_a_refused_token_is_sent_again_rarely_and_another_one_at_once(
    endpoint: Endpoint, watcher: Watcher, home: Path, fault: Fault, status: str
) -> None:
    """A token that the API refuses is tried again a quarter of an hour later; another one is tried soon."""
    endpoint.fault = fault
    refused = watcher.wait_topic(HEALTH, has_status(status)).json()
    next_poll, alive_until = (dt.datetime.fromisoformat(refused[key]) for key in ("next_poll", "alive_until"))
    assert next_poll - alive_until > dt.timedelta(minutes=5)  # which is eight minutes after the poll
    endpoint.fault = None
    since = watcher.mark()
    write_credentials(home, token="another", expires_in=None)
    watcher.wait_topic(HEALTH, is_ok, since=since)
    assert endpoint.requests[-1].bearer == "another"


def test_a_token_renewed_in_between_is_tried_at_once(
    endpoint: Endpoint, watcher: Watcher, running: Running, home: Path
) -> None:
    """When Claude Code renews its token while ours is being refused, nobody notices."""

    class Renewing:
        def serve(self, exchange: Any) -> None:
            write_credentials(home, token="renewed", expires_in=None)
            exchange.answer_json(401, {"error": {"type": "authentication_error", "message": "no"}})

    since = watcher.mark()
    endpoint.fault_next(Renewing())
    endpoint.wait_for_requests(endpoint.count + 2)
    watcher.wait_topic(HEALTH, is_ok, since=since)
    assert running.log.count("WARNING") == 0
    assert "renewed" in {request.bearer for request in endpoint.requests}


def test_a_file_that_cannot_be_opened(
    serve: Serve, watcher: Watcher, endpoint: Endpoint, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead network mount is reported; once it is back, so are the numbers, and no thread outlives the service."""
    monkeypatch.setattr(workers, "WORKER_DEADLINE", 0.2)
    monkeypatch.setattr(liveness, "BEAT_EVERY", 0.1)
    (home / FILE_NAME).rename(home / "mended")
    os.mkfifo(home / FILE_NAME)  # opening it waits for a writer
    clock = Clock(SPEED)
    with serve(clock=clock) as running:
        shown = watcher.wait_topic(HEALTH, has_status("credentials_unreadable")).json()
        assert "hangs" in shown["detail"]
        assert endpoint.count == 0
        writer = os.open(home / FILE_NAME, os.O_WRONLY)
        (home / "mended").rename(home / FILE_NAME)
        os.close(writer)
        watcher.wait_topic(HEALTH, is_ok)
        running.log.wait_for(AGAIN)
        assert running.log.count("reading it hangs") == 1
        watches = [thread for thread in threading.enumerate() if thread.name == "login-watch"]
    assert watches
    for thread in watches:
        thread.join(10)
        assert not thread.is_alive()


def wake(watcher: Watcher) -> None:
    """Make the loop look at its clock now, and not within ten seconds, by a command without effect."""
    watcher.publish(command("interval"), "nonsense")


def test_the_host_was_asleep_for_a_day(serve: Serve, watcher: Watcher, endpoint: Endpoint) -> None:
    """After a day's sleep the old numbers are not mistaken for new ones, and one request brings new ones."""
    clock = Clock()
    endpoint.document = lambda _: truth(clock)
    with serve(clock=clock, limited=True) as running:
        before = watcher.wait_topic(HEALTH, is_ok).json()
        endpoint.fault = faults.Hang()
        since = watcher.mark()
        clock.sleep(dt.timedelta(days=1))
        wake(watcher)
        endpoint.wait_for_requests(2)
        watcher.wait_topic(HEALTH, lambda m: not m.json()["fresh"], since=since)
        endpoint.fault = None
        endpoint.release()
        after = watcher.wait_topic(HEALTH, lambda m: m.json()["fresh"], since=since).json()
        assert running.log.count("clock was set") == 0
    assert endpoint.count == 2
    span = dt.datetime.fromisoformat(after["last_success"]) - dt.datetime.fromisoformat(before["last_success"])
    assert dt.timedelta(hours=24) <= span < dt.timedelta(hours=25)


@pytest.mark.parametrize("step", [dt.timedelta(hours=-1), dt.timedelta(hours=1), dt.timedelta(days=-400)])
def test_the_clock_was_set(serve: Serve, watcher: Watcher, endpoint: Endpoint, step: dt.timedelta) -> None:
    """A forward step ages the numbers, a backward one does not; the next poll comes as soon as the budget allows."""
    clock = Clock()
    with serve(clock=clock, limited=True) as running:
        before = watcher.wait_topic(HEALTH, is_ok).json()
        since = watcher.mark()
        clock.set(step)
        wake(watcher)
        after = watcher.wait_topic(HEALTH, since=since).json()
        now = clock.now()
        running.log.wait_for("The clock was set by")
        assert running.log.count("clock was set") == 1
    assert endpoint.count == 1
    assert after["fresh"] is (step < dt.timedelta(0))
    moved = dt.datetime.fromisoformat(after["last_success"]) - dt.datetime.fromisoformat(before["last_success"])
    assert abs(moved - min(step, dt.timedelta(0))) <= dt.timedelta(seconds=3)
    assert dt.datetime.fromisoformat(after["next_poll"]) - now <= dt.timedelta(seconds=61)
