"""`run` in a Home Assistant app: what has to happen before the settings can be read."""

from __future__ import annotations

import logging
import os
import time
from types import FrameType

from claude_usage_mqtt.cli import handle_signals
from claude_usage_mqtt.errors import BrokerError
from claude_usage_mqtt.logs import set_up_logging
from claude_usage_mqtt.service.liveness import BEAT_EVERY, Liveness
from claude_usage_mqtt.settings import supervisor

ASK_EVERY = BEAT_EVERY
"""Seconds between two questions for a broker, which may be installed hours later; each is also a sign of life."""

log = logging.getLogger(__name__)


def prepare() -> None:
    """Put the app's options and the broker's login into the environment, as the image's user.

    Waits for a broker as long as it takes; SIGTERM and SIGINT are an orderly end meanwhile. Raises SettingsError.
    """
    handle_signals(_stop)
    options = supervisor.read_options(supervisor.OPTIONS)
    supervisor.drop_privileges()
    set_up_logging(options.get("LOG_LEVEL", "info"), "text")
    broker = {} if "MQTT_HOST" in options else wait_for_broker()
    if "MQTT_USERNAME" in options:
        broker.pop("MQTT_PASSWORD", None)  # belongs to another login
    supervisor.forget_token()
    os.environ.update(broker | options)


def wait_for_broker() -> dict[str, str]:
    """Return the Supervisor's broker as soon as it has one; each new reason to wait is logged once."""
    liveness, reported = Liveness(), ""
    try:
        while True:
            liveness.beat()
            try:
                return supervisor.fetch_broker()
            except BrokerError as error:
                if str(error) != reported:
                    reported = str(error)
                    log.warning("%s Asking again every %d s.", reported, ASK_EVERY)
            time.sleep(ASK_EVERY)
    finally:
        liveness.stop()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
