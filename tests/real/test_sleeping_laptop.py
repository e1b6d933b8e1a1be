"""What the user of a real Home Assistant sees of a sleeping laptop that has the login."""

import datetime as dt
from pathlib import Path

from claude_usage_mqtt.usage.reading import REPORTER
from parts.broker import Mosquitto
from parts.credentials import write_credentials
from parts.documents import sample_usage
from parts.endpoint import Endpoint
from parts.service import HEALTH, Clock, ServiceProcess, running_service
from parts.watcher import Watcher
from real.home import HomeAssistant

USAGE = "sensor.claude_session_usage"
LAPTOP = "binary_sensor.claude_reporter_laptop"


def test_a_laptop_that_sleeps_and_wakes_up(
    home: HomeAssistant, mosquitto: Mosquitto, watcher: Watcher, endpoint: Endpoint, tmp_path: Path
) -> None:
    """A sleeping laptop is visible, the numbers stay until they are stale, and are right again once it is awake."""
    endpoint.document = sample_usage(five_hour=42.0)
    write_credentials(tmp_path / "laptop")
    settings = {"MQTT_PORT": mosquitto.port, "CLAUDE_API_URL": endpoint.url, "MACHINE_NAME": "laptop"}
    clock = Clock()
    with running_service(
        mosquitto.port, "http://127.0.0.1:1", tmp_path / "nothing", selected=(REPORTER,), clock=clock, limited=True
    ):
        with ServiceProcess(tmp_path / "laptop", ("report",), **settings) as process:
            home.wait_for(**{USAGE: "42.0", LAPTOP: "on"})
            process.process.kill()
            watcher.wait_topic(HEALTH, lambda message: '"status":"away"' in message.payload)
        clock.sleep(dt.timedelta(minutes=11))
        states = home.wait_for(**{LAPTOP: "off"})
        assert states[USAGE]["state"] == "42.0"
        clock.sleep(dt.timedelta(hours=1))
        home.wait_for(**{USAGE: "unavailable", "sensor.claude_status": "No reporter"})
        endpoint.document = sample_usage(five_hour=43.0)
        with ServiceProcess(tmp_path / "laptop", ("report",), **settings):
            home.wait_for(**{USAGE: "43.0", LAPTOP: "on", "sensor.claude_status": "OK"})
