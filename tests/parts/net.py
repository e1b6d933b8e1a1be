"""Loopback ports and accept loops, shared by the parts that listen."""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Self

LOOPBACK = "127.0.0.1"
BACKLOG = 256


class Server:
    """Something that runs as long as a `with` block."""

    def start(self) -> Self:
        """Start it."""
        raise NotImplementedError

    def close(self) -> None:
        """End it, started or not."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()


class HeldPort:
    """A loopback port that stays reserved until `close()`, even while nobody listens on it; a context manager.

    Linux lets a second socket listen on a port that another one has only bound, so the number cannot be
    given to anybody else over restarts. Elsewhere it is a number that was free a moment ago.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind((LOOPBACK, 0))
        self.number: int = self._holder.getsockname()[1]
        if sys.platform != "linux":
            self._holder.close()

    def listen(self) -> socket.socket:
        """Return a socket that listens on the port."""
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, self.number))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener

    def close(self) -> None:
        """Release the port."""
        self._holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hang_up(connection: socket.socket) -> None:
    """Wake every thread that is blocked on the connection: each sees its end. Closes nothing."""
    with contextlib.suppress(OSError):
        # not the method: it would drop an SSLSocket's TLS state while the other thread uses it
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Acceptor:
    """A thread that hands each accepted connection to a callable, until `close()`, which joins it."""

    def __init__(self, listener: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        self._listener = listener
        self._accepted = accepted
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="acceptor")

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and stop listening."""
        self._waker.close()
        self._thread.join()
        self._wake.close()
        self._listener.close()

    def _run(self) -> None:
        while self._wake not in wait([self._listener, self._wake]):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # gone again before it was accepted
                continue
            self._accepted(connection)
