"""Whose a login, or what was read with it, is."""

from __future__ import annotations

from typing import NamedTuple


class Owner(NamedTuple):
    """Short hashes of an account and its organization; None is not known."""

    account: str | None = None
    organization: str | None = None

    def is_same(self, other: Owner) -> bool | None:
        """Return whether both are one account: by account if both are known, else by organization, else None.

        Colleagues share an organization; an account that is learned later is not a change.
        """
        if self.account is not None and other.account is not None:
            return self.account == other.account
        if self.organization is not None and other.organization is not None:
            return self.organization == other.organization
        return None

    def completed(self, known: Owner) -> Owner:
        """Return the same owner, with what was `known` before if it is not known now."""
        return Owner(self.account or known.account, self.organization or known.organization)
