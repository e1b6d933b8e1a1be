"""The usage endpoint over HTTP; the only import of httpx.

One GET, one header with the token, one host. Whatever the server does, the whole exchange has a deadline and the body a
limit; redirects are not followed, because they would carry the token elsewhere.
"""

from __future__ import annotations

import contextlib
import mmap
import queue
import socket
import ssl
import threading
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from claude_usage_mqtt.errors import ApiError, NetworkError, ServerError, SettingsError
from claude_usage_mqtt.sources.api.response import AGAIN, interpret
from claude_usage_mqtt.sources.api.url import host_and_port

PATH = "/api/oauth/usage"
BETA = "oauth-2025-04-20"
"""Without this header the endpoint answers 401. Source: all known clients."""

DEADLINE = 20.0
"""Seconds for the whole exchange, name lookup to last byte."""

MAX_BODY = 1024 * 1024
"""Bytes; a real response has a few thousand."""


class UsageApi:
    """The endpoint at one base URL. Safe to use from several threads; holds no token."""

    def __init__(self, base_url: str, user_agent: str, deadline: float = DEADLINE) -> None:
        self.url = httpx.URL(base_url.rstrip("/") + PATH)
        self.deadline = deadline
        self.address = host_and_port(base_url)
        secure = urlsplit(base_url).scheme == "https"
        try:
            self.client = httpx.Client(
                headers={"User-Agent": user_agent, "Accept": "application/json", "anthropic-beta": BETA},
                # A fresh connection each time: polls are minutes apart, and the deadline needs its socket.
                limits=httpx.Limits(max_keepalive_connections=0),
                timeout=httpx.Timeout(deadline),
                follow_redirects=False,
                # Plain http is for loopback only: no proxy may see it, and no certificates need loading. If they do,
                # they are loaded here: left to itself, httpx loads them again for each proxy variable.
                trust_env=secure,
                verify=httpx.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            )
        except (ValueError, ImportError, OSError) as error:
            raise SettingsError(
                "The proxy or certificate settings in the environment (HTTPS_PROXY, SSL_CERT_FILE …) "
                "are not usable; correct or unset them."
            ) from error

    def close(self) -> None:
        """Close what is open; requests under way fail."""
        self.client.close()

    def fetch(self, token: str) -> Any:
        """Return the response's JSON document. Takes at most the deadline; raises ApiError."""
        return _Exchange(self, token).run()


class _Exchange:
    """One request in its own thread, so that nothing that hangs, such as a name lookup, can hang the caller."""

    def __init__(self, api: UsageApi, token: str) -> None:
        self._api = api
        self._token = token
        self._socket: socket.socket | None = None
        self._is_over = False
        self._outcome: queue.Queue[object] = queue.Queue()

    def run(self) -> Any:
        threading.Thread(target=self._work, name="usage-request", daemon=True).start()
        try:
            outcome = self._outcome.get(timeout=self._api.deadline)
        except queue.Empty:
            self._cut()
            raise self._no_answer() from None
        if isinstance(outcome, ApiError):
            raise outcome.without_history()
        return outcome

    def _work(self) -> None:
        try:
            outcome: object = self._request()
        except Exception as error:  # noqa: BLE001 - this thread must always report, and must not quote the request
            outcome = self._in_our_words(error)
            _forget_frames(error)
        finally:
            if self._socket is not None:
                self._socket.close()  # if the client was closed in the meantime, nobody else closes it
        self._outcome.put(outcome)

    def _in_our_words(self, error: Exception) -> ApiError:
        match error:
            case ApiError():
                return error
            case httpx.TimeoutException():  # the deadline limits it too
                return self._no_answer()
            case httpx.HTTPError():
                return NetworkError(_explain(error, self._api.address))
            case _:
                return NetworkError(f"The request failed ({type(error).__name__}); {AGAIN}.")

    def _no_answer(self) -> NetworkError:
        return NetworkError(f"The API at {self._api.address} did not answer within {self._api.deadline:g} s; {AGAIN}.")

    def _request(self) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"}
        extensions = {"trace": self._trace}
        request = self._api.client.build_request("GET", self._api.url, headers=headers, extensions=extensions)
        response = self._api.client.send(request, stream=True)
        try:
            body = _read_body(response)
        finally:
            response.close()
            # It refers to the response: the two would wait for the garbage collector.
            del response.stream
        return interpret(response.status_code, response.headers, body, datetime.now(UTC))

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._is_over:  # a name lookup may end long after its request was given up
                self._cut()

    def _cut(self) -> None:
        self._is_over = True
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):
                # not the method: it would drop a TLS socket's state while the other thread uses it
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _read_body(response: httpx.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ServerError(f"The API's response is compressed though that was not asked for; {AGAIN}.")
    # Outside the heap: there, a body of this size leaves a hole, which the soak test measures as growth.
    with mmap.mmap(-1, MAX_BODY) as body:
        for piece in response.iter_raw():
            if body.tell() + len(piece) > MAX_BODY:
                raise ServerError(f"The API's response is far too long; {AGAIN}.")
            body.write(piece)
        return body[: body.tell()]


def _forget_frames(error: BaseException) -> None:
    """Cut an error and what led to it off from their frames, which hold the request, and one another in a circle."""
    led_to_it: BaseException | None = error
    while led_to_it is not None:
        led_to_it.__traceback__ = None
        led_to_it = led_to_it.__cause__ or led_to_it.__context__


def _explain(error: httpx.HTTPError, address: str) -> str:
    """Return a sentence for a failed exchange, made from our words, the system's, and the API's host and port."""
    reason = "no reason given"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"The API's certificate is not trusted ({cause.verify_message}); check proxies and SSL_CERT_FILE."
        if isinstance(cause, socket.gaierror):
            name = address.rpartition(":")[0]
            return f"The name {name} cannot be resolved; check CLAUDE_API_URL, the network and its DNS."
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return f"The API at {address} cannot be reached ({reason}); check CLAUDE_API_URL and the network."
    if isinstance(error, httpx.ProxyError):
        return "The proxy refused the connection; check HTTPS_PROXY."
    return f"The connection to the API was lost; {AGAIN}."
