"""The container image and the systemd unit: what they promise, and the real image."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from claude_usage_mqtt import __version__
from claude_usage_mqtt.recipes import RECIPES, app_folder
from claude_usage_mqtt.usage.reading import REPORTER
from parts.broker import Broker
from parts.credentials import write_credentials
from parts.endpoint import Endpoint
from parts.service import Serve
from parts.supervisor import GOOD_TOKEN, Supervisor
from parts.watcher import Watcher

ROOT = Path(__file__).parents[1]
HARNESS = os.environ.get("REAL_PARTS", "")
IMAGE = "claude-usage-mqtt-test"
MOST_BYTES = 25_000_000
"""The most that the image may add to its base; it is 16 MB now."""

USER = 1000


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and what follows them."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def last(name: str) -> str:
    """Return what follows the last instruction of that name."""
    return [rest for found, rest in instructions() if found == name][-1]


def test_the_image_needs_no_shell_no_root_and_no_volume() -> None:
    """Its start, its default and its health check are programs, not lines for a shell; its user is a number."""
    assert json.loads(last("ENTRYPOINT")) == ["/app/bin/claude-usage-mqtt"]
    assert json.loads(last("CMD")) == ["run"]
    healthcheck = last("HEALTHCHECK").partition("CMD ")[2]
    assert json.loads(healthcheck) == ["/app/bin/claude-usage-mqtt", "healthcheck"]
    # Kubernetes accepts only a number as proof that it is not root
    assert last("USER") == f"{USER}:{USER}"
    assert "VOLUME" not in dict(instructions())


def test_the_build_is_given_nothing_that_it_does_not_copy() -> None:
    """A .env with secrets next to the Dockerfile cannot get into an image."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [rest.split() for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    assert allowed == {source for words in copied for source in words[:-1]}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("kind", ["user", "dynamic user"])
def test_the_unit_is_rated_safe(tmp_path: Path, kind: str) -> None:
    """Systemd's own rating of the sandbox, from 0 to 10, is at most 1.5, in both ways of using the unit."""
    text = RECIPES["systemd"].text()
    if kind == "dynamic user":
        text = re.sub(r"^User=.*", "DynamicUser=yes", text, flags=re.MULTILINE)
        assert "\nDynamicUser=yes" in text
    unit = tmp_path / "claude-usage-mqtt.service"
    # the program must exist to be rated
    unit.write_text(re.sub(r"^ExecStart=.*", f"ExecStart={sys.executable}", text, flags=re.MULTILINE))
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=15", "--no-pager", str(unit)]
    rated = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr
    assert "exposure level" in rated.stdout


# The image itself: REAL_PARTS is the folder of the scripts that build and run it without a container engine


def harness(*arguments: str, **environment: str) -> str:
    """Run the script that builds and runs images, and return what it prints."""
    command = ["bash", f"{HARNESS}/image.sh", *arguments]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


@pytest.fixture(scope="module")
def image() -> str:
    """Build the image."""
    if not HARNESS:
        pytest.skip("REAL_PARTS is not set: the image is not built")
    harness("build", str(ROOT), IMAGE)
    return IMAGE


@contextmanager
def running(
    image: str, folder: Path, mounted: str, variables: Mapping[str, str], *arguments: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run the image as its user on a read-only root, on the host's network, with a folder mounted."""
    process = subprocess.Popen(
        ["bash", f"{HARNESS}/image.sh", "run", image, "--", *arguments],
        env=os.environ
        | {"ENV": " ".join(f"{name}={value}" for name, value in variables.items()), "MOUNT": f"{folder}:{mounted}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def variables(running_broker: Broker, endpoint: Endpoint) -> dict[str, str]:
    """Return the environment for a broker and an API."""
    return {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(running_broker.port), "CLAUDE_API_URL": endpoint.url}


def assert_healthy(process: "subprocess.Popen[str]", *command: str, user: int = USER) -> None:
    """Check that the health check of a running container succeeds."""
    healthy = inside(process, *command or ("/app/bin/claude-usage-mqtt", "healthcheck"), user=user)
    assert (healthy.returncode, healthy.stderr) == (0, "")


def process_1(process: "subprocess.Popen[str]") -> Path:
    """Return the container's first process, in /proc."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    return Path("/proc", children[-1])


def inside(process: "subprocess.Popen[str]", *command: str, user: int = USER) -> subprocess.CompletedProcess[str]:
    """Run a command in the running container, as its user: what a container engine calls exec."""
    chroot = ["chroot", f"--userspec={user}:{user}", f"{process_1(process)}/root", *command]
    return subprocess.run(chroot, env={"PATH": os.defpath + ":/usr/sbin"}, capture_output=True, text=True, check=False)


def hand_over(folder: Path, user: int) -> Path:
    """Write a login's folder that only one user can read, and return it."""
    path = write_credentials(folder)
    folder.chmod(0o700)
    path.chmod(0o600)
    for each in (folder, path):
        os.chown(each, user, user)
    return folder


@pytest.mark.real_parts
def test_the_image_publishes_is_healthy_and_stops(
    image: str, tmp_path: Path, variables: dict[str, str], watcher: Watcher
) -> None:
    """`docker run` with the folder mounted is all it takes; it is healthy while it runs, and publishes offline."""
    folder = hand_over(tmp_path / "claude", USER)
    with running(image, folder, "/claude", variables) as container:
        watcher.wait_topic("claude-usage/default/health", lambda message: message.json()["status"] == "ok")
        state = watcher.wait_topic("claude-usage/default/state").json()
        assert state["windows"]["five_hour"]["utilization"] == 42
        assert_healthy(container)
        container.terminate()
        assert container.wait(10) == 0
        watcher.settle()
        assert watcher.retained()["claude-usage/status"] == "offline"


@pytest.mark.real_parts
def test_the_image_reports(
    image: str, tmp_path: Path, variables: dict[str, str], serve: Serve, watcher: Watcher
) -> None:
    """The same image with `report` is a machine's reporter: healthy while it runs, gone from the broker afterwards."""
    folder = hand_over(tmp_path / "claude", USER)
    with (
        serve(tmp_path / "nothing", selected=(REPORTER,)),
        running(image, folder, "/claude", variables | {"MACHINE_NAME": "nas"}, "report") as container,
    ):
        state = watcher.wait_topic("claude-usage/default/state").json()
        assert (state["windows"]["five_hour"]["utilization"], state["windows"]["five_hour"]["machine"]) == (42, "nas")
        assert_healthy(container)
        container.terminate()
        assert container.wait(10) == 0
        watcher.settle()
        assert "claude-usage/reporter/nas" not in watcher.retained()


@pytest.mark.real_parts
def test_the_image_says_which_user_may_not_read_the_credentials(
    image: str, tmp_path: Path, variables: dict[str, str], endpoint: Endpoint, watcher: Watcher
) -> None:
    """If the host user is not 1000, the status says what to change."""
    folder = hand_over(tmp_path / "claude", USER + 1)
    with running(image, folder, "/claude", variables):
        message = watcher.wait_topic(
            "claude-usage/default/health", lambda message: message.json()["status"] == "credentials_unreadable", 30
        )
        assert f"user {USER}" in message.json()["detail"]
        assert endpoint.count == 0


INSIDE = """
import importlib.metadata, json, pathlib, sys
names = [found.name.lower().replace("_", "-") for found in importlib.metadata.distributions(path=sys.path[-1:])]
sources = pathlib.Path("/app/lib").rglob("*.py")
raw = [str(path) for path in sources if not list((path.parent / "__pycache__").glob(path.stem + ".*.pyc"))]
print(json.dumps({"packages": names, "not compiled": raw}))
"""


@pytest.mark.real_parts
def test_only_what_run_needs_is_in_the_image(image: str) -> None:
    """It has no installer, extra or test, and nothing to compile at each start; and it stays small."""
    found = json.loads(harness("shell", image, "--", "/app/bin/python", "-c", INSIDE))
    assert "claude-usage-mqtt" in found["packages"]
    assert not {"pip", "setuptools", "wheel", "amqtt", "rich", "pytest", "hatchling"} & set(found["packages"])
    assert found["not compiled"] == []
    assert int(harness("size", image).split()[0]) < MOST_BYTES


@pytest.mark.real_parts
def test_the_image_runs_as_a_home_assistant_app(
    image: str, tmp_path: Path, running_broker: Broker, watcher: Watcher
) -> None:
    """Built and started as a Supervisor does it: root reads the options, user 1000 publishes and is healthy."""
    app_folder.write(tmp_path / "app")
    options = {"poll_interval": 300, "stale_after": 3600, "alert_thresholds": "75,90", "log_level": "info"}
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "options.json").write_text(json.dumps(options), encoding="utf-8")
    (data / "options.json").chmod(0o600)
    environment = os.environ | {"STORAGE_DRIVER": "vfs"}
    subprocess.run(["buildah", "tag", image, f"{app_folder.IMAGE}:{__version__}"], env=environment, check=True)
    harness("build", str(tmp_path / "app"), f"{IMAGE}-app")
    with Supervisor() as supervisor:
        supervisor.install_broker(running_broker.port)
        given = {"SUPERVISOR_TOKEN": GOOD_TOKEN, "SUPERVISOR_URL": supervisor.url}
        with running(f"{IMAGE}-app", data, "/data", given) as container:
            watcher.wait_topic("claude-usage/status", lambda message: message.payload == "online", 60)
            status = (process_1(container) / "status").read_text(encoding="ascii")
            (users,) = re.findall(r"^Uid:\s+(.*)$", status, re.MULTILINE)
            assert set(users.split()) == {str(USER)}
            healthcheck = json.loads((tmp_path / "app/Dockerfile").read_text(encoding="utf-8").partition("CMD ")[2])
            assert_healthy(container, *healthcheck, user=0)
            container.terminate()
            assert container.wait(10) == 0
