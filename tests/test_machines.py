"""A short night with three machines; `python -m machines` simulates days."""

import machines
from parts.broker import needs_mosquitto


@needs_mosquitto
def test_a_night_with_three_machines() -> None:
    """Machines sleep and wake up, tokens expire, everything restarts, a stranger interferes: the numbers stay right."""
    assert "requests" in machines.run(7, machines.story)
