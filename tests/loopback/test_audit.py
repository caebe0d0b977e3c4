"""`agent audit` end to end: every change is in the log of each voter, and what somebody altered on a disk is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bootstrap.local import LocalCluster
from tests.loopback.world import EXAMPLE, wait_healthy
from tests.support.agents import Desk


def test_the_past_is_told_verified_and_an_altered_one_is_found(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(3)
    cluster.up()
    cluster.wait_ready()
    desk = Desk(cluster)
    desk.run("deploy", str(EXAMPLE))
    desk.run("scale", "web", "web=2")
    wait_healthy(cluster, "web", 2)
    for name in cluster.names:
        told = desk.run("--via", name, "audit", "log", "--target", "stack:web").stdout.splitlines()
        assert [line.split("  ")[1].split()[1:3] for line in told] == [["deploy", "stack:web"], ["scale", "stack:web"]]
    assert "3 of 3 voters have the same past" in desk.run("audit", "verify").stdout

    (segment,) = (Path(cluster.directory) / "n2" / "data" / "audit").glob("*.audit")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    said = desk.run("audit", "verify", code=3).stdout.splitlines()
    assert sum(line.endswith(": whole") for line in said) == 2
    assert [line for line in said if line.startswith("n2: ") and not line.endswith(": whole")]
