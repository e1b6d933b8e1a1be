"""Real programs for the tests of this folder: they need REAL_PARTS, the folder of the scripts that start them."""

import datetime as dt
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from parts.broker import Mosquitto
from parts.credentials import write_credentials
from parts.endpoint import Endpoint
from parts.service import Serve, ServiceProcess, Start, running_service
from parts.watcher import Watcher
from real.account import document
from real.home import HomeAssistant, StepClock


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests here, and skip them loudly if the real programs are missing."""
    here = Path(__file__).parent
    missing = pytest.mark.skip(
        reason="NOT RUN AGAINST THE REAL PROGRAMS: set REAL_PARTS to the folder of the scripts that start them"
    )
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.real_parts)
            if not os.environ.get("REAL_PARTS"):
                item.add_marker(missing)


@pytest.fixture(scope="session")
def scripts() -> Path:
    """Return the folder of the scripts."""
    return Path(os.environ["REAL_PARTS"])


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[Mosquitto]:
    """Run the broker that Home Assistant is connected to."""
    with Mosquitto() as running:
        yield running


@pytest.fixture(scope="session")
def the_home(scripts: Path, mosquitto: Mosquitto) -> Iterator[HomeAssistant]:
    """Run one Home Assistant for all tests."""
    running = HomeAssistant(scripts, mosquitto.port)
    running.start(fresh=True)
    yield running
    running.stop()


@pytest.fixture
def home(the_home: HomeAssistant) -> Iterator[HomeAssistant]:
    """Return the Home Assistant; at the end its log must not have a new warning or error."""
    before = the_home.complaints()
    yield the_home
    new = the_home.complaints()[len(before) :]
    assert not new, "\n".join(new)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Run an endpoint."""
    with Endpoint(document()) as running:
        yield running


@pytest.fixture
def start(mosquitto: Mosquitto, endpoint: Endpoint, tmp_path: Path) -> Start:
    """Return what starts the service as its user runs it, with a login."""
    write_credentials(tmp_path)
    settings = {"MQTT_PORT": mosquitto.port, "CLAUDE_API_URL": endpoint.url}
    return lambda **more: ServiceProcess(tmp_path, **settings | more)


@pytest.fixture
def clock() -> StepClock:
    """Return a clock for the service that the test moves."""
    return StepClock()


@pytest.fixture
def serve(mosquitto: Mosquitto, endpoint: Endpoint, tmp_path: Path, clock: StepClock) -> Serve:
    """Return what runs the service inside the test, on that clock or another one, with a login for a month."""
    write_credentials(tmp_path, expires_in=dt.timedelta(days=30))
    return functools.partial(running_service, mosquitto.port, endpoint.url, tmp_path, clock=clock)


@pytest.fixture
def watcher(mosquitto: Mosquitto, home: HomeAssistant) -> Iterator[Watcher]:
    """Watch the broker; at the end remove what the service left, and check that Home Assistant follows."""
    with Watcher(mosquitto.port) as watching:
        yield watching
        for topic in watching.retained():
            if topic.startswith(("claude-usage/", "homeassistant/device/")):
                watching.publish(topic, "", retain=True)
        home.wait_entities(lambda entries: not entries)
