"""A program that behaves as Claude Code was measured to, for cases that cannot be produced with the real one.

The real one is in `tests/real`. This one is steered by `mode.json` in its CLAUDE_CONFIG_DIR, and writes there what it
was called with.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

ACCOUNT = "00000000-0000-4000-8000-0000000000aa"
ORGANIZATION = "6a3c1f0e-0000-4000-8000-000000000000"  # that of parts.credentials

PROGRAM = """#!{python} -IS
import json, os, subprocess, sys, time
folder = os.environ["CLAUDE_CONFIG_DIR"]
with open(folder + "/mode.json") as file:
    mode = json.load(file)
if sys.argv[1:] == ["--version"]:
    print("2.0.14 (Claude Code)")
    sys.exit(0)
with open(folder + "/calls.jsonl", "a") as file:
    call = dict(pid=os.getpid(), group=os.getpgid(0), arguments=sys.argv[1:], input=sys.stdin.read(),
                environment=dict(os.environ), folder=os.getcwd(), there=os.listdir("."))
    file.write(json.dumps(call) + "\\n")
if "spawn" in mode:
    child = subprocess.Popen(["sleep", "600"], **mode["spawn"])
    with open(folder + "/spawned", "w") as file:
        file.write(str(child.pid))
for name, content in mode.get("files", {{}}).items():
    with open(os.path.join(folder, name) + ".new", "w") as file:
        file.write(content)
    os.replace(os.path.join(folder, name) + ".new", os.path.join(folder, name))
for line in mode.get("lines", []):
    print(line, flush=True)
sys.stderr.write(mode.get("errors", ""))
if mode.get("flood"):
    while True:
        print("x" * 65536)
time.sleep(mode.get("sleep", 0))
sys.exit(mode.get("status", 0))
"""


class FakeClaudeCode:
    """The program in one folder; `answer` says what it does when it is asked next."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True, parents=True)
        self.folder = folder
        self.command = folder / "claude"
        self.command.write_text(PROGRAM.format(python=sys.executable))
        self.command.chmod(0o755)
        self.mode()

    @property
    def cache(self) -> Path:
        """The file in which it keeps what it fetched."""
        return self.folder / ".claude.json"

    @property
    def calls(self) -> list[dict[str, Any]]:
        """How it was called, each time it was asked for the usage."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def mode(self, **mode: Any) -> None:
        """Set what it does when it is called."""
        (self.folder / "mode.json").write_text(json.dumps(mode))

    def keeps(self, body: Any, fetched_at: dt.datetime, account: str = ACCOUNT) -> str:
        """Return the content of its own file after a fetch."""
        document = {
            "oauthAccount": {
                "accountUuid": ACCOUNT,
                "organizationUuid": ORGANIZATION,
                "emailAddress": "canary@example.org",
            },
            "cachedUsageUtilization": {
                "fetchedAtMs": round(fetched_at.timestamp() * 1000),
                "accountUuid": account,
                "utilization": body,
            },
        }
        return json.dumps(document)

    def answers(self, body: Any, fetched_at: dt.datetime | None = None, **response: Any) -> None:
        """Let it answer with a body; if it was `fetched_at`, that is noted in its file when it is asked."""
        given = {"subscription_type": "max", "rate_limits_available": True, "rate_limits": body, **response}
        files = {} if fetched_at is None else {".claude.json": self.keeps(body, fetched_at)}
        self.mode(lines=[control_response({"subtype": "success", "response": given})], files=files)


def control_response(response: dict[str, Any]) -> str:
    """Return the line of an answer."""
    return json.dumps({"type": "control_response", "response": {"request_id": "usage", **response}})
