"""For all tests: the parts that most of them need, and how property tests look for examples.

At a desk they look for new ones; in CI they use the same ones each time.
"""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from claude_usage_mqtt.settings.fields import variables
from claude_usage_mqtt.sources.api.client import UsageApi
from claude_usage_mqtt.sources.credentials.token import CredentialSource
from claude_usage_mqtt.usage.account import AccountUsage
from parts import patience
from parts.broker import Broker, Mosquitto, any_broker
from parts.credentials import write_credentials
from parts.endpoint import Connect, Endpoint
from parts.net import HeldPort
from parts.proxy import FaultyProxy
from parts.readings import make_account
from parts.service import Running, Serve, ServiceProcess, Start, running_service
from parts.watcher import Watcher

# No deadline: how long an example takes depends on what else the machine does.
settings.register_profile("desk", deadline=None, max_examples=50)
settings.register_profile("ci", settings.get_profile("desk"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

# A shell lets what it starts in the background ignore Ctrl-C, and so would the commands that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the proxy of the tester's own network out of the tests."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the program's waits."""
    for module, name, seconds in patience.SHORT:
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def running_broker() -> Iterator[Broker]:
    """Run a broker."""
    with any_broker() as found:
        yield found


@pytest.fixture
def mosquitto() -> Iterator[Mosquitto]:
    """Run Mosquitto."""
    with Mosquitto() as found:
        yield found


@pytest.fixture
def proxy(running_broker: Broker) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the broker."""
    with FaultyProxy(running_broker.port) as found:
        yield found


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port of loopback on which nobody listens."""
    with HeldPort() as port:
        yield port.number


@pytest.fixture
def watcher(running_broker: Broker) -> Iterator[Watcher]:
    """Watch everything on it."""
    with Watcher(running_broker.port) as found:
        yield found


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Run an endpoint."""
    with Endpoint() as found:
        yield found


@pytest.fixture
def connect(endpoint: Endpoint) -> Iterator[Connect]:
    """Return what makes a client of it, or of another address."""
    with contextlib.ExitStack() as stack:

        def connect(url: str = "", deadline: float = 10.0) -> UsageApi:
            return stack.enter_context(contextlib.closing(UsageApi(url or endpoint.url, "tests/1", deadline)))

        yield connect


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with a login of Claude Code that does not expire."""
    write_credentials(tmp_path / "home", expires_in=None)
    return tmp_path / "home"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty folder, with none of our variables set, and return it."""
    monkeypatch.chdir(tmp_path)
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def usage() -> AccountUsage:
    """Return an account of which nothing is known."""
    return make_account()


@pytest.fixture
def start(running_broker: Broker, endpoint: Endpoint, home: Path) -> Start:
    """Return what starts the service as a process, or another command."""

    def start(folder: Path = home, *arguments: str, **settings: Any) -> ServiceProcess:
        here = {"MQTT_PORT": running_broker.port, "CLAUDE_API_URL": endpoint.url}
        return ServiceProcess(folder, arguments or ("run",), **here | settings)

    return start


@pytest.fixture
def serve(running_broker: Broker, endpoint: Endpoint, home: Path) -> Serve:
    """Return what runs the service inside the test; another `port` is for a proxy or another listener."""

    def serve(
        login: Path | Mapping[str, CredentialSource] = home, *, port: int = running_broker.port, **more: Any
    ) -> contextlib.AbstractContextManager[Running]:
        return running_service(port, endpoint.url, login, **more)

    return serve
