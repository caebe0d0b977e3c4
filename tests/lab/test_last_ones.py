"""Who joins when all founders are gone, and who goes on when the majority is: booted hosts, with systemd.

The tests are one story and run in order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

HEALS_S = 90.0  # 30 s until a voter counts as dead, 10 s until an agent counts as healthy, on a busy machine
LONE_S = 40.0  # 10 s without a coordinator until an epoch may begin


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with (
        Lab.up(4, name=f"e{os.getpid()}", without_docker={"n1", "n2", "n3", "n4"}) as lab,
        desk_of(lab, tmp_path_factory.mktemp("desk")) as made,
    ):
        made.write_hosts("root@n1", "root@n2", "root@n3", "root@n4")
        yield made


def roles(status: dict[str, Any]) -> dict[str, str]:
    return {host["name"]: host["role"] for host in status["hosts"]}


def wait_status(desk: Desk, condition: Any, what: str, timeout_s: float) -> dict[str, Any]:
    def asked() -> dict[str, Any] | None:
        result = desk.run("agent", "status", "--json", check=False)
        if not result.stdout:
            return None
        found = desk.status()
        return found if condition(found) else None

    found = wait_for_sync(asked, timeout_s, what=what)
    assert found is not None
    return found


def starts(desk: Desk, host: str) -> str:
    """How often systemd started the agent anew."""
    argv = ["systemctl", "show", "muster-agent", "-p", "NRestarts", "--value"]
    return desk.lab.hosts[host].run(argv).stdout.strip()


def test_a_host_joins_when_all_founders_are_gone(desk: Desk) -> None:
    desk.install("--no-docker", "--limit", "n1")
    desk.install("--no-docker", "--limit", "n1,n2,n3")
    wait_status(desk, lambda s: s["quorum"]["voters"] == 3, "three voters", HEALS_S)
    desk.lab.hosts["n1"].power_cut()
    wait_status(desk, lambda s: not s["stale"] and roles(s).get("n1") != "coordinator", "another coordinator", 30.0)
    desk.run("agent", "expel", "n1", "--yes")
    desk.install("--no-docker", "--limit", "n4")
    found = wait_status(desk, lambda s: "n4" in roles(s) and not s["stale"], "n4 as a member", 30.0)
    assert {host["name"]: host["state"] for host in found["hosts"]}["n4"] == "alive"


def test_the_last_of_them_goes_on_in_another_epoch(desk: Desk) -> None:
    desk.run("agent", "members")
    for name in ("n2", "n3"):
        desk.lab.hosts[name].power_cut()

    def lost() -> str | None:
        refused = desk.run("agent", "recover", "--new-epoch", "--via", "n4", check=False)
        named = re.search(r"--lost ([^`]+)`", refused.stderr)
        return named[1].strip() if named is not None else None

    given_up = wait_for_sync(lost, LONE_S, what="nobody coordinates for long")
    assert {"n2", "n3"} <= set(str(given_up).split(","))
    before = starts(desk, "n4")
    done = desk.run("agent", "recover", "--new-epoch", "--via", "n4", "--lost", str(given_up))
    assert "epoch 2: n4 goes on alone" in done.stdout
    found = wait_status(desk, lambda s: not s["stale"], "n4 coordinates", 30.0)
    assert (found["cluster"]["epoch"], found["coordinator"]["name"]) == (2, "n4")
    assert starts(desk, "n4") == before, "it starts anew by itself, without systemd"
    assert desk.lab.hosts["n4"].run(["systemctl", "is-active", "muster-agent"]).stdout.strip() == "active"


def test_who_comes_back_joins_the_epoch_and_a_new_host_does_too(desk: Desk) -> None:
    desk.lab.hosts["n2"].start()
    desk.lab.hosts["n1"].start()
    wait_status(
        desk,
        lambda s: {host["name"]: host["state"] for host in s["hosts"]}.get("n2") == "alive" and not s["stale"],
        "n2 in epoch 2",
        HEALS_S,
    )
    said = desk.lab.hosts["n2"].run(["journalctl", "-u", "muster-agent", "-o", "cat"]).stdout
    assert "epoch 2 began on n4" in said
    assert desk.lab.hosts["n2"].run(["systemctl", "is-active", "muster-agent"]).stdout.strip() == "active"
    desk.run("bootstrap", "uninstall", "hosts.txt", "--limit", "n1", "--yes", check=False)
    desk.install("--no-docker", "--limit", "n1")
    found = wait_status(desk, lambda s: "n1" in roles(s) and not s["stale"], "n1 as a new member", HEALS_S)
    assert found["cluster"]["epoch"] == 2
