"""The table of topics: which handler gets a message."""

from claude_usage_mqtt.mqtt.client import Message
from claude_usage_mqtt.service.routes import Route, Routes


def reached(topic: str, *, retain: bool = False, is_early: bool = False) -> list[str]:
    """Return which handler a message on `topic` reaches, and the levels that it gets."""
    found: list[str] = []

    def handler(name: str, **how: bool) -> Route:
        return Route(name, lambda _message, *levels: found.extend([name, *levels]), **how)

    routes = Routes(
        [
            handler("a/b/reporter/+", is_early=True, takes_retained=True),
            handler("a/b/+/command/+"),
            handler("a/b/+/statusline"),
            handler("a/b/work/health", is_late=True),
        ]
    )
    routes.handle(Message(topic=topic, payload=b"", retain=retain), is_early=is_early)
    return found


def test_a_message_reaches_the_handler_of_its_topic() -> None:
    """A base topic may have several levels; what is not in the table is ignored."""
    assert reached("a/b/work/command/refresh") == ["a/b/+/command/+", "work", "refresh"]
    assert reached("a/b/work/health") == ["a/b/work/health"]
    assert reached("a/b/work/command") == reached("a/b/home/health") == reached("b/work/statusline") == []


def test_a_reporter_may_be_named_like_a_topic() -> None:
    """A machine named `statusline` is treated as a reporter: the first row wins."""
    assert reached("a/b/reporter/statusline") == ["a/b/reporter/+", "statusline"]


def test_old_and_early_messages_reach_only_handlers_that_want_them() -> None:
    """A retained command would run again with each connection, and one during the start before anything is known."""
    assert reached("a/b/work/command/refresh", retain=True) == []
    assert reached("a/b/work/command/refresh", is_early=True) == []
    assert reached("a/b/reporter/desk", retain=True, is_early=True) == ["a/b/reporter/+", "desk"]
