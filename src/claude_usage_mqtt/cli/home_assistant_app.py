"""`run` in a Home Assistant app: what has to happen before the settings can be read.

The Supervisor starts the container as root, with a token for its API in the environment and the user's options in a
file that only root can read. These and the broker's login become environment variables of our own process, so that
everything after this module works as in any other container. The token is sent to the Supervisor and nowhere else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from claude_usage_mqtt.cli import handle_signals
from claude_usage_mqtt.errors import BrokerError, BrokerRefused, BrokerUnreachable, SettingsError
from claude_usage_mqtt.logs import set_up_logging
from claude_usage_mqtt.service.liveness import BEAT_EVERY, Liveness
from claude_usage_mqtt.untrusted import json_object

ASK_EVERY = BEAT_EVERY
"""Seconds between requests for a broker, which may be installed hours later; each is also a sign of life."""

TOKEN = "SUPERVISOR_TOKEN"  # noqa: S105 - the name of a variable
OTHER_TOKEN = "HASSIO_TOKEN"  # noqa: S105 - an older name of the same variable; the Supervisor still sets both
URL = "SUPERVISOR_URL"
"""Set only in tests; the Supervisor's own containers reach it under a fixed name."""

SUPERVISOR = "http://supervisor"
OPTIONS = Path("/data/options.json")
SHARE = PurePosixPath("/share")
USER = 1000
"""The image's user: what the process becomes once it has read the options."""

TIMEOUT = 10.0
LARGEST_RESPONSE = 64 * 1024

PLAIN_OPTIONS = (
    "mqtt_host",
    "mqtt_port",
    "mqtt_username",
    "mqtt_password",
    "mqtt_tls",
    "poll_interval",
    "stale_after",
    "alert_thresholds",
    "extra_usage_thresholds",
    "log_level",
)
"""Options that are settings of the same name."""

WITH_LOGIN, WITHOUT_LOGIN = "auto", "reporter,statusline"
"""`CLAUDE_SOURCE`: an app without its own login must not report that it has none."""

log = logging.getLogger(__name__)


def prepare() -> None:
    """Put the app's options and the broker's login into the environment, as the image's user.

    Waits for a broker as long as it takes; SIGTERM and SIGINT end that cleanly. Raises SettingsError.
    """
    handle_signals(_stop)
    options = read_options(OPTIONS)
    drop_privileges()
    set_up_logging(options.get("LOG_LEVEL", "info"), "text")
    broker = {} if "MQTT_HOST" in options else wait_for_broker()
    if "MQTT_USERNAME" in options:
        broker.pop("MQTT_PASSWORD", None)  # belongs to another login
    for name in (TOKEN, OTHER_TOKEN):  # nothing that runs later needs it
        os.environ.pop(name, None)
    os.environ.update(broker | options)


def wait_for_broker() -> dict[str, str]:
    """Return the Supervisor's broker as soon as it has one; each new reason to wait is logged once."""
    liveness, reported = Liveness(), ""
    try:
        while True:
            liveness.beat()
            try:
                return fetch_broker()
            except BrokerError as error:
                if str(error) != reported:
                    reported = str(error)
                    log.warning("%s Asking again every %d s.", reported, ASK_EVERY)
            time.sleep(ASK_EVERY)
    finally:
        liveness.stop()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def read_options(path: Path) -> dict[str, str]:
    """Return the user's options as environment variables; raises SettingsError."""
    try:
        options = json.loads(path.read_bytes())
        variables = {
            name.upper(): _text(options[name]) for name in PLAIN_OPTIONS if options.get(name) not in (None, "")
        }
        return variables | _logins(options)
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise SettingsError(
            f"The app's options ({path}) cannot be read; save them again and restart the app."
        ) from None


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _logins(options: Mapping[str, Any]) -> dict[str, str]:
    folder, accounts = options.get("login_folder"), options.get("accounts")
    if accounts:
        folders: dict[str, str | None] = {}
        for account in accounts:
            if account["name"] in folders:
                raise SettingsError(f"accounts has the name {account['name']} twice; give each account its own.")
            folders[account["name"]] = _in_share(account.get("login_folder"))
        source = WITH_LOGIN if any(folders.values()) else WITHOUT_LOGIN
        return {"CLAUDE_ACCOUNTS": json.dumps(folders), "CLAUDE_SOURCE": source}
    if folder:
        return {"CLAUDE_CONFIG_DIR": str(_in_share(folder)), "CLAUDE_SOURCE": WITH_LOGIN}
    return {"CLAUDE_SOURCE": WITHOUT_LOGIN}


def _in_share(folder: str | None) -> str | None:
    """Return the path of a folder in Home Assistant's share, the only one that is mounted."""
    if not folder:
        return None
    parts = PurePosixPath(folder.replace("\\", "/").removeprefix(f"{SHARE}/")).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise SettingsError(f"login_folder is not a folder in Home Assistant's share: {folder}.")
    return str(SHARE.joinpath(*parts))


def drop_privileges() -> None:
    """Become the image's user permanently, if this process is root."""
    if os.name == "posix" and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
        os.environ["HOME"] = "/"  # root's is no longer ours, and this user has none


def fetch_broker() -> dict[str, str]:
    """Return how to reach Home Assistant's broker, as environment variables; raises BrokerError.

    The Supervisor knows the broker once an app that provides one (Mosquitto) has been installed and started.
    """
    status, body = _ask_supervisor()
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise BrokerRefused(f"The Supervisor refused to name its MQTT broker (HTTP {status}); reinstall this app.")
    if status == http.client.BAD_REQUEST:
        raise BrokerUnreachable(
            "Home Assistant has no MQTT broker yet; install and start the app Mosquitto broker, "
            "or set mqtt_host to your own broker."
        )
    data = json_object(body).get("data")
    if status != http.client.OK or not isinstance(data, dict) or not data.get("host"):
        raise BrokerUnreachable(f"The Supervisor gave no usable response about its MQTT broker (HTTP {status}).")
    found = {
        "MQTT_HOST": data["host"],
        "MQTT_PORT": data.get("port"),
        "MQTT_USERNAME": data.get("username"),
        "MQTT_PASSWORD": data.get("password"),
        "MQTT_TLS": data.get("ssl"),
    }
    return {name: _text(value) for name, value in found.items() if value not in (None, "")}


def _ask_supervisor() -> tuple[int, bytes]:
    """Return the status and the body of the response. Redirects are not followed: they would pass the token on."""
    address = urlsplit(os.environ.get(URL) or SUPERVISOR)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT)
    # The connection's own limit restarts with each byte.
    deadline = threading.Timer(TIMEOUT, _cut, [connection])
    deadline.daemon = True
    deadline.start()
    try:
        connection.request("GET", "/services/mqtt", headers={"Authorization": f"Bearer {os.environ.get(TOKEN, '')}"})
        response = connection.getresponse()
        return response.status, response.read(LARGEST_RESPONSE)
    except (OSError, http.client.HTTPException, ValueError):
        raise BrokerUnreachable("The Supervisor gave no usable response about its MQTT broker.") from None
    finally:
        deadline.cancel()
        connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(AttributeError, OSError):  # there is no connection yet, or no longer one
        connection.sock.shutdown(socket.SHUT_RDWR)
