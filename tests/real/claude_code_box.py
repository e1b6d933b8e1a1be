"""The sandbox in which the real Claude Code runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import claude_usage_mqtt


def run_box(scripts: Path, tmp_path_factory: pytest.TempPathFactory, driver: str, timeout: float) -> Path:
    """Run a script of this folder in the sandbox, which sees our program; return the folder of what it left."""
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
    return folder
