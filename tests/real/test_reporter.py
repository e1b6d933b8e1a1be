"""The real Claude Code behind a reporter, and a service without any login, in a sandbox with a fake of the API."""

from pathlib import Path

import pytest

from real.claude_code_box import Box, run_box

TRIALS = ("claude_code", "expired", "oauth")


@pytest.fixture(scope="module")
def box(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Box:
    """Run all trials once."""
    return run_box(scripts, tmp_path_factory, "reporter_box.sh", 400)


@pytest.mark.parametrize("trial", TRIALS)
def test_the_numbers_come_home(box: Box, trial: str) -> None:
    """All windows and the money are published by a service that has no login, with the machine that read them."""
    state = box.messages(trial, "default/state")[-1]
    used = {key: window["utilization"] for key, window in state["windows"].items() if window["utilization"] is not None}
    assert used == {"five_hour": 42, "seven_day": 19, "seven_day_sonnet": 7, "seven_day_fable": 33}
    assert {(window["source"], window["machine"]) for window in state["windows"].values()} == {("reporter", "laptop")}
    assert state["extra_usage"]["used"] == 12.34


def test_an_expired_token_is_renewed_by_its_owner(box: Box) -> None:
    """The machine stays usable while Claude Code can renew its login, whichever source the reporter has."""
    for trial in ("expired", "oauth"):
        assert "renewed" in box.text(trial, "credentials")
    presence = box.messages("oauth", "reporter/laptop")[0]["accounts"]["default"]
    assert (presence["source"], presence["status"]) == ("oauth", "ok")


@pytest.mark.parametrize("trial", TRIALS)
def test_a_machine_without_power_is_noticed(box: Box, trial: str) -> None:
    """The last will says that the machine is gone, and the status names it; the numbers stay."""
    assert box.messages(trial, "reporter/laptop")[-1] == {"online": False}
    health = box.messages(trial, "default/health")[-1]
    assert "laptop (away, last seen" in health["detail"]
    assert health["fresh"] is True


@pytest.mark.parametrize("trial", TRIALS)
def test_nothing_secret_crosses_the_broker(box: Box, trial: str) -> None:
    """No token, no e-mail address and no id of an account is in a message or a log, and no Claude Code is left."""
    assert box.text(trial, "left") == ""
    for output in (box.text(trial, "messages"), box.text(trial, "service"), box.text(trial, "reporter")):
        assert "sk-ant" not in output
        assert "fake@example.org" not in output
        assert "00000000-0000-4000-8000" not in output
        assert "Traceback" not in output
