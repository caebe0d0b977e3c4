"""Frames get lost between hosts that are all well: how many terms begin without a reason."""

from __future__ import annotations

from tests.bench.elections import BUSY_S
from tests.bench.figures import Figure
from tests.bench.lan.cluster import SETTLE_S, installed_hosts
from tests.bench.measures import pause

LOST_PERCENT = 20.0  # of the frames from one host to another
HOSTS = 3
# A frame passes its sender's loss and its receiver's, each of them of this share.
EACH_PERCENT = 100 * (1 - (1 - LOST_PERCENT / 100) ** 0.5)
TARGET = 1


def false_elections(_: int) -> list[Figure]:
    """Every fifth frame between any two hosts is lost → terms that began although every agent was well."""
    with installed_hosts(HOSTS) as desk:
        pause(SETTLE_S)
        before = desk.status()["term"]
        for name in desk.lab.hosts:
            desk.lab.loss(name, EACH_PERCENT)
        pause(BUSY_S)
        desk.lab.heal()
        desk.wait_all_alive(list(desk.lab.hosts))
        after = desk.status()["term"]
    name = f"false elections, {LOST_PERCENT:.0f} % of the frames lost"
    note = f"{HOSTS} hosts for {BUSY_S:.0f} s; MUSTER_BENCH_BUSY_S sets it"
    return [Figure(name=name, unit="", values=[after - before], target=TARGET, digits=0, note=note)]
