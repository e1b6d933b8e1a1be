"""The usage endpoint over real HTTP: whatever it does, requests end in time and errors have a sentence."""

import datetime as dt
import gc
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_usage_mqtt.clock import SystemClock
from claude_usage_mqtt.errors import (
    ApiError,
    CredentialsError,
    InsufficientScope,
    InvalidResponse,
    NetworkError,
    RateLimited,
    ServerError,
    SettingsError,
    Unauthorized,
)
from claude_usage_mqtt.sources.api.client import MAX_BODY, UsageApi
from claude_usage_mqtt.sources.api.response import interpret, parse_retry_after
from claude_usage_mqtt.sources.api.source import ApiSource
from claude_usage_mqtt.sources.api.url import host_and_port
from claude_usage_mqtt.sources.credentials.file import CredentialsFile
from claude_usage_mqtt.sources.credentials.token import Credentials
from parts import faults
from parts.certificates import Authority
from parts.credentials import write_credentials, write_credentials_text
from parts.documents import sample_usage
from parts.endpoint import Connect, Endpoint, Fault
from parts.garbage import end_of_requests, no_garbage

TOKEN = "sk-ant-oat01-canary"
DEADLINE = 0.5


@pytest.fixture
def api(connect: Connect) -> UsageApi:
    """Return a client of it."""
    return connect()


@pytest.fixture
def hasty(connect: Connect) -> UsageApi:
    """Return a client of it with a short deadline."""
    return connect(deadline=DEADLINE)


def test_one_get_with_the_token_and_an_honest_introduction(endpoint: Endpoint, api: UsageApi) -> None:
    """A poll is one GET of the usage document, and nothing that would spend quota."""
    endpoint.document = sample_usage(five_hour=12.5)
    assert api.fetch(TOKEN)["five_hour"]["utilization"] == 12.5
    (request,) = endpoint.requests
    assert (request.method, request.path) == ("GET", "/api/oauth/usage")
    assert request.bearer == TOKEN
    assert request.headers["user-agent"] == "tests/1"
    assert request.headers["anthropic-beta"] == "oauth-2025-04-20"
    assert "cookie" not in request.headers


def test_a_path_in_the_url_is_kept(endpoint: Endpoint, connect: Connect) -> None:
    """A gateway that serves the API under a path is asked under that path."""
    with pytest.raises(InvalidResponse, match="404"):
        connect(endpoint.url + "/gateway/").fetch(TOKEN)
    assert endpoint.requests[0].path == "/gateway/api/oauth/usage"


REFUSALS: list[tuple[Fault, type[ApiError], str]] = [
    (faults.rate_limited(), RateLimited, "429"),
    (faults.unauthorized(), Unauthorized, "log in"),
    (faults.refusal(403, "permission_error", "no"), Unauthorized, "403"),
    (faults.insufficient_scope(), InsufficientScope, "user:profile"),
    (faults.overloaded(), ServerError, "529"),
    (faults.refusal(500, "authentication_error", "no"), ServerError, "500"),
    (faults.Answer(status=408), ServerError, "408"),
    (faults.Answer(status=407), NetworkError, "HTTPS_PROXY"),
    (faults.Answer(status=451), NetworkError, "region, VPN or proxy"),
    (faults.refusal(401, "authentication_error", "needs scope user:profile"), InsufficientScope, "user:profile"),
    (faults.refusal(403, "permission_error", "not allowed for this organization"), Unauthorized, "administrator"),
    (faults.refusal(400, "invalid_request_error", "This organization has been disabled."), Unauthorized, "HTTP 400"),
    (faults.html_page(), ServerError, "HTML"),
    (faults.html_page(502), ServerError, "502"),
    (faults.html_page(401), Unauthorized, "401"),
    (faults.invalid_json(), InvalidResponse, "JSON"),
    (faults.invalid_json(b"1" * 5000), InvalidResponse, "JSON"),
    (faults.deep_json(5000), InvalidResponse, "JSON"),
    # what cannot be a usage is not parsed: the memory for that would stay with the service for months
    (faults.invalid_json(b"[" + b"[]," * 5000 + b"[]]"), InvalidResponse, "JSON"),
    (faults.GzipBomb(16 * faults.MEGABYTE), ServerError, "compressed"),
    (faults.CutBody(), NetworkError, "was lost"),
    (faults.CloseAtOnce(), NetworkError, "was lost"),
    (faults.CloseAtOnce(reset=True), NetworkError, "was lost"),
    (faults.Answer(status=418, body=b"{}"), InvalidResponse, "418"),
    (faults.Answer(status=304), InvalidResponse, "304"),
    (faults.Answer(headers={"X-Long": "x" * 300_000}, body=b"{}"), NetworkError, "try again"),
]


@pytest.mark.parametrize(("fault", "kind", "word"), REFUSALS, ids=lambda value: getattr(value, "__name__", None))
def test_each_refusal_has_its_own_error(
    endpoint: Endpoint, api: UsageApi, fault: Fault, kind: type[ApiError], word: str
) -> None:
    """The status, and so what Home Assistant shows, follows from what the API said; and the next poll works again."""
    endpoint.fault_next(fault)
    with pytest.raises(kind, match=word) as caught:
        api.fetch(TOKEN)
    assert type(caught.value) is kind
    assert str(caught.value).endswith(".")
    assert TOKEN not in repr(caught.value)
    assert isinstance(api.fetch(TOKEN), dict)


@pytest.mark.parametrize(
    ("retry_after", "said"),
    [(None, "gave no Retry-After"), (0, "gave no Retry-After"), (20, "for 1 minute;"), (3600, "for 60 minutes;")],
)
def test_a_429_says_for_how_long(endpoint: Endpoint, api: UsageApi, retry_after: int | None, said: str) -> None:
    """Whichever command was rate limited, its error says for how long."""
    endpoint.fault = faults.rate_limited(retry_after)
    with pytest.raises(RateLimited, match=said):
        api.fetch(TOKEN)


def test_an_address_for_people_holds_no_login() -> None:
    """An error names host and port, and never the login before them in the URL."""
    assert host_and_port("https://me:secret@api.example/path") == "api.example:443"
    assert host_and_port("http://[::1]:80") == "[::1]:80"
    assert host_and_port("http://127.0.0.1") == "127.0.0.1:80"


def test_the_bound_on_a_body(endpoint: Endpoint, api: UsageApi) -> None:
    """A mebibyte is read to its last byte, and no more of a hundred: the memory of the container stays flat."""
    endpoint.fault_next(faults.invalid_json(b"{}".rjust(MAX_BODY)))
    assert api.fetch(TOKEN) == {}
    for fault in (faults.invalid_json(b"{}".rjust(MAX_BODY + 1)), faults.HugeBody()):
        endpoint.fault_next(fault)
        with pytest.raises(ServerError, match="far too long"):
            api.fetch(TOKEN)
    endpoint.wait_for_clients_gone(1)
    assert endpoint.bytes_sent < 30 * MAX_BODY  # what the kernel's buffers hold comes on top of the bound


@pytest.mark.parametrize(
    "fault", [faults.Hang(), faults.DripHeaders(0.05), faults.DripBody(0.05)], ids=lambda fault: type(fault).__name__
)
def test_the_deadline_is_for_the_whole_request(endpoint: Endpoint, hasty: UsageApi, fault: Fault) -> None:
    """A server that sends nothing, or a byte now and then, is given up in time, and its connection is closed."""
    endpoint.fault = fault
    with pytest.raises(NetworkError, match=r"within 0\.5 s"):
        hasty.fetch(TOKEN)
    endpoint.wait_for_clients_gone(1)
    endpoint.fault = None
    assert isinstance(hasty.fetch(TOKEN), dict)


@pytest.mark.parametrize(
    "fault",
    [
        None,
        faults.unauthorized(),
        faults.invalid_json(),
        faults.HugeBody(8 * faults.MEGABYTE),
        faults.CutBody(),
        faults.CloseAtOnce(reset=True),
        faults.Hang(),
        faults.DripHeaders(),
        faults.DripBody(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_poll_leaves_no_garbage_behind(tmp_path: Path, endpoint: Endpoint, hasty: UsageApi, fault: Fault) -> None:
    """No thread, token, request or response waits in memory for the garbage collector, however a poll ended.

    In an outage there would be thousands: the process would grow, and a dump of it would show the token.
    """
    write_credentials(tmp_path, token=TOKEN)
    source = ApiSource(CredentialsFile(tmp_path), hasty)
    endpoint.fault = fault
    with no_garbage(Credentials, httpx.Request, httpx.Response):
        result = source.poll("default", SystemClock(), may_retry=True)
        assert (result.error is None) == (fault is None)
        endpoint.release()
        # while the error is still at hand: it is kept for as long as an outage lasts


@pytest.mark.parametrize("text", [None, '{"claudeAi', "[]", '{"claudeAiOauth": {"accessToken": ["no"]}}'])
def test_a_poll_without_credentials_leaves_no_garbage_behind(tmp_path: Path, api: UsageApi, text: str | None) -> None:
    """A login that cannot be read is checked every half minute, for weeks if nobody fixes it."""
    if text is not None:
        write_credentials_text(tmp_path, text)
    source = ApiSource(CredentialsFile(tmp_path), api)
    with no_garbage(FrameType):
        result = source.poll("default", SystemClock(), may_retry=True)
        assert isinstance(result.error, CredentialsError)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(endpoint: Endpoint, api: UsageApi, status: int) -> None:
    """The token goes to one host; a redirect is reported, not followed."""
    with Endpoint() as elsewhere:
        endpoint.fault = faults.redirect(elsewhere, status)
        with pytest.raises(InvalidResponse, match="redirects"):
            api.fetch(TOKEN)
        assert elsewhere.count == 0


def test_no_server(connect: Connect, closed_port: int) -> None:
    """A refused connection is a network error that says so."""
    said = rf"127\.0\.0\.1:{closed_port} cannot be reached \(.*refused.*CLAUDE_API_URL"
    with pytest.raises(NetworkError, match=said):
        connect(f"http://127.0.0.1:{closed_port}").fetch(TOKEN)


def test_no_such_name(connect: Connect) -> None:
    """DNS that does not know the API is distinguished from an API that is down."""
    with pytest.raises(NetworkError, match="cannot be resolved"):
        connect("https://api.claude.invalid").fetch(TOKEN)


def test_a_name_lookup_that_hangs_ends_with_the_deadline(
    endpoint: Endpoint, hasty: UsageApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead name server delays nothing, and no token is sent after its late answer."""
    may_answer, answered = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def hang(*arguments: object, **more: object) -> object:
        may_answer.wait(10)
        answered.set()
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(NetworkError, match="within"):
        hasty.fetch(TOKEN)
    may_answer.set()
    assert answered.wait(10)
    end_of_requests()
    assert endpoint.count == 0


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Return an authority that is trusted."""
    found = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(found.ca_path))
    return found


def test_only_the_right_certificate_is_trusted(tmp_path: Path, authority: Authority, connect: Connect) -> None:
    """One of another authority, name or time is refused before a request is sent."""
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    contexts = (
        Authority(tmp_path / "other").server_context(),
        authority.server_context("api.example"),
        authority.server_context(not_after=past),
    )
    for context in contexts:
        with Endpoint(ssl_context=context) as endpoint:
            with pytest.raises(NetworkError, match="certificate is not trusted"):
                connect(endpoint.url).fetch(TOKEN)
            assert endpoint.count == 0
    with Endpoint(ssl_context=authority.server_context()) as endpoint:
        assert isinstance(connect(endpoint.url).fetch(TOKEN), dict)


def test_a_tls_request_that_hangs_is_cut(authority: Authority, connect: Connect) -> None:
    """The deadline holds inside TLS too."""
    with Endpoint(ssl_context=authority.server_context()) as endpoint:
        endpoint.fault = faults.DripBody(0.05)
        with pytest.raises(NetworkError, match="within"):
            connect(endpoint.url, DEADLINE).fetch(TOKEN)
        endpoint.wait_for_clients_gone(1)


def test_a_proxy_of_the_environment_is_used_for_https_only(
    endpoint: Endpoint, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a corporate proxy the API is reached through it; loopback never is: the proxy would see its token."""
    with Endpoint() as proxy:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with pytest.raises(NetworkError, match="HTTPS_PROXY"):
            connect("https://api.claude.invalid").fetch(TOKEN)
        (request,) = proxy.wait_for_requests(1)
        assert request.method == "CONNECT"
        assert "authorization" not in request.headers
        connect().fetch(TOKEN)
        assert (proxy.count, endpoint.count) == (1, 1)


def test_certificates_are_loaded_once_however_many_proxies_there_are(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with the usual three proxy variables starts as fast and as small as one without: a load is 0.8 MB."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    gc.collect()
    before = [each for each in gc.get_objects() if isinstance(each, ssl.SSLContext)]
    connect("https://api.claude.invalid")
    made = [each for each in gc.get_objects() if isinstance(each, ssl.SSLContext) and each not in before]
    assert len(made) == 1


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "SSL_CERT_FILE"])
def test_unusable_environment_is_an_error_of_settings(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """A proxy that is not a URL, or certificates that are not there, are reported at the start and not at each poll."""
    monkeypatch.setenv(variable, "gopher://nowhere:1" if variable == "HTTPS_PROXY" else "/nowhere")
    with pytest.raises(SettingsError, match=variable):
        UsageApi("https://api.claude.invalid", "tests")


def test_several_threads_share_one_client(endpoint: Endpoint, api: UsageApi) -> None:
    """Accounts are polled at the same time, and each sends its own token."""
    endpoint.document = lambda request: sample_usage() | {"mine": request.bearer}
    tokens = [f"token-{number}" for number in range(10)]
    with ThreadPoolExecutor(len(tokens)) as threads:
        assert list(threads.map(lambda token: api.fetch(token)["mine"], tokens)) == tokens


NOW = dt.datetime(2026, 11, 20, 16, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", None),
        ("120", 120),
        (" 120 ", 120),
        ("3600.0", 3600),
        ("9" * 60, 86400),
        ("soon", None),
        ("²", None),
        ("Fri, 20 Nov 2026 17:00:00 GMT", 3600),
        ("Fri, 20 Nov 2026 15:00:00 GMT", None),
        ("Fri, 20 Nov 9999 15:00:00 GMT", 86400),
        ("Fri, 20 Nov 2026 17:00:00 -9999", None),
        ("120, 3600", 3600),
        ("3600, soon", None),
    ],
)
def test_how_long_to_wait(text: str | None, seconds: int | None) -> None:
    """The wait is what the API asks for, but never longer than a day; nonsense is ignored."""
    wait = parse_retry_after(text, NOW)
    assert (None if wait is None else wait.total_seconds()) == seconds


@pytest.mark.parametrize(
    ("date", "hours"),
    [("Fri, 20 Nov 2026 19:00:00 GMT", 1), ("Fri, 20 Nov 2026 13:00:00 GMT", 7), ("soon", 4), (None, 4)],
)
def test_a_date_to_wait_for_is_by_the_apis_clock(date: str | None, hours: int) -> None:
    """A Raspberry Pi whose clock is hours off waits as long as the API says; without the API's date, by its own."""
    headers = {"Retry-After": "Fri, 20 Nov 2026 20:00:00 GMT"} | ({} if date is None else {"Date": date})
    with pytest.raises(RateLimited) as caught:
        interpret(429, httpx.Headers(headers), b"", NOW)
    assert caught.value.retry_after == dt.timedelta(hours=hours)


@given(st.just(429) | st.integers(100, 599), st.text(max_size=80), st.binary(max_size=200) | st.just(b"[" * 100_000))
def test_no_answer_breaks_it(status: int, retry_after: str, body: bytes) -> None:
    """Any answer is a document or one of our errors, which quotes nothing of it; no wait is over a day."""
    try:
        interpret(status, {"Retry-After": retry_after}, body, NOW)
    except ApiError as error:
        sentence = str(error)
        wait = getattr(error, "retry_after", None)
        assert wait is None or dt.timedelta(0) < wait <= dt.timedelta(days=1)
    else:
        sentence = ""
    assert sentence.isascii()
    assert len(sentence) < 300


def test_close_ends_what_hangs(endpoint: Endpoint, hasty: UsageApi) -> None:
    """The client can be closed at any time, at once."""
    endpoint.fault = faults.Hang()
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(hasty.fetch, TOKEN)
        endpoint.wait_for_requests(1)
        hasty.close()
        endpoint.release()
        assert isinstance(asked.exception(10), ApiError)
