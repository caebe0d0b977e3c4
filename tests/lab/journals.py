"""What agents on booted hosts say when a test fails there; and that none of them ended by itself where all tests pass.

An agent that dies is started again within seconds, so that tests may not notice: their users would. A module whose
tests end agents on purpose names the hosts, `AGENTS_END = {"n2"}`. For conftest files to import.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from typing import Final

import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab

SHOWN_LINES: Final = 80  # of each host's journal
UNIT: Final = "muster-agent"
ENDS: Final = ("Main process exited", "Watchdog timeout", "Failed with result")
"""systemd's words for a service that didn't end because somebody stopped it."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A section for each agent's state and journal, which are gone with the lab."""
    report = yield
    lab = _lab_of(getattr(item, "funcargs", {}).get("desk"))
    if report.when == "call" and report.failed and lab is not None:
        report.sections += [(f"{host.name}: its agent", _told(host)) for host in _running(lab)]
    return report


@pytest.fixture(scope="module", autouse=True)
def _no_agent_ended_by_itself(request: pytest.FixtureRequest) -> Iterator[None]:
    if not hasattr(request.module, "desk"):
        yield
        return
    lab = _lab_of(request.getfixturevalue("desk"))
    yield
    expected: Collection[str] = getattr(request.module, "AGENTS_END", ())
    for host in [host for host in _running(lab) if host.name not in expected] if lab is not None else ():
        if end := ended_by_itself(_journal(host)):
            pytest.fail(f"the agent on {host.name} ended by itself:\n{end}", pytrace=False)


def ended_by_itself(journal: str) -> str:
    """What the unit's journal tells up to the first end that nobody asked for; empty where there is none."""
    lines = journal.splitlines()
    at = next((number for number, line in enumerate(lines, 1) if any(words in line for words in ENDS)), 0)
    return "\n".join(lines[max(at - SHOWN_LINES, 0) : at])


def _lab_of(desk: object) -> Lab | None:
    lab = getattr(desk, "lab", None)
    return lab if isinstance(lab, Lab) else None


def _running(lab: Lab) -> list[Host]:
    return [host for host in lab.hosts.values() if host.running]


def _told(host: Host) -> str:
    status = host.run(["systemctl", "status", "-n", "0", "--no-pager", UNIT], check=False).stdout
    return status + "\n".join(_journal(host).splitlines()[-SHOWN_LINES:])


def _journal(host: Host) -> str:
    """All of it."""
    return host.run(["journalctl", "-u", UNIT, "-o", "short-precise", "--no-pager"], check=False).stdout
