"""A host that was expelled while it was off comes back, as its owner meets it: told what happened, and a member again.

The tests are one story and run in order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

HOSTS = ("n1", "n2", "n3", "n4")
SLEEPER = {"runtime": "process", "command": ["sleep", "1000"]}
TOLD_S = 30.0


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with Lab.up(4, name=f"e{os.getpid()}") as lab, desk_of(lab, tmp_path_factory.mktemp("desk")) as made:
        made.install(hosts=made.write_hosts(*(f"root@{name}" for name in HOSTS)))
        made.wait_all_alive(HOSTS)
        deploy(made, "shop", web=SLEEPER | {"replicas": 4})
        yield made


def deploy(desk: Desk, name: str, **services: dict[str, Any]) -> None:
    (desk.lab.operator.home / f"{name}.json").write_text(json.dumps({"stack": name, "services": services}))
    desk.run("agent", "deploy", f"{name}.json")


def on_host(desk: Desk, *command: str) -> str:
    return desk.lab.host("n2").run(["agent", *command], check=False).stdout


def ids(status: dict[str, Any]) -> dict[str, str]:
    return {host["name"]: host["id"] for host in status["hosts"]}


def expel_while_off(desk: Desk, name: str) -> None:
    desk.lab.host(name).shut_down()
    desk.run("agent", "expel", name, "--yes", "--reason", "it was off for months")
    desk.wait_all_alive([other for other in HOSTS if other != name])
    desk.lab.host(name).start()


def test_it_says_that_it_was_expelled_by_whom_and_what_to_do(desk: Desk) -> None:
    expel_while_off(desk, "n2")
    told = "this host was expelled from the cluster, by "
    wait_for_sync(lambda: told in on_host(desk, "status"), TOLD_S, what="that it was expelled in its status")
    for command in ("status", "doctor"):
        said = on_host(desk, command)
        assert "error: " in said
        assert told in said
        assert ": it was off for months" in said
        assert "`bootstrap install hosts.txt --limit n2` makes it a member again" in said
        assert "majority" not in said
        assert "firewall" not in said
        assert "no answer" not in said
    journal = desk.lab.host("n2").run(["journalctl", "-u", "muster-agent", "-o", "cat", "--no-pager"]).stdout
    assert journal.count(told) == 1


def test_what_ran_there_ends_also_where_it_starts_again_and_reaches_nobody(desk: Desk) -> None:
    host = desk.lab.host("n2")

    def runs() -> bool:
        return host.run(["pgrep", "-f", "sleep 1000"], check=False).ok

    wait_for_sync(lambda: not runs(), TOLD_S, what="its replica ended")
    desk.lab.partition({"n2"}, {"n1", "n3", "n4"})
    host.run(["systemctl", "restart", "muster-agent"])
    assert "this host was expelled from the cluster" in on_host(desk, "status")
    assert not runs()
    desk.lab.heal()


def test_installing_it_again_makes_it_a_member_under_its_name_that_deploys_reach(desk: Desk) -> None:
    before = ids(desk.status())
    result = desk.install("--limit", "n2")["hosts"]["n2"]
    assert result["state"] == "installed"
    assert "it had been expelled" in result["notes"][0]
    after = ids(desk.wait_all_alive(HOSTS))
    assert {name: after[name] for name in before} == before
    deploy(desk, "pinned", web=SLEEPER | {"host": "n2"})
    assert "healthy" in desk.run("agent", "ps", "pinned").stdout


def test_so_does_a_home_that_has_not_heard_of_the_expulsion(desk: Desk) -> None:
    """Another operator's: there the host still is a member."""
    home = desk.lab.operator.home / ".config/muster/muster/cluster.json"
    members = home.read_text()
    before = ids(desk.status())["n2"]
    expel_while_off(desk, "n2")
    home.write_text(members)
    assert desk.install()["hosts"]["n2"]["state"] == "installed"
    assert ids(desk.wait_all_alive(HOSTS))["n2"] != before
