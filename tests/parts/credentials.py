"""Claude Code's credentials file, written as Claude Code writes it."""

import datetime as dt
import json
import os
import tempfile
from pathlib import Path
from typing import Any

FILE_NAME = ".credentials.json"
TOKEN_LIFE = dt.timedelta(hours=8)


def write_credentials(
    folder: Path,
    token: str = "sk-ant-oat01-test",  # noqa: S107 - no secret
    expires_in: dt.timedelta | None = TOKEN_LIFE,
    now: dt.datetime | None = None,
    organization: str = "6a3c1f0e",
    **overrides: Any,
) -> Path:
    """Write the file with this access token, of the organization whose id has this beginning, and return its path.

    `expires_in` None leaves `expiresAt` out, a negative one makes the token expired. `overrides` are keys of
    `claudeAiOauth`, for instance `expiresAt="soon"` or `subscriptionType=None`.
    """
    now = now or dt.datetime.now(dt.UTC)
    oauth: dict[str, Any] = {
        "accessToken": token,
        "refreshToken": "sk-ant-ort01-test",
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
        "rateLimitTier": "default_claude_max_5x",
    }
    if expires_in is not None:
        oauth["expiresAt"] = round((now + expires_in).timestamp() * 1000)
    document = {
        "claudeAiOauth": oauth | overrides,
        "mcpOAuth": {},
        "organizationUuid": f"{organization}-0000-4000-8000-000000000000",
    }
    return write_credentials_text(folder, json.dumps(document))


def write_credentials_text(folder: Path, text: str) -> Path:
    """Replace the file by a rename, mode 0600, with any text: half a document, `mcpOAuth` alone, nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=FILE_NAME)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(temporary).replace(path)
    return path


def break_mount(folder: Path) -> None:
    """Let all access to a folder fail as on a mount that is gone: with an error that does not mean "not there"."""
    folder.symlink_to("x" * 300)  # ENAMETOOLONG, to pathlib the same as ESTALE, ENOTCONN and EIO
