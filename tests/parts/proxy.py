"""A TCP proxy on loopback that simulates everything that a network does to a connection.

One thread moves all bytes and makes all changes; a method returns when its change is in effect.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import wait
from typing import Final, Self

from parts.net import LOOPBACK, HeldPort, Server
from parts.waiting import REASONABLE

PIECE: Final = 64 * 1024
SLOW_STEP: Final = 0.02
"""Seconds between two pieces while slow; a piece has at least one byte."""
CONNECT_TIMEOUT: Final = 5.0


class _Pipe:
    """One direction of a link."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.waiting = b""
        self.ended = False
        self.not_before = 0.0

    def fill(self, most: int) -> int:
        """Read what has come, `most` bytes at a time, and return how many."""
        try:
            self.waiting = self.source.recv(most)
        except BlockingIOError:
            return 0
        except OSError:
            self.waiting = b""
        self.ended = not self.waiting
        return len(self.waiting)

    def drain(self) -> None:
        """Pass on as much as the other side accepts."""
        try:
            self.waiting = self.waiting[self.sink.send(self.waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self.waiting, self.ended = b"", True


class _Link:
    """A client's connection and the one to the target that belongs to it."""

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        for end in (client, target):
            end.settimeout(0)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.up = _Pipe(client, target)
        self.down = _Pipe(target, client)

    def over(self) -> bool:
        """Return whether either side has closed and everything that it sent is passed on."""
        return any(pipe.ended and not pipe.waiting for pipe in (self.up, self.down))

    def close(self) -> None:
        """Close both connections."""
        self.up.source.close()
        self.down.source.close()


class FaultyProxy(Server):
    """A proxy to `target_port` on loopback; a context manager. It passes everything by default.

    `port` stays the same, and reserved, through all faults.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._held = HeldPort()
        self._wake, self._waker = socket.socketpair()
        self._wake.settimeout(0)
        self._orders: queue.Queue[Callable[[], None]] = queue.Queue()
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._links: list[_Link] = []
        self._connections = 0
        self._frozen = False
        self._rate: float | None = None
        self._left: int | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="faulty proxy")

    def start(self) -> Self:
        """Begin to listen."""
        self._listener = self._held.listen()
        self._thread.start()
        return self

    def close(self) -> None:
        """Drop everything and end the thread."""
        if self._thread.is_alive():
            self._do(self._end)
            self._thread.join()
        for end in (self._wake, self._waker, self._held):
            end.close()

    @property
    def port(self) -> int:
        """Return the port to connect to."""
        return self._held.number

    def wait_for_connections(self, count: int) -> None:
        """Wait until it took that many connections in all."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._connections >= count, REASONABLE):
                raise AssertionError(f"{self._connections} connections in {REASONABLE} s, not {count}")

    # -- faults; each replaces the one before, `cut_after` and `drop` come on top

    def heal(self) -> None:
        """Pass everything again, also what waited while frozen."""
        self._do(self._reset)

    def refuse(self) -> None:
        """Drop the open connections and stop listening: new ones are refused."""
        self._do(self._refuse)

    def freeze(self) -> None:
        """Forward nothing, in either direction, and close nothing: a half-open connection.

        New connections seem to be made (the kernel does that) and get no answer.
        """
        self._do(lambda: self._reset(frozen=True))

    def slow(self, bytes_per_second: float) -> None:
        """Forward at this rate, in each direction of each connection."""
        self._do(lambda: self._reset(rate=bytes_per_second))

    def cut_after(self, count: int) -> None:
        """Forward exactly this many more bytes from clients, then close the connection they came from, once."""
        self._do(lambda: self._cut_after(count))

    def drop(self) -> None:
        """Close all open connections, once; new ones are welcome."""
        self._do(self._drop_links)

    # -- inside: everything below runs in the thread, `_do` excepted

    def _do(self, change: Callable[[], None]) -> None:
        done: Future[None] = Future()

        def order() -> None:
            try:
                change()
            except Exception as error:  # noqa: BLE001 - it is raised where the order was given
                done.set_exception(error)
            else:
                done.set_result(None)

        self._orders.put(order)
        self._waker.send(b"!")
        done.result(timeout=10)

    def _run(self) -> None:
        try:
            while not self._closing:
                self._step()
        finally:
            self._end()

    def _step(self) -> None:
        now = time.monotonic()
        pipes = [] if self._frozen else [pipe for link in self._links for pipe in (link.up, link.down)]
        blocked = any(pipe.waiting for pipe in pipes)
        fillable = {
            pipe.source: pipe for pipe in pipes if not pipe.waiting and not pipe.ended and pipe.not_before <= now
        }
        pauses = [pipe.not_before - now for pipe in pipes if pipe.not_before > now]
        if blocked:
            pauses.append(SLOW_STEP)  # a receiver that accepts nothing: look again
        ends: list[socket.socket] = [self._wake, *fillable]
        if self._listener is not None and not self._frozen:
            ends.append(self._listener)
        ready = wait(ends, min(pauses, default=None))
        if self._wake in ready:
            self._obey()
            return  # what is ready may be closed by now
        for end, pipe in fillable.items():
            if end in ready:
                self._move(pipe)
        for pipe in pipes:
            if pipe.waiting:
                pipe.drain()
        for link in [link for link in self._links if link.over()]:
            self._close_link(link)
        if self._listener in ready:
            self._accept()

    def _obey(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(PIECE)
        while not self._orders.empty():
            self._orders.get()()

    def _move(self, pipe: _Pipe) -> None:
        most = PIECE if self._rate is None else max(1, int(self._rate * SLOW_STEP))
        left = self._left if any(pipe is link.up for link in self._links) else None
        count = pipe.fill(most if left is None else min(most, left))
        if self._rate is not None:
            pipe.not_before = time.monotonic() + count / self._rate
        if left is not None:
            self._left = left - count if count < left else None
            pipe.ended = pipe.ended or self._left is None  # closed as soon as these bytes are passed on

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            client, _ = self._listener.accept()
        except OSError:  # gone again before it was accepted
            return
        target = None
        with contextlib.suppress(OSError):
            target = socket.create_connection((LOOPBACK, self.target_port), CONNECT_TIMEOUT)
        with self._changed:
            self._connections += 1
            if target is None:
                client.close()
            else:
                self._links.append(_Link(client, target))
            self._changed.notify_all()

    def _reset(self, *, frozen: bool = False, rate: float | None = None) -> None:
        self._frozen, self._rate, self._left = frozen, rate, None
        for link in self._links:
            link.up.not_before = link.down.not_before = 0.0
        if self._listener is None:
            self._listener = self._held.listen()

    def _refuse(self) -> None:
        self._reset()
        self._stop_listening()
        self._drop_links()

    def _cut_after(self, count: int) -> None:
        self._left = count

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _drop_links(self) -> None:
        for link in list(self._links):
            self._close_link(link)

    def _close_link(self, link: _Link) -> None:
        link.close()
        with self._changed:
            self._links.remove(link)
            self._changed.notify_all()

    def _end(self) -> None:
        self._closing = True
        self._stop_listening()
        self._drop_links()
