"""`agent logs -f` while replicas come, end and are replaced."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.loopback.world import followed, pids_below, wait_healthy
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

STACK = "talk"
WITHIN_S = 20.0  # a restart with its back-off on a loaded machine


def shown_of(lines: list[str], slot: int) -> int:
    return sum(f"web.{slot}@" in line for line in lines)


def test_what_comes_and_what_comes_back_joins_a_running_follow(desk: Desk, tmp_path: Path) -> None:
    # Every run says one line that no other run says: what is shown twice or not at all shows.
    web = {
        "runtime": "process",
        "replicas": 1,
        "command": ["/bin/sh", "-c", "cat /proc/sys/kernel/random/uuid; exec sleep 300"],
    }
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"stack": STACK, "services": {"web": web}}))
    others = pids_below(desk.cluster.directory)
    desk.run("deploy", str(plan))
    try:
        with followed(desk, STACK, tmp_path / "shown") as shown:
            wait_for_sync(lambda: shown_of(shown(), 1) == 1, WITHIN_S, what="the first replica's line")
            desk.run("scale", STACK, "web=3")
            wait_for_sync(lambda: [shown_of(shown(), slot) for slot in (2, 3)] == [1, 1], WITHIN_S, what="the others")

            victim = wait_healthy(desk.cluster, STACK, 3)[2]
            os.killpg(int(victim.container_id.partition(":")[0]), signal.SIGKILL)
            wait_for_sync(lambda: shown_of(shown(), 2) == 2, WITHIN_S, what="its next run's line")

            # Away and back.
            desk.run("scale", STACK, "web=2")
            wait_for_sync(lambda: len(pids_below(desk.cluster.directory) - others) == 2, what="the third one is gone")
            desk.run("scale", STACK, "web=3")
            wait_for_sync(lambda: shown_of(shown(), 3) == 2, WITHIN_S, what="the third one's next line")
            wait_healthy(desk.cluster, STACK, 3)
            assert len(set(shown())) == len(shown()) == 5
    finally:
        desk.run("remove", STACK, "--yes")
