"""An agent that ended by itself is known by systemd's words in its journal; one that was stopped isn't taken for it."""

from __future__ import annotations

import pytest

from tests.lab.journals import ended_by_itself

STOPPED = """\
n1 systemd[1]: Stopping muster-agent.service - Muster agent...
n1 muster-agent[185]: INFO    link with n4 is gone: stopping
n1 muster-agent[185]: INFO    stopped
n1 systemd[1]: muster-agent.service: Deactivated successfully.
n1 systemd[1]: Stopped muster-agent.service - Muster agent.
n1 systemd[1]: Starting muster-agent.service - Muster agent...
"""


def test_a_stop_is_no_end_by_itself() -> None:
    assert not ended_by_itself(STOPPED)


@pytest.mark.parametrize(
    "said",
    [
        "muster-agent.service: Watchdog timeout (limit 20s)!",
        "muster-agent.service: Main process exited, code=killed, status=6/ABRT",
        "muster-agent.service: Main process exited, code=exited, status=1/FAILURE",
        "muster-agent.service: Failed with result 'oom-kill'.",
    ],
)
def test_what_ends_an_agent_that_nobody_stopped_shows(said: str) -> None:
    since = "n1 muster-agent[207]: INFO    linked with n4\n" * 200
    assert ended_by_itself(f"{STOPPED}n1 systemd[1]: {said}\n{since}") == f"{STOPPED}n1 systemd[1]: {said}"
