"""The loop's inbox: nothing that is put is lost, and every wait ends."""

import signal
import threading
import time
from types import FrameType

import pytest

from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.service.inbox import MAX_INBOX, Inbox, Stop


def message(number: int = 0) -> Message:
    """Return an incoming message."""
    return Message(topic="t", payload=b"%d" % number, retain=False)


def test_a_wait_ends_though_a_signal_outlasts_it() -> None:
    """A signal at the wrong moment does not stop the polling forever: the numbers would stay and look fresh."""
    inbox = Inbox()
    inbox.put(Stop())
    inbox.get(1)
    rescue = threading.Timer(5, inbox.put, [Stop()])
    rescue.start()

    def outlast(_number: int, _frame: FrameType | None) -> None:
        threading.Event().wait(0.1)

    before = signal.signal(signal.SIGALRM, outlast)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            assert inbox.get(max(0.0, until - time.monotonic())) is None
        assert rescue.is_alive()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        rescue.cancel()
        rescue.join()


@pytest.mark.parametrize("timeout", [0.0, 1e-9, 1e-6, 1e-4])
def test_the_shortest_waits_end(timeout: float) -> None:
    """However little time is left until something is due, it is done."""
    inbox = Inbox()
    for _ in range(2000):
        inbox.put(Stop())
        assert isinstance(inbox.get(timeout), Stop)
        assert inbox.get(timeout) is None


def test_a_wait_lasts_until_something_new_is_put() -> None:
    """An item that was already taken wakes nobody up: an idle laptop stays asleep."""
    inbox = Inbox()
    for number in range(2):
        inbox.put(message(number))
    assert [inbox.get(0), inbox.get(0)] == [message(0), message(1)]
    later = threading.Timer(0.05, inbox.put, [Stop()])
    later.start()
    assert isinstance(inbox.get(30), Stop)
    later.join()


def test_nothing_is_lost_between_threads() -> None:
    """Everything that paho, workers and signals report at the same time arrives, each in its order."""
    inbox = Inbox()
    senders = [
        threading.Thread(target=lambda first=first: [inbox.put(message(first + n)) for n in range(400)])
        for first in (0, 1000, 2000, 3000)
    ]
    for sender in senders:
        sender.start()
    got: list[int] = []
    until = time.monotonic() + 10
    while len(got) < 1600:
        assert time.monotonic() < until
        item = inbox.get(1)
        if isinstance(item, Message):
            got.append(int(item.payload))
    for sender in senders:
        sender.join()
    assert inbox.get(0) is None
    for first in (0, 1000, 2000, 3000):
        assert [number for number in got if first <= number < first + 1000] == list(range(first, first + 400))


def test_a_flood_is_bounded_and_cannot_keep_stop_out() -> None:
    """A flood of messages on our topics does not fill the memory, and the service can still be stopped."""
    inbox = Inbox()
    for number in range(MAX_INBOX + 100):
        inbox.put(message(number))
    stop = Stop()
    inbox.put(stop)
    items = []
    while (item := inbox.get(0)) is not None:
        items.append(item)
    assert len(items) == MAX_INBOX + 1
    assert items[-1] is stop
