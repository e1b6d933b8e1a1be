"""A canary token and a canary password go through everything that can go wrong, and show up nowhere."""

import contextlib
import datetime as dt
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from claude_usage_mqtt.errors import ClaudeUsageError
from claude_usage_mqtt.mqtt.options import BrokerOptions
from claude_usage_mqtt.settings.fields import Settings
from claude_usage_mqtt.sources.credentials.file import CredentialsFile, GivenToken
from claude_usage_mqtt.sources.credentials.token import parse_credentials
from parts import faults
from parts.broker import Mosquitto, needs_mosquitto
from parts.command import call_command
from parts.credentials import FILE_NAME, write_credentials, write_credentials_text
from parts.endpoint import Connect, Endpoint, Exchange
from parts.proxy import FaultyProxy
from parts.service import HEALTH, Clock, Serve, Start, is_ok
from parts.watcher import Watcher

TOKEN = "sk-ant-oat01-CANARY-token"
PASSWORD = "CANARY-password"
CANARY = "CANARY"


class Echo:
    """A fault: an error that repeats the whole request, token and all, wherever a body has room for it."""

    def __init__(self, status: int) -> None:
        self.status = status

    def serve(self, exchange: Exchange) -> None:
        """Answer."""
        bearer = exchange.request.bearer or ""
        document = {"error": {"type": bearer, "message": f"user:profile {bearer}"}, bearer: bearer, "limits": bearer}
        exchange.answer_json(self.status, document)  # httpcore itself logs headers, at a level we never switch on


API_FAULTS = [
    *(Echo(status) for status in (200, 301, 401, 403, 404, 429, 500)),
    faults.unauthorized(),
    faults.insufficient_scope(),
    faults.rate_limited(1),
    faults.html_page(),
    faults.invalid_json(),
    faults.deep_json(),
    faults.CutBody(),
    faults.CloseAtOnce(reset=True),
    faults.HugeBody(2 * faults.MEGABYTE),
    faults.DripBody(0.05),
]


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Let every library say all that it can."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "paho", "claude_usage_mqtt", "asyncio"):
        caplog.set_level(logging.DEBUG, name)


def assert_nowhere(*texts: object) -> None:
    """Check that no canary is in any of these."""
    for text in texts:
        found = str(text)
        at = found.find(CANARY)
        assert at < 0, found[max(0, at - 200) : at + 50]


LOGIN = {"username": "us", "password": PASSWORD}


@pytest.fixture
def running_broker() -> Iterator[Mosquitto]:
    """Run a broker that requires a login."""
    with Mosquitto(users={"us": PASSWORD, "watcher": "w"}) as found:
        yield found


@pytest.fixture
def watcher(running_broker: Mosquitto) -> Iterator[Watcher]:
    """Watch everything on it."""
    with Watcher(running_broker.port, username="watcher", password="w") as found:
        yield found


@needs_mosquitto
def test_through_every_fault_of_the_api(
    serve: Serve, endpoint: Endpoint, watcher: Watcher, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No log line, topic or payload has the token, even though the endpoint echoes it wherever it can."""
    write_credentials(home, token=TOKEN, expires_in=None)
    with serve(clock=Clock(3000), deadline=0.3, **LOGIN) as running:
        for number, fault in enumerate(API_FAULTS):
            since = watcher.mark()
            endpoint.fault = fault
            if fault != API_FAULTS[0]:  # a good answer, but with the token in it
                watcher.wait_topic(HEALTH, lambda m: m.json()["consecutive_failures"] > 0, since=since)
            else:
                endpoint.wait_for_requests(endpoint.count + 2)
            endpoint.fault = None
            endpoint.release()
            write_credentials(home, token=f"{TOKEN}-{number}", expires_in=None)
            watcher.wait_topic(HEALTH, is_ok, since=watcher.mark())
        assert all((request.bearer or "").startswith(TOKEN) for request in endpoint.requests)
        assert_nowhere(running.log.text, caplog.text, repr(running.program.__dict__))
        for message in watcher.messages():
            assert_nowhere(message.topic, message.payload)


@needs_mosquitto
def test_through_faults_of_the_broker(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A refused login, a lost connection and a wrong protocol do not reveal the password."""
    with Mosquitto(users={"us": "other"}, tls=True) as mosquitto:
        with FaultyProxy(mosquitto.port) as proxy, serve(port=proxy.port, **LOGIN) as run:
            run.log.wait_for("refused the login")
            proxy.cut_after(10)
            proxy.drop()
        assert_nowhere(run.log.text)
        with serve(port=mosquitto.tls_port, tls=True, **LOGIN) as run:
            run.log.wait_for("not trusted")
        assert_nowhere(run.log.text, caplog.text)


@needs_mosquitto
def test_the_process_and_its_commands(
    start: Start, running_broker: Mosquitto, endpoint: Endpoint, watcher: Watcher, home: Path
) -> None:
    """The most verbose log, the command line, and the output of the commands show no secret."""
    write_credentials(home, token=TOKEN)
    settings: dict[str, Any] = {"MQTT_USERNAME": "us", "MQTT_PASSWORD": PASSWORD, "LOG_LEVEL": "debug"}
    with start(**settings) as process:
        watcher.wait_topic(HEALTH, is_ok)
        command_line = Path(f"/proc/{process.process.pid}/cmdline")
        if command_line.exists():
            assert_nowhere(command_line.read_bytes())
        process.stop()
    assert_nowhere(process.log.text)
    settings |= {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": running_broker.port}
    settings |= {"CLAUDE_API_URL": endpoint.url, "CLAUDE_CONFIG_DIR": home}

    def call(*arguments: str, **more: object) -> None:
        ran = call_command(home, *arguments, **settings | more)
        assert_nowhere(ran.stdout, ran.stderr)

    for arguments in (("check",), ("once",), ("once", "--json")):
        for fault in (None, Echo(401), Echo(403), Echo(500), Echo(200)):
            endpoint.fault = fault
            call(*arguments)
    call("check", MQTT_PASSWORD=PASSWORD + "-wrong")
    call("check", MQTT_PASSWORD_FILE=home / FILE_NAME)
    for message in watcher.messages():
        assert_nowhere(message.payload)


@contextlib.contextmanager
def expected_error() -> Iterator[list[str]]:
    """Collect everything that one of our errors shows: text, repr, arguments, and the traceback with its causes."""
    shown: list[str] = []
    try:
        yield shown
    except ClaudeUsageError as error:
        shown += [str(error), repr(error), repr(error.args), repr(error.__cause__), repr(error.__context__)]
        shown.append("".join(traceback.format_exception(error)))
        shown += [repr(frame.f_locals) for frame, _ in traceback.walk_tb(error.__traceback__) if _is_ours(frame)]
    assert shown, "there was no error"


def _is_ours(frame: Any) -> bool:
    return "claude_usage_mqtt/sources/api/" in frame.f_code.co_filename and "token" not in frame.f_locals


@pytest.mark.parametrize("fault", API_FAULTS, ids=lambda fault: type(fault).__name__)
def test_errors_of_a_request(endpoint: Endpoint, connect: Connect, fault: Any) -> None:
    """A traceback in a bug report holds no token."""
    api = connect(deadline=0.3 if isinstance(fault, faults.DripBody) else 10.0)
    endpoint.fault = fault
    if isinstance(fault, Echo) and fault.status == 200:
        api.fetch(TOKEN)  # valid JSON: others find what is wrong with it
    else:
        with expected_error() as shown:
            api.fetch(TOKEN)
        assert_nowhere(*shown)
    assert_nowhere(repr(api), repr(vars(api)))


@pytest.mark.parametrize("token", [TOKEN + " \n", TOKEN + "\x00", TOKEN + "é", TOKEN * 1000, [TOKEN], {"t": TOKEN}])
def test_errors_of_credentials(tmp_path: Path, token: Any) -> None:
    """A damaged credentials file is reported without any of its content."""
    for text in (json.dumps({"claudeAiOauth": {"accessToken": token}}), '{"claudeAiOauth": "' + TOKEN):
        write_credentials_text(tmp_path, text)
        with expected_error() as shown:
            CredentialsFile(tmp_path).read()
        assert_nowhere(*shown)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n\n" + TOKEN)
    with expected_error() as shown:
        GivenToken(file=file).read()
    assert_nowhere(*shown)


def test_objects_that_hold_a_secret() -> None:
    """Printing an object while debugging shows no secret."""
    text = json.dumps({"claudeAiOauth": {"accessToken": TOKEN, "expiresAt": 1700000000000}})
    credentials = parse_credentials(text, "the file")
    settings = Settings(mqtt_username="u", mqtt_password=PASSWORD, claude_code_oauth_token=TOKEN, _env_file=None)  # type: ignore[call-arg,arg-type]
    options = BrokerOptions(host="h", username="u", password=PASSWORD)
    for holder in (credentials, GivenToken(TOKEN), settings, options):
        assert_nowhere(repr(holder), str(holder), f"{holder}")
    assert_nowhere(settings.model_dump_json())
    with expected_error() as shown:
        credentials.require_unexpired(dt.datetime.now(dt.UTC))
    assert_nowhere(*shown)
