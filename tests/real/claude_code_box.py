"""The sandbox in which the real Claude Code runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import claude_usage_mqtt


class Box:
    """The files that a script left, in a folder for each of its trials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self, *path: str) -> str:
        """Return a file."""
        return self.folder.joinpath(*path).read_text(errors="replace")

    def messages(self, trial: str, topic: str) -> list[dict[str, Any]]:
        """Return what was published under a topic."""
        lines, begin = self.text(trial, "messages").splitlines(), f"claude-usage/{topic} "
        return [json.loads(line.removeprefix(begin)) for line in lines if line.startswith(begin)]

    def asked(self, trial: str, path: str) -> list[dict[str, Any]]:
        """Return the requests to a path of the API."""
        requests = [json.loads(line) for line in self.text(trial, "requests").splitlines()]
        return [request for request in requests if request["path"] == path]


def run_box(scripts: Path, tmp_path_factory: pytest.TempPathFactory, driver: str, timeout: float) -> Box:
    """Run a script of this folder in the sandbox, which sees our program."""
    folder = tmp_path_factory.mktemp("box")
    folder.chmod(0o755)
    text = Path(__file__).with_name(driver).read_text()
    (folder / "driver.sh").write_text(text.replace("$VENV", sys.prefix))
    shown = (sys.prefix, str(Path(claude_usage_mqtt.__file__).parents[1]), sys.base_prefix)
    subprocess.run(
        ["bash", scripts / "claude_code.sh", "box", folder, "bash", "/out/driver.sh"],
        env=os.environ | {"RO": " ".join(dict.fromkeys(shown))},
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=timeout,
    )
    return Box(folder)
