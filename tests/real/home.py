"""A real Home Assistant that the tests drive, by the scripts in the folder that REAL_PARTS names."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from parts.service import HEALTH, Clock
from parts.watcher import Message, Watcher

START_TIMEOUT: Final = 180
SEVERE: Final = re.compile(r" (WARNING|ERROR|CRITICAL) ")
NOT_OURS: Final = re.compile(
    r"homeassistant\.bootstrap\] Skipping pip|The 'server_host' option near"
    # what Home Assistant logs about a broker that the test has stopped
    r"|mqtt\.client\] (Disconnected from MQTT server|Failed to connect to MQTT server|Error returned from MQTT server)"
    r"|mqtt\.util\] Error talking to MQTT: The client is not currently connected"
    r"|paho\.mqtt\.client\] failed to receive on socket"
    r"|Task exception was never retrieved[^$]*_async_resubscribe_and_publish_birth_message"
    # and about its own database after it was killed
    r"|recorder\.util\] (The system could not validate that the sqlite3 database|Ended unfinished session)"
)
RECORD: Final = re.compile(r"^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.)", re.MULTILINE)

State = dict[str, Any]


class StepClock(Clock):
    """A clock for the service that (nearly) stops until the test lets time pass."""

    def to_real(self, seconds: float) -> float:
        """Return real seconds: so small that the service often checks whether time has passed."""
        return min(seconds, 0.05)

    def advance(self, **span: float) -> None:
        """Let time pass."""
        self.sleep(dt.timedelta(**span))


class HomeAssistant:
    """One Home Assistant with its own configuration, connected to the broker at `mqtt_port`."""

    def __init__(self, scripts: Path, mqtt_port: int) -> None:
        self._scripts = scripts
        self._mqtt_port = mqtt_port
        self._client = _load(scripts / "ha_client.py")
        self._earlier: list[str] = []
        self._token = ""
        self.folder = Path()

    # -- its life

    def start(self, *, fresh: bool = False) -> None:
        """Start it; returns when it runs. `fresh` discards everything that it knew."""
        settings = {"FRESH": "1" if fresh else "0", "NO_BROKER": "1", "MQTT_LOG": "warning"}
        said = self._script("start_ha.sh", str(self._mqtt_port), **settings)
        found = re.search(r"\(pid \d+, log (\S+), token (\S+)\)", said)
        assert found, said
        log, token = found.groups()
        self.folder = Path(log).parent
        self._token = Path(token).read_text(encoding="utf-8").strip()

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, as a service manager does or as a power cut does."""
        self._earlier += self._log()
        installed = os.environ.get("INST", "hass")  # which one of those that setup_ha.sh has installed
        self._script("stop_ha.sh", "ha" if installed == "hass" else f"ha-{installed}", SIG="KILL" if kill else "TERM")

    def restart(self, *, kill: bool = False) -> None:
        """Stop it and start it again."""
        self.stop(kill=kill)
        self.start()

    # -- what it says

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a websocket command and return its result."""
        with self._socket() as socket:
            return socket.cmd(command, **arguments)

    def call(self, service: str, **data: Any) -> None:
        """Perform an action; returns when it is done."""
        domain, _, name = service.partition(".")
        self.ask("call_service", domain=domain, service=name, service_data=data)

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the REST interface."""
        return self._client.rest(method, path, body, token=self._token)

    def states(self) -> dict[str, State]:
        """Return all states by entity id."""
        return {state["entity_id"]: state for state in self.ask("get_states")}

    def wait(self, condition: Callable[[dict[str, State]], object], timeout: float = 30) -> dict[str, State]:
        """Return the states as soon as they meet the condition."""
        with self._socket() as socket:
            socket.cmd("subscribe_events", event_type="state_changed")
            states = {state["entity_id"]: state for state in socket.cmd("get_states")}
            until = time.monotonic() + timeout
            pending = socket.events
            socket.s.settimeout(1)  # within, it answers pings
            while not condition(states):
                if time.monotonic() > until:
                    ours = {key: state["state"] for key, state in states.items() if "claude" in key}
                    raise AssertionError(f"waited {timeout} s for the states; there are {ours}")
                if not pending:
                    with contextlib.suppress(TimeoutError):
                        pending.append(socket.recv())
                    continue
                change = pending.pop(0).get("event", {}).get("data", {})
                if change.get("new_state"):
                    states[change["entity_id"]] = change["new_state"]
                elif change:
                    states.pop(change["entity_id"], None)
            return states

    def wait_for(self, timeout: float = 30, **wanted: str) -> dict[str, State]:
        """Return the states as soon as each of these entities (`sensor__claude_x`) has this state."""
        ids = {name.replace("__", "."): state for name, state in wanted.items()}
        return self.wait(lambda states: all(_state(states, key) == state for key, state in ids.items()), timeout)

    def history(self, entity_id: str, since: dt.datetime) -> set[str]:
        """Return the states that an entity has changed to since then, without the empty one at the end of a run."""
        begin = since.isoformat(timespec="seconds").replace("+00:00", "Z")
        (changes,) = self.rest("GET", f"/api/history/period/{begin}?filter_entity_id={entity_id}&no_attributes")
        return {entry["state"] for entry in changes if dt.datetime.fromisoformat(entry["last_changed"]) > since} - {""}

    def entities(self, identifier: str = "claude_usage_default") -> dict[str, dict[str, Any]]:
        """Return the registry's entries of a device by entity id; empty if no such device exists."""
        with self._socket() as socket:
            devices = socket.cmd("config/device_registry/list")
            mine = [entry["id"] for entry in devices if ["mqtt", identifier] in entry["identifiers"]]
            found = {
                entry["entity_id"]: entry
                for entry in socket.cmd("config/entity_registry/list")
                if entry["device_id"] in mine
            }
            return found | {f"device {entry}": {} for entry in mine if not found}

    def wait_entities(
        self, condition: Callable[[dict[str, dict[str, Any]]], object], identifier: str = "claude_usage_default"
    ) -> dict[str, dict[str, Any]]:
        """Return the entries of a device as soon as they meet the condition."""
        until = time.monotonic() + 30
        while not condition(entries := self.entities(identifier)):
            assert time.monotonic() < until, f"waited for the entities; there are {sorted(entries)}"
            time.sleep(0.1)  # two registries and no event covers both
        return entries

    # -- what it complains about

    def complaints(self) -> list[str]:
        """Return every record of its log, since the start, that is a warning or worse, with its traceback."""
        records = [*self._earlier, *self._log()]
        return [entry for entry in records if SEVERE.search(entry.partition("\n")[0]) and not NOT_OURS.search(entry)]

    # -- inside

    def _log(self) -> list[str]:
        return RECORD.split((self.folder / "home-assistant.log").read_text(encoding="utf-8", errors="replace"))

    @contextlib.contextmanager
    def _socket(self) -> Iterator[Any]:
        socket = self._client.WS(self._token)
        try:
            yield socket
        finally:
            socket.close()

    def _script(self, name: str, *arguments: str, **settings: str) -> str:
        return run_script(self._scripts, name, *arguments, **settings)


def pass_until(clock: StepClock, instant: dt.datetime, watcher: Watcher) -> None:
    """Let time pass until then, and until the answer of the poll that this brings is published."""
    mark = watcher.mark()
    clock.advance(seconds=(instant - clock.now()).total_seconds())
    polled = instant.replace(microsecond=0)

    def is_polled(message: Message) -> bool:
        last_success = message.json()["last_success"]
        return last_success is not None and dt.datetime.fromisoformat(last_success) >= polled

    watcher.wait_topic(HEALTH, is_polled, since=mark)


def run_script(scripts: Path, name: str, *arguments: str, **settings: str) -> str:
    """Run one of the scripts and return what it printed."""
    done = subprocess.run(
        ["bash", str(scripts / name), *arguments],
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return done.stdout


def _state(states: dict[str, State], entity_id: str) -> str | None:
    return states[entity_id]["state"] if entity_id in states else None


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ha_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
