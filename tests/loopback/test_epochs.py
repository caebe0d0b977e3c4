"""The majority lost for good: one survivor goes on in another epoch, and who comes back joins it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from agent.home import open_home
from agent.model.instruction import Services
from bootstrap.local import LocalCluster
from tests.loopback.world import ASKS_EVERY_S, EXAMPLE, coordinator_of, request, wait_healthy, wait_status
from tests.support.agents import AgentHttps, Desk
from tests.support.waiting import wait_for_sync

EXIT_ERROR, EXIT_USAGE, EXIT_DEGRADED, EXIT_NOT_ALLOWED = 1, 2, 3, 5
LONE_S = 20.0  # agent.node.epochs.LOST_AFTER_S, and some


def look(desk: Desk) -> dict[str, object]:
    with AgentHttps(desk.cluster, "n2") as https:
        found: dict[str, object] = https.ask("GET", "/api/v1/recovery", token=desk.access_token()).json
    return found


def lose_majority(cluster: LocalCluster) -> None:
    for name in ("n1", "n3"):
        cluster.kill(name)
    wait_status(cluster, "n2", lambda status: status.coordinator is None, "n2 is alone")


def test_a_survivor_goes_on_in_another_epoch_and_the_others_join_it(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(3)
    cluster.up()
    cluster.wait_ready()
    desk = Desk(cluster)
    refused = desk.run("recover", "--new-epoch", "--lost", "n1,n3", code=None)
    assert refused.returncode != 0
    assert "the majority is there" in refused.stderr
    desk.run("deploy", str(EXAMPLE))
    placed = wait_healthy(cluster, "web", 3)
    old_token, old_body = desk.sign("restart", "stack:web", 2, Services())

    other = cluster.directory / "other"
    shutil.copytree(cluster.home, other)  # the same operator's home on another machine

    lose_majority(cluster)
    wait_for_sync(lambda: not look(desk)["unfit"], LONE_S, what="nobody coordinates for long", interval_s=ASKS_EVERY_S)
    wrong = desk.run("recover", "--new-epoch", "--lost", "n1", code=EXIT_USAGE)
    assert "n1, n3" in wrong.stderr
    nobody = desk.run("recover", "--new-epoch", code=EXIT_USAGE)
    assert "`agent recover --new-epoch --lost n1,n3`" in nobody.stderr
    done = desk.run("recover", "--new-epoch", "--lost", "n1,n3")
    assert "epoch 2: n2 goes on alone" in done.stdout
    assert desk.home.cluster.epoch == 2
    assert coordinator_of(cluster, "n2") == "n2"
    followed = desk.run("--home", str(other), "status", code=None)
    assert "the cluster is in epoch 2 since its majority was lost" in followed.stderr
    assert open_home(other).cluster.epoch == 2
    shown = desk.run("--via", "n2", "audit", "log").stdout
    assert "recover" in shown, "who began the epoch stays in the ledger's past"
    mine = next(replica for replica in placed.values() if replica.host == "n2")
    assert request(cluster, mine).startswith("hello from n2"), "what ran goes on running"
    desk.run("--via", "n2", "scale", "web", "web=2", "--detach")

    with AgentHttps(cluster, "n2") as https:
        answer = https.ask("POST", "/api/v1/instructions", token=old_token, body=old_body)
    assert answer.status == 401, "a token of the old epoch has ended"

    cluster.start("n1")
    cluster.start("n3")
    joined = wait_status(
        cluster, "n1", lambda s: s.cluster.epoch == 2 and not s.stale and s.coordinator, "n1 joins the new epoch"
    )
    assert joined.coordinator is not None
    assert joined.coordinator.name == "n2"
    wait_status(cluster, "n3", lambda s: s.cluster.epoch == 2 and not s.stale, "n3 joins the new epoch")
    wait_healthy(cluster, "web", 2, through="n3")
    assert "epoch 2" in cluster.output_file("n1").read_text()
    assert "whole" in desk.run("audit", "verify").stdout, "one past, over the epoch's beginning too"
