"""The lines that `check` prints, one for each link of the chain, and its exit status."""

from __future__ import annotations

from collections.abc import Callable

from claude_usage_mqtt.errors import ClaudeUsageError


class NotChecked(Exception):  # noqa: N818 - nothing went wrong
    """A link could not be examined; the text says why."""


class Report:
    """Prints the lines and collects the failures."""

    def __init__(self) -> None:
        self.width = 12
        self._errors: list[ClaudeUsageError] = []

    def link(self, name: str, examine: Callable[[], str | None]) -> ClaudeUsageError | None:
        """Examine one link of the chain; return what is wrong with it. None prints no line."""
        try:
            found = examine()
        except ClaudeUsageError as error:
            self.fail(name, error)
            return error
        except NotChecked as why:
            self.skip(name, str(why))
        else:
            if found is not None:
                self.ok(name, found)
        return None

    def ok(self, name: str, found: str) -> None:
        """Say that a link works."""
        self._line(name, "ok", found)

    def fail(self, name: str, error: ClaudeUsageError) -> None:
        """Say what is wrong with a link."""
        self._line(name, "FAIL", str(error))
        self._errors.append(error)

    def skip(self, name: str, why: str) -> None:
        """Say that a link was not examined."""
        self._line(name, "-", why)

    def end(self) -> int:
        """Say what to do next; return the exit status of the first failure."""
        if not self._errors:
            print("Everything that was checked works.")
            return 0
        print(f"Fix {'each' if len(self._errors) > 1 else 'the'} FAIL, then run `check` again.")
        return self._errors[0].exit_status

    def _line(self, name: str, verdict: str, text: str) -> None:
        clean = "".join(c if c.isprintable() else "?" for c in text)
        print(f"{name:<{self.width}} {verdict:<5} {clean}", flush=True)
