"""One account in the service, without broker and without API: what it decides when something happens."""

import json
import logging
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from claude_usage_mqtt.errors import (
    ClaudeUsageError,
    CredentialsNotFound,
    NoReporter,
    RateLimited,
    ServerError,
    TokenExpired,
    Unauthorized,
)
from claude_usage_mqtt.instants import local_time
from claude_usage_mqtt.service.account import AccountState
from claude_usage_mqtt.service.commands import obey
from claude_usage_mqtt.service.documents import documents, health_document
from claude_usage_mqtt.sources.credentials.token import Credentials
from claude_usage_mqtt.sources.credentials.watch import LoginChanged
from claude_usage_mqtt.sources.source import Login
from claude_usage_mqtt.topics import encode
from claude_usage_mqtt.usage.reading import CLAUDE_CODE, OAUTH, REPORTER, STATUSLINE, ExtraUsage, Reading
from parts.readings import make_reading, make_usage
from parts.simulation import TOPICS, make_state, poll

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SOON = NOW + timedelta(minutes=2)
BLOCKED = RateLimited("later", retry_after=timedelta(hours=1))


def refused(error: ClaudeUsageError, login: Login = Login(mark=1)) -> AccountState:  # noqa: B008 - a tuple
    """Return an account whose token was just refused."""
    state = make_state()
    poll(state, NOW, error=error, login=login)
    return state


def use_login(state: AccountState, login: Login | None, at: datetime = SOON) -> None:
    """Write the file of the login: it holds this one now, or none."""
    state.on_login_changed(LoginChanged(account="default", fingerprint="b", login=login), at)


def status_line(state: AccountState, at: datetime, utilization: float = 42, resets_at: datetime | None = None) -> None:
    """Receive a status line that reports the session."""
    session = make_reading(at, utilization, resets_at or at + timedelta(hours=3), source=STATUSLINE)
    state.take(replace(make_usage(at, session), is_partial=True), at)


def retained(state: AccountState, at: datetime = NOW) -> dict[str, bytes]:
    """Return what is retained of it."""
    return dict(documents(state, at))


def restarted(state: AccountState, at: datetime = NOW, **more: Any) -> AccountState:
    """Return what another start makes of what is retained."""
    again = make_state(**more)
    again.restore(retained(state, at), at)
    return again


def shown(state: AccountState, at: datetime = NOW) -> tuple[str, str]:
    """Return status and detail of the health."""
    health = health_document(state, at)
    return health["status"], health["detail"] or ""


def events(state: AccountState, at: datetime) -> list[dict[str, Any]]:
    """Return the events that wait to be delivered."""
    return [each["document"] for each in json.loads(retained(state, at)[TOPICS.memory])["events"]]


@pytest.mark.parametrize("error", [Unauthorized("no"), RateLimited("later")], ids=["401", "429 without a time"])
def test_only_another_token_ends_a_wait_that_belongs_to_the_token(error: ClaudeUsageError) -> None:
    """Claude Code writes its file for many reasons; a token that was refused is not tried again for them.

    After a restart it is recognized by its end.
    """
    same, other = (Login(mark=mark, token_expires_at=NOW + timedelta(hours=mark)) for mark in (1, 2))
    before = refused(error, same)
    after, late = restarted(before), restarted(before)
    for state in (before, after):
        due = state.due(SOON)
        for login in (same, None):
            use_login(state, login)
            assert state.due(SOON) == due
        use_login(state, other)
        assert state.due(SOON) == SOON
    assert late.due(SOON) > SOON
    use_login(late, other)
    assert late.due(SOON) == SOON


def test_a_wait_that_belongs_to_the_account_ends_with_the_account_alone() -> None:
    """A block for an hour holds for every token, but not in another organization."""
    first, second = (Login(mark=mark, account=f"a{mark}", organization=f"o{mark}") for mark in (1, 2))
    state = refused(BLOCKED, first)
    use_login(state, first._replace(mark=3))
    due = state.due(SOON)
    assert due >= NOW + timedelta(hours=1)
    use_login(state, second)
    assert state.due(SOON) == SOON


@pytest.mark.parametrize(
    ("source", "error", "advice"),
    [
        (OAUTH, RateLimited("later"), "claude-code, statusline or reporter"),
        (CLAUDE_CODE, RateLimited("later"), "CLAUDE_SOURCE=statusline or reporter."),
        (OAUTH, CredentialsNotFound("No file."), "set CLAUDE_SOURCE=reporter,statusline here and run 'claude-usage-"),
    ],
)
def test_a_source_that_never_succeeded_names_the_others(source: str, error: ClaudeUsageError, advice: str) -> None:
    """Waiting may not help then; a source does not name itself, and no sentence suggests posing as another program."""
    state = make_state(sources=(source,))
    poll(state, NOW, source, error=error)
    assert advice in shown(state)[1]
    assert "USER_AGENT" not in shown(state)[1]


def test_a_missing_login_is_not_reported_while_another_source_delivers() -> None:
    """With `auto`, a login that is not on this machine is the status only until a status line delivers."""
    state = make_state(is_auto=True, sources=(OAUTH, REPORTER, STATUSLINE))

    def status(at: datetime) -> str:
        poll(state, at, error=CredentialsNotFound("no login"), requests=0)
        return shown(state, at)[0]

    assert status(NOW) == "no_credentials"
    status_line(state, SOON)
    assert shown(state, SOON) == ("ok", "")
    assert status(SOON + timedelta(minutes=5)) == "ok"
    assert status(SOON + timedelta(hours=2)) == "no_credentials"


def test_a_reporter_that_cannot_be_asked_is_reported_although_its_numbers_are_fresh() -> None:
    """If the only laptop's login has ended, the status says so at once, not when its last numbers become stale."""
    state = make_state(is_auto=True, sources=(REPORTER, STATUSLINE))
    session = make_reading(NOW, 42, NOW + timedelta(hours=3), source=REPORTER)
    poll(state, NOW, REPORTER, reading=make_usage(NOW, session))
    assert shown(state)[0] == "ok"
    error = NoReporter("No machine can be asked: laptop (its token has expired); start Claude Code there once.")
    poll(state, SOON, REPORTER, error=error)
    assert shown(state, SOON) == ("no_reporter", str(error))


@pytest.mark.parametrize("status", ["ok", "starting"])
def test_a_machine_that_has_nothing_new_is_not_missing(status: str) -> None:
    """A laptop that woke up and answers that it has no new numbers is there: the status says so."""
    state = make_state(sources=(REPORTER,))
    if status == "ok":
        poll(state, NOW, REPORTER, reading=make_usage(NOW))
    poll(state, NOW, REPORTER, error=NoReporter("No machine can be asked."))
    assert shown(state)[0] == "no_reporter"
    poll(state, NOW, REPORTER)
    assert shown(state) == (status, "")


def test_a_memory_of_another_version_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """If the saved state cannot be read, one line says why, and the service starts with the last numbers."""
    ours = retained(make_state())
    foreign = ours | {TOPICS.memory: ours[TOPICS.memory].replace(b'"format":2', b'"format":99')}
    missing = {topic: payload for topic, payload in ours.items() if topic != TOPICS.memory}
    for each in (foreign | {TOPICS.state: encode({"account": "default", "windows": {}})}, ours, missing):
        make_state().restore(each, NOW)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "has an unsupported format" in caplog.messages[0]
    assert "is missing, or this user may not read it" in caplog.messages[1]


def test_the_end_of_a_login_is_notified_once_over_restarts() -> None:
    """Three days before a login ends there is one event, and the next login gets its own.

    Claude Code's file has the end with milliseconds, our saved state does not.
    """
    state = make_state()
    ends = NOW + timedelta(days=5, milliseconds=123)
    notice = ends - timedelta(days=3)
    use_login(state, Login(login_expires_at=ends), NOW)
    state.tick(NOW)
    assert events(state, NOW) == []
    state.tick(notice)
    (event,) = events(state, notice)
    assert event["event_type"] == "login_expiring"
    assert datetime.fromisoformat(event["resets_at"]) == ends.replace(microsecond=0)
    assert shown(state, NOW)[1] == shown(state, ends)[1] == ""
    assert "log in with Claude Code again" in shown(state, notice)[1]
    again = restarted(state, notice)
    use_login(again, Login(login_expires_at=ends), notice)
    again.tick(notice)
    assert events(again, notice) == [event]
    use_login(again, Login(login_expires_at=ends + timedelta(days=30)), ends)
    again.tick(ends + timedelta(days=28))
    assert len(events(again, ends)) == 2


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="TZ means something else on Windows")
def test_sentences_for_people_have_local_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sentence of the health, which Home Assistant shows on a phone, has its time in the zone of `TZ`."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        ending, silent, pressed = make_state(), make_state(sources=(STATUSLINE,)), refused(ServerError("out of order"))
        use_login(ending, Login(login_expires_at=NOW))
        status_line(silent, NOW)
        silent.tick(NOW + timedelta(hours=2))
        obey(pressed, "refresh", b"", NOW)
        with pytest.raises(TokenExpired) as expired:
            Credentials(token="t", login=Login(token_expires_at=NOW)).require_unexpired(NOW)
        sentences = [
            shown(ending, NOW - timedelta(days=1))[1],
            shown(silent, NOW + timedelta(hours=2))[1],
            shown(pressed)[1],
            str(expired.value),
        ]
    finally:
        monkeypatch.undo()
        time.tzset()
    for sentence in sentences:
        assert re.search(r" 21:0\d on Fri Nov 20", sentence), sentence


def test_a_silent_status_line_says_why() -> None:
    """If nothing polls, stale numbers come with their likely reasons, and a day without numbers is a status.

    Both survive a restart, and the next status line clears them.
    """
    state = make_state(sources=(STATUSLINE,))
    status_line(state, NOW)
    state.tick(NOW + timedelta(minutes=20))
    assert shown(state, NOW) == ("ok", "")
    for hours, expected in ((23, "ok"), (24, "no_status_line")):
        now = NOW + timedelta(hours=hours)
        state.tick(now)
        again = restarted(state, now, sources=(STATUSLINE,))
        again.tick(now)
        for each in (state, again):
            status, detail = shown(each, now)
            assert status == expected
            assert f"since {local_time(NOW)}" in detail
            assert "desktop app" in detail
    status_line(state, now)
    assert shown(state, now) == ("ok", "")


def test_a_clock_that_was_set_is_wrong_no_longer() -> None:
    """Once a status line is accepted, a later silence has its own reasons, not the earlier wrong clock."""
    state = make_state(sources=(STATUSLINE,))
    (pushed,) = state.options.pushed
    state.receive(pushed, json.dumps({"at": (NOW - timedelta(hours=3)).timestamp()}).encode(), NOW)
    state.tick(NOW)
    assert "set that clock" in shown(state)[1]
    status_line(state, SOON)
    later = SOON + timedelta(hours=2)
    state.tick(later)
    assert f"since {local_time(SOON)}" in shown(state, later)[1]


def test_a_seat_that_has_only_a_spend_limit_is_well() -> None:
    """A status line reports only its money: that is not a silent status line."""
    state = make_state(sources=(STATUSLINE,))
    money = ExtraUsage(enabled=True, used=5.0, limit=50.0, utilization=10.0, currency="USD")
    state.tick(NOW)
    assert shown(state)[0] == "no_status_line"
    state.take(replace(make_usage(NOW, money=money), is_partial=True), NOW)
    state.tick(NOW)
    assert shown(state) == ("ok", "")
    assert health_document(state, NOW)["last_success"] == NOW.isoformat()


def test_a_clock_that_is_set_back_leaves_what_was_restored() -> None:
    """After a start with a clock that is ahead, and then corrected, the true time of the last success is shown."""
    polled_at = NOW + timedelta(milliseconds=400)
    before, after = make_state(), make_state()
    poll(before, polled_at, reading=make_usage(polled_at, make_reading(polled_at, 20, NOW + timedelta(hours=3))))
    after.restore(retained(before, SOON), SOON + timedelta(hours=3))
    after.clock_stepped(timedelta(hours=-3), SOON)
    health = health_document(after, SOON)
    assert (health["last_success"], health["fresh"]) == (NOW.isoformat(), True)


def test_what_was_not_understood_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Two servers of the API with different additions do not fill the debug log alternately."""
    caplog.set_level(logging.DEBUG, "claude_usage_mqtt")
    state = make_state()
    for minute in range(6):
        at = NOW + timedelta(minutes=minute)
        poll(state, at, reading=Reading(read_at=at, windows={}, ignored=("a",) if minute % 2 else ("c", "b")))
    found = [message.rpartition(": ")[2] for message in caplog.messages if "not understood" in message]
    assert found == ["c, b", "a"]


def test_an_unlikely_status_line_is_named_until_it_is_confirmed(caplog: pytest.LogCaptureFixture) -> None:
    """Without polls nothing confirms it within a minute: health and log say why the number is missing."""
    state = make_state(sources=(STATUSLINE,))
    sentence = "Session 15 % is unlikely; it is not shown until the next response confirms it."
    with caplog.at_level(logging.INFO, "claude_usage_mqtt"):
        for minute, utilization, detail in ((0, 62, ""), (1, 15, sentence), (2, 16, "")):
            at = NOW + timedelta(minutes=minute)
            status_line(state, at, utilization, NOW + timedelta(hours=3))
            assert shown(state, at)[1] == detail
    assert caplog.messages == [f"Account default: {sentence}"]


def test_the_problems_of_a_source_that_is_no_longer_used_are_gone() -> None:
    """After a change from polling to status lines, failed polls and the end of the unused login are not shown."""
    polled = refused(ServerError("HTTP 500"), Login(token_expires_at=SOON, login_expires_at=SOON))
    health = health_document(restarted(polled, sources=(STATUSLINE,)), NOW)
    values = [health[key] for key in ("consecutive_failures", "token_expires_at", "login_expires_at", "detail")]
    assert values == [0, None, None, None]


def test_another_logins_status_line_is_named_in_detail(caplog: pytest.LogCaptureFixture) -> None:
    """The fix for two logins on one machine is in the status, and once in the log."""
    state = make_state(sources=(STATUSLINE,))
    for at, hours in ((NOW, 3), (SOON, 1)):
        status_line(state, at, resets_at=NOW + timedelta(hours=hours))
        state.tick(at)
    state.tick(SOON)
    detail = shown(state, SOON)[1]
    assert "name both logins in CLAUDE_ACCOUNTS here, and pass --account ID" in detail
    assert caplog.messages == [f"Account default: {detail}"]
    assert shown(state, SOON + timedelta(hours=2))[1] == ""


def test_the_log_says_what_else_is_wrong_with_the_reporters(caplog: pytest.LogCaptureFixture) -> None:
    """Why no machine can be asked is logged again once something else helps, not if one was only seen later."""
    state = make_state()
    asleep = "No machine can be asked: laptop (away, last seen Nov 20 10:0%s UTC); wake one up."
    expired = "No machine can be asked: laptop (its token has expired, last seen Nov 20 11:00 UTC); start Claude Code."
    for sentence in (asleep % 1, asleep % 2, expired, asleep % 3, expired):
        state.report(NoReporter(sentence))
    assert caplog.messages == [f"Account default: {sentence}" for sentence in (asleep % 1, expired)]


def test_the_log_says_when_the_numbers_become_stale_and_when_they_are_back(caplog: pytest.LogCaptureFixture) -> None:
    """The log shows later from when to when nothing was known: one line each, and one per poll at level debug."""
    caplog.set_level(logging.DEBUG, "claude_usage_mqtt")
    state = make_state()
    state.tick(NOW)
    for minute, error in ((0, None), (2, ServerError("HTTP 500")), (63, None), (64, None)):
        at = NOW + timedelta(minutes=minute)
        if minute == 63:
            for late in (at - timedelta(minutes=2), at - timedelta(minutes=1)):
                state.tick(late)
        reading = None if error else make_usage(at, make_reading(at, 42, at + timedelta(hours=2)))
        poll(state, at, reading=reading, error=error)
        state.tick(at)
    read_at = NOW.astimezone().strftime("%H:%M")
    assert [(record.levelname, record.getMessage().removeprefix("Account default: ")) for record in caplog.records] == [
        ("INFO", "Session 42 %"),
        ("DEBUG", "the poll failed: HTTP 500"),
        ("WARNING", "HTTP 500"),
        ("WARNING", f"the numbers, read at {read_at}, are no longer shown."),
        ("DEBUG", "Session 42 %"),
        ("INFO", "the usage is known again."),
        ("INFO", "the numbers are current again."),
        ("DEBUG", "Session 42 %"),
    ]


@pytest.mark.parametrize("error", [None, CredentialsNotFound("no file")], ids=["stopped before the answer", "no login"])
def test_unknown_numbers_are_asked_for_soon_after_a_restart(error: ClaudeUsageError | None) -> None:
    """Started again within seconds, or after logging in, nobody waits five minutes for the first numbers."""
    state = make_state()
    if error is None:
        state.begin_poll(NOW)
    else:
        poll(state, NOW, error=error, requests=0)
    due = restarted(state, NOW + timedelta(seconds=10)).due(NOW + timedelta(seconds=10))
    assert due <= NOW + timedelta(minutes=1)


def test_a_restart_does_not_shorten_a_wait() -> None:
    """A container that keeps restarting does not ask an API that refuses it each time."""
    state = refused(Unauthorized("no"))
    before = state.due(SOON)
    assert restarted(state, SOON).due(SOON) == before.replace(microsecond=0)


def test_commands_that_can_do_nothing_say_so_until_there_are_new_numbers() -> None:
    """With only the status line there is nothing to poll: `paused` would be wrong, and the hint goes away."""
    state = make_state(sources=(STATUSLINE,))
    state.restore({TOPICS.health: encode({"status": "ok", "polling": False})}, NOW)
    for name, value in (("refresh", b""), ("polling", b"OFF"), ("interval", b"600")):
        obey(state, name, value, NOW)
    assert shown(state)[0] == "ok"
    assert health_document(state, NOW)["polling"] is True
    assert "no effect here" in shown(state)[1]
    status_line(state, SOON)
    assert shown(state, SOON)[1] == ""
