"""A certificate authority for TLS tests, with files where a program wants paths."""

import datetime as dt
import ssl
from pathlib import Path
from typing import NamedTuple

import trustme

SERVER_NAMES = ("localhost", "127.0.0.1")


class KeyPair(NamedTuple):
    """Paths of a certificate chain and of its private key, both PEM."""

    certificate: Path
    key: Path


class Authority:
    """A separate authority; `ca_path` is what a client has to trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self._issued = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_path))

    def issue(
        self, *names: str, not_before: dt.datetime | None = None, not_after: dt.datetime | None = None
    ) -> KeyPair:
        """Write a certificate for the names, `SERVER_NAMES` by default; a past `not_after` is expired."""
        if not_after is not None and not_before is None:
            not_before = not_after - dt.timedelta(days=30)
        leaf = self._ca.issue_cert(*(names or SERVER_NAMES), not_before=not_before, not_after=not_after)
        self._issued += 1
        pair = KeyPair(self._folder / f"{self._issued}.pem", self._folder / f"{self._issued}.key")
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(str(pair.certificate), append=True)
        leaf.private_key_pem.write_to_path(str(pair.key))
        pair.key.chmod(0o600)
        return pair

    def server_context(self, *names: str, not_after: dt.datetime | None = None) -> ssl.SSLContext:
        """Return a server's TLS context with a certificate for the names."""
        pair = self.issue(*names, not_after=not_after)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        return context
