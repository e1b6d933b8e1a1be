"""`demo`: all of it with a simulated account."""


def demo() -> int:
    """Show it all."""
    raise NotImplementedError
