"""The real service under a fast clock: `python -m benchmarks.service ORIGIN SPEED`, settings from the environment."""

import sys

from benchmarks.moment import fast_now
from claude_usage_mqtt.cli import handle_signals
from claude_usage_mqtt.cli.run import make_service
from claude_usage_mqtt.clock import FastClock
from claude_usage_mqtt.settings.load import load_settings


def main(origin: float, speed: float) -> None:
    """Run until SIGTERM."""
    clock = FastClock(speed, fast_now(origin, speed))
    service = make_service(load_settings(), clock)
    handle_signals(lambda _number, _frame: service.stop())
    service.run()


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
