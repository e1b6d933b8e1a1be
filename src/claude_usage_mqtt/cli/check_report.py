"""The lines that `check` prints, one for each link of the chain, and its exit status."""

from __future__ import annotations

from collections.abc import Callable

from claude_usage_mqtt.errors import ClaudeUsageError


class NotChecked(Exception):  # noqa: N818 - nothing went wrong
    """A link could not be examined; the text says why."""


class Report:
    """Prints the lines and counts the failures."""

    def __init__(self) -> None:
        self.exit_status = 0
        self._failures = 0
        self.width = 12

    def link(self, name: str, examine: Callable[[], str]) -> ClaudeUsageError | None:
        """Examine one link of the chain; return what is wrong with it."""
        try:
            found = examine()
        except ClaudeUsageError as error:
            self._line(name, "FAIL", str(error))
            self.exit_status = self.exit_status or error.exit_status
            self._failures += 1
            return error
        except NotChecked as why:
            self.skip(name, str(why))
        else:
            self._line(name, "ok", found)
        return None

    def end(self) -> int:
        """Say what to do next; return the exit status of the first failure."""
        if self._failures:
            print(f"Fix {'each' if self._failures > 1 else 'the'} FAIL, then run `check` again.")
        else:
            print("Everything that was checked works.")
        return self.exit_status

    def skip(self, name: str, why: str) -> None:
        """Say that a link was not examined."""
        self._line(name, "-", why)

    def _line(self, name: str, verdict: str, text: str) -> None:
        clean = "".join(c if c.isprintable() else "?" for c in text)
        print(f"{name:<{self.width}} {verdict:<5} {clean}", flush=True)
