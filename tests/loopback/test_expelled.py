"""A running host is expelled: it is cut off at once, shown why, and ends what it runs."""

from __future__ import annotations

import os
from pathlib import Path

from agent.model.status import Status
from tests.loopback.world import cluster_of, wait_healthy, wait_status
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

PLAN = '{"stack": "shop", "services": {"web": {"runtime": "process", "command": ["sleep", "1000"], "host": "n4"}}}'


def test_it_says_by_whom_and_runs_nothing_also_after_a_restart(tmp_path: Path) -> None:
    with cluster_of(tmp_path / "lab", 4, runtimes=("process",)) as cluster:
        desk, plan = Desk(cluster), tmp_path / "plan.json"
        plan.write_text(PLAN)
        desk.run("deploy", str(plan))
        wait_healthy(cluster, "shop", 1)
        records = cluster.directory.glob("n4/data/processes/*.json")
        assert len(list(records)) == 1
        desk.run("expel", "n4", "--yes", "--reason", "sold")

        def knows(status: Status) -> bool:
            return [problem.what.endswith(": sold") for problem in status.problems] == [True]

        wait_status(cluster, "n4", knows, "that it was expelled, and nothing else")
        wait_for_sync(lambda: not os.listdir(cluster.directory / "n4/data/processes"), what="its replica ended")
        cluster.kill("n4")
        cluster.up()
        wait_status(cluster, "n4", knows, "that it was, after a restart")
        assert not os.listdir(cluster.directory / "n4/data/processes")
