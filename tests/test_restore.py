"""How long a start waits for what an earlier run retained."""

from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.service.restore import LONGEST, QUIET, ROUNDS, RetainedReader


def test_a_slow_link_does_not_cost_the_memory() -> None:
    """The start waits for messages that come late, and for the rest of them; requests and events are not forgotten."""
    reader = RetainedReader(["state", "memory", "config"], "fence", 100.0)
    assert not reader.is_over(100 + LONGEST - 0.1)
    for at, topic in ((106.0, "state"), (107.0, "memory")):
        assert reader.take(Message(topic=topic, payload=b"{}", retain=True), at)
    assert not reader.is_over(107 + QUIET - 0.1)
    assert reader.is_over(107 + QUIET)


def test_a_broker_with_nothing_of_ours_is_not_waited_for_long() -> None:
    """The message that we send ourselves comes back after whatever is retained: the first start is quick."""
    reader = RetainedReader(["state"], "fence", 100.0)
    for _ in range(ROUNDS):
        assert not reader.is_over(100.1)
        reader.take(reader.fence, 100.1)
    assert reader.is_over(100.1)


def test_a_broker_that_does_not_send_us_anything_does_not_stop_the_start() -> None:
    """A service that may not read starts without a memory, and still publishes."""
    assert RetainedReader(["state"], "fence", 100.0).is_over(100 + LONGEST)
