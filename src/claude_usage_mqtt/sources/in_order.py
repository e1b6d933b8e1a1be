"""Several sources of one account as one: a usable login on this machine first, then the machines with reporters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import CredentialsError, CredentialsNotFound, InsufficientScope, Unauthorized
from claude_usage_mqtt.sources.source import Login, PolledSource, PollResult
from claude_usage_mqtt.usage.reading import Reading

SKIP_REFUSED = timedelta(hours=1)
"""A login that the API refused is not sent again for this long while another source delivers, unless it changes."""

SKIP_MEANWHILE = timedelta(minutes=10)
"""The same while no source delivers: less than until the policy's second try, as a good login was once seen refused."""

REFUSED = (Unauthorized, InsufficientScope)

UNUSABLE = (CredentialsError, *REFUSED)
"""Errors of a login: another source may have a better one. Any other error is caused by the API or the network."""


class InOrder:
    """Asks the next source if a login cannot be used; only the first one's login is watched."""

    def __init__(self, sources: Sequence[PolledSource]) -> None:
        first = sources[0]
        self.name, self.lacks, self.place, self.is_local = first.name, first.lacks, first.place, first.is_local
        """Those of the first source; a result names the one that was used."""
        self.outlives_token = any(source.outlives_token for source in sources)
        self._sources = sources
        self._refused: dict[str, tuple[PollResult, datetime]] = {}  # source -> its refusal, and when
        self._has_delivered: set[str] = set()

    @property
    def can_be_watched(self) -> bool:
        """Whether a change of the first login is noticed without a request."""
        return self._sources[0].can_be_watched

    def login(self) -> Login:
        """Return what is known of the first login that is there; raises the first source's CredentialsError."""
        errors: list[CredentialsError] = []
        for source in self._sources:
            try:
                return source.login()
            except CredentialsError as error:
                errors.append(error.without_history())
        raise errors[0]

    def fingerprint(self) -> object:
        """Return something that changes when the first login does."""
        return self._sources[0].fingerprint()

    def cached(self, now: datetime) -> Reading | None:
        """Return the newest numbers that any source has without a request."""
        found = [reading for source in self._sources if (reading := source.cached(now)) is not None]
        return max(found, key=lambda reading: reading.read_at, default=None)

    def poll(self, account: str, clock: Clock, *, may_retry: bool) -> PollResult:
        """Ask one source after another until one has the reading, with at most one request more than the first."""
        results: list[PollResult] = []
        requests = 0
        for source in self._sources:
            if self._is_refused(source, clock.now()):
                results.append(self._refused[source.name][0])
                continue
            if requests >= (2 if may_retry else 1):
                break
            result = source.poll(account, clock, may_retry=may_retry and requests == 0)
            requests += result.requests
            results.append(result)
            if not isinstance(result.error, UNUSABLE):
                if result.reading is not None:
                    self._has_delivered.add(source.name)
                break
            if isinstance(result.error, REFUSED):
                self._refused[source.name] = result, clock.now()
        return replace(self._best(results), requests=requests, fingerprint=results[0].fingerprint)

    def _best(self, results: list[PollResult]) -> PollResult:
        """Return the reading, or the error to show.

        A login that is not here, or was refused, is not an error once another source has delivered.
        """
        last = results[-1]
        if not isinstance(last.error, UNUSABLE):
            return last
        is_replaced = isinstance(results[0].error, (CredentialsNotFound, *REFUSED))
        return last if is_replaced and last.source in self._has_delivered else results[0]

    def _is_refused(self, source: PolledSource, now: datetime) -> bool:
        """Whether a login was refused and is still the same; the last source is asked in any case."""
        if source is self._sources[-1] or source.name not in self._refused:
            return False
        refusal, refused_at = self._refused[source.name]
        skip_for = SKIP_REFUSED if self._has_delivered - {source.name} else SKIP_MEANWHILE
        if now - refused_at < skip_for and source.fingerprint() == refusal.fingerprint:
            return True
        del self._refused[source.name]
        return False


def in_order(sources: Sequence[PolledSource]) -> PolledSource | None:
    """Return the sources of an account as one, None if there is none."""
    return InOrder(sources) if len(sources) > 1 else next(iter(sources), None)
