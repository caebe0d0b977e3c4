"""What replicas use, asked of every host that runs some."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.agents import Desk

STACK = "busy"
BUSY = "while :; do i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); done; sleep 0.2; done"
"""Enough to be seen, a fifth of a core: others test beside it."""


def test_top_shows_what_each_replica_uses_on_every_host(desk: Desk, tmp_path: Path) -> None:
    services = {
        "spin": {"runtime": "process", "host": "n1", "command": ["/bin/sh", "-c", BUSY]},
        "rest": {"runtime": "process", "host": "n2", "command": ["sleep", "300"]},
    }
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"stack": STACK, "services": services}))
    desk.run("deploy", str(plan))
    try:
        used = desk.json("top", STACK)
        assert used["silent"] == []
        rest, spin = used["replicas"]
        assert (rest["service"], rest["host"]) == ("rest", "n2")
        assert (spin["service"], spin["host"]) == ("spin", "n1")
        assert spin["cpu_percent"] > 5 > rest["cpu_percent"]
        assert all(0 < each["memory_bytes"] < 100_000_000 < each["memory_limit_bytes"] for each in (rest, spin))
        assert "busy/spin.1" in desk.run("top").stdout
        assert "there is no such stack" in desk.run("top", "none", code=None).stderr
    finally:
        desk.run("remove", STACK, "--yes")
