"""Majority and operator's key are both lost: with the recovery key one host goes on and takes a new operator's word."""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.local import LocalCluster
from tests.loopback.test_epochs import LONE_S, lose_majority
from tests.loopback.world import EXAMPLE, wait_healthy
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync


def test_the_recovery_key_begins_an_epoch_and_installs_an_operator(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(3)
    cluster.up()
    cluster.wait_ready()
    desk, recovery = Desk(cluster), str(cluster.directory / "recovery.key")
    (cluster.home / "operator.key").unlink()
    lose_majority(cluster)
    assert desk.run("deploy", str(EXAMPLE), code=None).returncode != 0

    def recovered() -> bool:
        argv = ("--via", "n2", "recover", "--new-epoch", "--lost", "n1,n3", "--recovery-key", recovery)
        return desk.run(*argv, code=None).returncode == 0

    wait_for_sync(recovered, LONE_S, what="the next epoch", interval_s=1.0)
    desk.run("--via", "n2", "operator", "replace", "--recovery-key", recovery)
    desk.run("--via", "n2", "deploy", str(EXAMPLE))
    assert wait_healthy(cluster, "web", 3, through="n2")
