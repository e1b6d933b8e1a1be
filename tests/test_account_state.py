"""One account in the service, without broker and without API: what it decides when something happens."""

import json
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from claude_usage_mqtt.errors import (
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
from claude_usage_mqtt.sources.source import Login, PollResult
from claude_usage_mqtt.topics import encode
from claude_usage_mqtt.usage.reading import CLAUDE_CODE, OAUTH, REPORTER, STATUSLINE, ExtraUsage, Reading
from parts.readings import make_reading, make_usage
from parts.simulation import make_state

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SOON = NOW + timedelta(minutes=2)


def refused(error: Any) -> AccountState:
    """Return an account whose token 1 was just refused."""
    state = make_state()
    state.begin_poll(NOW)
    state.finish_poll(
        PollResult(account="default", source=OAUTH, error=error, requests=1, fingerprint="a", login=Login(mark=1)), NOW
    )
    return state


def noticed(mark: int | None) -> LoginChanged:
    """Return that the file has changed, and now holds this token."""
    return LoginChanged(account="default", fingerprint="b", login=None if mark is None else Login(mark=mark))


@pytest.mark.parametrize("error", [Unauthorized("no"), RateLimited("later")], ids=["401", "429 without a time"])
def test_only_another_token_ends_a_wait_that_belongs_to_the_token(error: Exception) -> None:
    """Claude Code writes its file for many reasons; a token that was refused is not tried again for them."""
    state = refused(error)
    before = state.due(SOON)
    for same in (noticed(1), noticed(None)):
        state.on_login_changed(same, SOON)
        assert state.due(SOON) == before
    state.on_login_changed(noticed(2), SOON)
    assert state.due(SOON) == SOON


def test_another_token_does_not_end_a_wait_that_belongs_to_the_account() -> None:
    """Who is shut out for an hour is shut out with every token."""
    state = refused(RateLimited("later", retry_after=timedelta(hours=1)))
    state.on_login_changed(noticed(2), SOON)
    due = state.due(SOON)
    assert due is not None
    assert due >= NOW + timedelta(hours=1)


def test_another_organization_does_not_wait_for_the_block_of_the_one_before() -> None:
    """Who logs in to another account is not shut out because the first one was."""
    state = make_state()
    state.begin_poll(NOW)
    first, second = (Login(mark=mark, account=f"a{mark}", organization=f"o{mark}") for mark in (1, 2))
    blocked = RateLimited("later", retry_after=timedelta(hours=1))
    state.finish_poll(PollResult(account="default", source=OAUTH, error=blocked, requests=1, login=first), NOW)
    state.on_login_changed(LoginChanged(account="default", fingerprint="b", login=second), SOON)
    assert state.due(SOON) == SOON


def test_the_first_429_names_the_other_sources() -> None:
    """Where no request ever succeeded, waiting may not help; nobody is advised to pose as another program."""
    state = refused(RateLimited("later"))
    assert state.health.detail is not None
    assert "claude-code, statusline or reporter" in state.health.detail
    assert "USER_AGENT" not in state.health.detail


def test_a_missing_login_names_the_reporter() -> None:
    """Most people who have no login here use Claude Code elsewhere: what to do here and there is in the sentence."""
    state = refused(CredentialsNotFound("No file."))
    assert state.health.detail is not None
    assert "set CLAUDE_SOURCE=reporter,statusline here and run 'claude-usage-mqtt report' there" in state.health.detail


def test_a_refused_claude_code_does_not_recommend_itself() -> None:
    """The sources that are named are others than the one that is refused."""
    state = make_state(sources=(CLAUDE_CODE,))
    state.finish_poll(PollResult(account="default", source=CLAUDE_CODE, error=RateLimited("later")), NOW)
    assert state.health.detail is not None
    assert "CLAUDE_SOURCE=statusline or reporter." in state.health.detail


def test_what_is_not_there_is_not_missed_while_another_source_delivers() -> None:
    """With `auto` a login that is not on this machine is the status until a status line delivers, and not after."""
    state = make_state(is_auto=True, sources=(OAUTH, REPORTER, STATUSLINE))
    missing = PollResult(account="default", source=OAUTH, error=CredentialsNotFound("no login"))

    def poll(now: datetime) -> str:
        state.begin_poll(now)
        state.finish_poll(missing, now)
        return state.health.status

    assert poll(NOW) == "no_credentials"
    window = make_reading(SOON, 42, NOW + timedelta(hours=3), source=STATUSLINE)
    state.take(Reading(read_at=SOON, windows={window.key: window}, is_partial=True), SOON)
    assert (state.health.status, state.health.detail) == ("ok", None)
    assert poll(SOON + timedelta(minutes=5)) == "ok"
    assert poll(SOON + timedelta(hours=2)) == "no_credentials"


def test_a_reporter_that_cannot_be_asked_anymore_is_missed_although_its_numbers_are_fresh() -> None:
    """Whoever has one laptop, whose login has ended, reads so at once, not when its last numbers become stale."""
    state = make_state(is_auto=True, sources=(REPORTER, STATUSLINE))
    window = make_reading(NOW, 42, NOW + timedelta(hours=3), source=REPORTER)
    reading = Reading(read_at=NOW, windows={window.key: window})
    state.begin_poll(NOW)
    state.finish_poll(PollResult(account="default", source=REPORTER, reading=reading), NOW)
    assert state.health.status == "ok"
    state.begin_poll(SOON)
    error = NoReporter("No machine can be asked: laptop (its token has expired); start Claude Code there once.")
    state.finish_poll(PollResult(account="default", source=REPORTER, error=error), SOON)
    assert (state.health.status, state.health.detail) == ("no_reporter", str(error))


@pytest.mark.parametrize("status", ["ok", "starting"])
def test_a_machine_that_has_nothing_new_is_not_missing(status: str) -> None:
    """A laptop that woke up and answers that its numbers are the old ones is there: the status says so."""
    state = make_state(sources=(REPORTER,))

    def poll(**found: Any) -> str:
        state.begin_poll(NOW)
        state.finish_poll(PollResult(account="default", source=REPORTER, **found), NOW)
        return state.health.status

    if status == "ok":
        assert poll(reading=Reading(read_at=NOW, windows={})) == status
    assert poll(error=NoReporter("No machine can be asked.")) == "no_reporter"
    assert poll() == status
    assert state.health.detail is None


def test_a_memory_of_another_version_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """If the saved state cannot be read, one line says why, and the last numbers are the beginning."""
    old = make_state()
    topics = old.options.topics
    retained = dict(documents(old, NOW))
    foreign = retained | {topics.memory: retained[topics.memory].replace(b'"format":2', b'"format":99')}
    state = encode({"account": "default", "windows": {}})
    with caplog.at_level(logging.INFO):
        make_state().restore(foreign | {topics.state: state}, NOW)
        make_state().restore(retained, NOW)
        make_state().restore({topic: each for topic, each in retained.items() if topic != topics.memory}, NOW)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "has an unsupported format" in caplog.messages[0]
    assert "is missing, or this user may not read it" in caplog.messages[1]


def test_the_end_of_a_login_is_notified_once_over_restarts() -> None:
    """Three days before a login ends there is one event, and the next login gets its own.

    Claude Code's file has the end with milliseconds, what is saved has not.
    """
    state = make_state()
    ends = NOW + timedelta(days=5, milliseconds=123)
    state.health.login.known = Login(login_expires_at=ends)
    state.tick(NOW)
    assert len(state.delivery) == 0
    later = ends - timedelta(days=3)
    assert state.health.login.changes_at(NOW) == later
    state.tick(later)
    ((level, payload),) = state.delivery.take(later, is_home_assistant_online=True)
    document = json.loads(payload)
    details = [
        json.loads(dict(documents(state, at))[state.options.topics.health])["detail"] for at in (NOW, later, ends)
    ]
    assert details[0] is details[2] is None
    assert "log in with Claude Code again" in details[1]
    assert (level, document["event_type"]) == ("account", "login_expiring")
    assert datetime.fromisoformat(document["resets_at"]) == ends.replace(microsecond=0)
    again = make_state()
    again.restore(dict(documents(state, later)), later)
    again.health.login.known = state.health.login.known
    again.tick(later)
    assert len(again.delivery) == 0
    again.health.login.known = Login(login_expires_at=ends + timedelta(days=30))
    again.tick(ends + timedelta(days=28))
    assert len(again.delivery) == 1


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="TZ means something else on Windows")
def test_what_a_person_reads_has_local_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sentence of the health, which Home Assistant shows on a phone, names its time in the zone of `TZ`."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        ending = make_state()
        ending.health.login.known = Login(login_expires_at=NOW)
        silent = make_state(sources=(STATUSLINE,))
        silent.health.succeeded(NOW)
        silent.health.show_silence(silent.options.pushed, silent.name, NOW)
        pressed = refused(ServerError("out of order"))
        obey(pressed, "refresh", b"", NOW)
        with pytest.raises(TokenExpired) as expired:
            Credentials(token="t", login=Login(token_expires_at=NOW)).require_unexpired(NOW)
        sentences = (
            ending.health.login.sentence(NOW - timedelta(days=1)),
            silent.health.detail,
            pressed.health.hint,
            str(expired.value),
        )
    finally:
        monkeypatch.undo()
        time.tzset()
    for sentence in sentences:
        assert sentence is not None
        assert re.search(r" 21:0\d on Fri Nov 20", sentence), sentence


def test_a_silent_status_line_says_why() -> None:
    """If nothing polls, numbers that are stale have their likely reasons, and a day without them a status.

    Both survive a restart, and the next status line clears them.
    """
    state = make_state(sources=(STATUSLINE,))
    reading = make_reading(NOW, 42, NOW + timedelta(hours=3), source=STATUSLINE)
    state.take(Reading(read_at=NOW, windows={reading.key: reading}, is_partial=True), NOW)
    state.tick(NOW + timedelta(minutes=20))
    assert (state.health.status, state.health.detail) == ("ok", None)
    for hours, status in ((23, "ok"), (24, "no_status_line")):
        now = NOW + timedelta(hours=hours)
        state.tick(now)
        again = make_state(sources=(STATUSLINE,))
        again.restore(dict(documents(state, now)), now)
        again.tick(now)
        for each in (state, again):
            assert each.health.status == status
            assert each.health.detail is not None
            assert f"since {local_time(NOW)}" in each.health.detail
            assert "desktop app" in each.health.detail
    late = NOW + timedelta(hours=24)
    reading = make_reading(late, 5, late + timedelta(hours=3), source=STATUSLINE)
    state.take(Reading(read_at=late, windows={reading.key: reading}, is_partial=True), late)
    assert (state.health.status, state.health.detail) == ("ok", None)


def test_a_clock_that_was_set_is_wrong_no_longer() -> None:
    """Once a status line is accepted, a later silence has its own reasons, not the clock that was wrong before."""
    state = make_state(sources=(STATUSLINE,))
    (status_line,) = state.options.pushed
    state.receive(status_line, json.dumps({"at": (NOW - timedelta(hours=3)).timestamp()}).encode(), NOW)
    state.tick(NOW)
    assert state.health.detail is not None
    assert "set that clock" in state.health.detail
    at = NOW + timedelta(minutes=10)
    reading = make_reading(at, 42, at + timedelta(hours=3), source=STATUSLINE)
    state.take(Reading(read_at=at, windows={reading.key: reading}, is_partial=True), at)
    state.tick(at + timedelta(hours=2))
    assert f"since {local_time(at)}" in state.health.detail


def test_a_seat_that_has_only_a_spend_limit_is_well() -> None:
    """Its money is all that a status line reports of it: that is not a silent status line."""
    state = make_state(sources=(STATUSLINE,))
    money = ExtraUsage(enabled=True, used=5.0, limit=50.0, utilization=10.0, currency="USD")
    state.tick(NOW)
    assert state.health.status == "no_status_line"
    state.take(Reading(read_at=NOW, windows={}, extra_usage=money, is_partial=True), NOW)
    state.tick(NOW)
    assert (state.health.status, state.health.detail, state.health.last_success) == ("ok", None, NOW)


def test_a_clock_that_is_set_back_leaves_what_was_restored() -> None:
    """Who starts it on a machine whose clock is ahead, and is corrected, reads when the last success really was."""
    polled_at = NOW + timedelta(milliseconds=400)
    before = make_state()
    before.begin_poll(polled_at)
    reading = make_usage(polled_at, make_reading(polled_at, 20, NOW + timedelta(hours=3)))
    before.finish_poll(PollResult(account="default", source=OAUTH, reading=reading, requests=1), polled_at)
    after = make_state()
    after.restore(dict(documents(before, SOON)), SOON + timedelta(hours=3))
    after.clock_stepped(timedelta(hours=-3), SOON)
    assert health_document(after, SOON)["last_success"] == NOW.isoformat()
    assert after.usage.is_fresh(SOON)


def test_what_was_not_understood_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Two servers of the API that differ in what they add do not fill the debug log by turns."""
    caplog.set_level(logging.DEBUG, "claude_usage_mqtt")
    state = make_state()
    for minute in range(6):
        at = NOW + timedelta(minutes=minute)
        names = ("amber",) if minute % 2 else ("cedar", "birch")
        state.log.sections(Reading(read_at=at, windows={}, ignored=names))
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["cedar, birch", "amber"]


def test_an_unlikely_status_line_is_named_until_it_is_confirmed(caplog: pytest.LogCaptureFixture) -> None:
    """Without polls nothing confirms it within a minute: who misses the number finds out why, here and in the log."""
    caplog.set_level(logging.INFO, "claude_usage_mqtt")
    state = make_state(sources=(STATUSLINE,))
    resets_at = NOW + timedelta(hours=3)

    def detail(minute: int, utilization: float) -> Any:
        at = NOW + timedelta(minutes=minute)
        reading = make_reading(at, utilization, resets_at, source=STATUSLINE)
        state.take(Reading(read_at=at, windows={reading.key: reading}, is_partial=True), at)
        return health_document(state, at)["detail"]

    sentence = "Session 15 % is unlikely; it is not shown until the next response confirms it."
    assert [detail(0, 62), detail(1, 15), detail(2, 16)] == [None, sentence, None]
    assert caplog.messages == [f"Account default: {sentence}"]


def test_what_concerned_a_source_that_is_not_used_anymore_is_gone() -> None:
    """Who changes from polling to status lines does not see failed polls, or the end of a login that is not used."""
    polled = make_state()
    polled.health.login.known = Login(token_expires_at=SOON, login_expires_at=SOON)
    polled.begin_poll(NOW)
    polled.finish_poll(PollResult(account="default", source=OAUTH, error=ServerError("HTTP 500"), requests=1), NOW)
    pushed = make_state(sources=(STATUSLINE,))
    pushed.restore(dict(documents(polled, NOW)), NOW)
    shown = health_document(pushed, NOW)
    values = [shown[key] for key in ("consecutive_failures", "token_expires_at", "login_expires_at", "detail")]
    assert values == [0, None, None, None]


def test_another_logins_status_line_is_named_in_detail(caplog: pytest.LogCaptureFixture) -> None:
    """The fix for two logins on one machine is said where a person looks, and once in the log."""
    state = make_state(sources=(STATUSLINE,))
    for at, resets_at in ((NOW, NOW + timedelta(hours=3)), (SOON, NOW + timedelta(hours=1))):
        reading = make_reading(at, 42, resets_at, source=STATUSLINE)
        state.take(Reading(read_at=at, windows={reading.key: reading}, is_partial=True), at)
        state.tick(at)
    state.tick(SOON)
    detail = health_document(state, SOON)["detail"]
    assert detail is not None
    assert "name both logins in CLAUDE_ACCOUNTS here, and pass --account ID" in detail
    assert caplog.messages == [f"Account default: {detail}"]
    assert health_document(state, SOON + timedelta(hours=2))["detail"] is None


def test_the_log_says_what_else_is_wrong_with_the_reporters(caplog: pytest.LogCaptureFixture) -> None:
    """Why no machine can be asked is logged again once something else helps, not if one was only seen later."""
    state = make_state()
    asleep = "No machine can be asked: laptop (away, last seen Nov 20 10:0%s UTC); wake one up."
    expired = (
        "No machine can be asked: laptop (its token has expired, last seen Nov 20 11:00 UTC); start Claude Code there."
    )
    for sentence in (asleep % 1, asleep % 2, expired, asleep % 3, expired):
        state.report(NoReporter(sentence))
    assert caplog.messages == [f"Account default: {sentence}" for sentence in (asleep % 1, expired)]


def test_the_log_says_when_the_numbers_become_stale_and_when_they_are_back(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who looks later sees from when to when nothing was known: one line each, and one a poll to debug."""
    caplog.set_level(logging.DEBUG, "claude_usage_mqtt")
    state = make_state()

    def poll(at: datetime, error: Any = None) -> None:
        reading = None if error else make_usage(at, make_reading(at, 42, at + timedelta(hours=2)))
        state.begin_poll(at)
        state.finish_poll(PollResult(account="default", source=OAUTH, reading=reading, error=error, requests=1), at)
        state.tick(at)

    state.tick(NOW)
    poll(NOW)
    poll(SOON, ServerError("HTTP 500"))
    late = NOW + timedelta(minutes=61)
    for at in (late, late + timedelta(minutes=1)):
        state.tick(at)
    for minutes in (2, 3):
        poll(late + timedelta(minutes=minutes))
    read_at = NOW.astimezone().strftime("%H:%M")
    assert [(record.levelname, record.getMessage().removeprefix("Account default: ")) for record in caplog.records] == [
        ("INFO", "Session 42 %"),
        ("DEBUG", "the poll failed: HTTP 500"),
        ("WARNING", "HTTP 500"),
        ("WARNING", f"the numbers, read at {read_at}, are not shown any longer."),
        ("DEBUG", "Session 42 %"),
        ("INFO", "the usage is known again."),
        ("INFO", "the numbers are current again."),
        ("DEBUG", "Session 42 %"),
    ]


@pytest.mark.parametrize("error", [None, CredentialsNotFound("no file")], ids=["stopped before the answer", "no login"])
def test_what_was_not_known_yet_is_asked_for_soon_after_a_restart(error: Exception | None) -> None:
    """Started again within seconds, or after logging in, nobody waits five minutes for the first numbers."""
    state = make_state()
    state.begin_poll(NOW)
    if error is not None:
        state.finish_poll(PollResult(account="default", source=OAUTH, error=error, requests=0), NOW)
    again = make_state()
    later = NOW + timedelta(seconds=10)
    again.restore(dict(documents(state, NOW)), later)
    due = again.due(later)
    assert due is not None
    assert due <= NOW + timedelta(minutes=1)


def test_a_restart_does_not_shorten_a_wait() -> None:
    """A container that is restarted again and again does not ask an API that refuses it each time."""
    state = refused(Unauthorized("no"))
    again = make_state()
    again.restore(dict(documents(state, NOW)), SOON)
    before, after = state.due(SOON), again.due(SOON)
    assert before is not None
    assert after == before.replace(microsecond=0)


def test_commands_that_can_do_nothing_say_so_until_there_are_new_numbers() -> None:
    """With the status line alone there is nothing to poll: `paused` would be untrue, and the hint goes away."""
    state = make_state(sources=(STATUSLINE,))
    paused = {"status": "ok", "polling": False}
    state.restore({state.options.topics.health: encode(paused)}, NOW)
    for name, value in (("refresh", b""), ("polling", b"OFF"), ("interval", b"600")):
        obey(state, name, value, NOW)
    shown = health_document(state, NOW)
    assert shown["status"] == "ok"
    assert shown["polling"] is True
    assert "no effect here" in shown["detail"]
    reading = make_reading(SOON, 42, NOW + timedelta(hours=3), source=STATUSLINE)
    state.take(Reading(read_at=SOON, windows={reading.key: reading}, is_partial=True), SOON)
    assert health_document(state, SOON)["detail"] is None
