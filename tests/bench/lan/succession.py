"""The coordinator is lost: how long until an operator's next write is accepted, where that is told beside etcd."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.lan import etcd
from tests.bench.lan.cluster import (
    AGENT,
    READY_TIMEOUT_S,
    coordinator_name,
    installed_hosts,
    process_of,
    stop_agents,
)
from tests.bench.measures import pause
from tests.bootstrap.desk import Desk
from tests.lab import Host
from tests.support.waiting import wait_for_sync

SIZES = (3, 5)
RUNS = 20  # a second more or less is luck in a single one: election timeouts are drawn
PEER_RUNS = 10
MEDIAN_TARGET_S, WORST_TARGET_S = 0.8, 1.5
KILLED_SIZE, KILLED_TARGET_S = 3, 0.4
SETTLE_S = 2.0  # behind a boot
ROOT = Path(__file__).parents[3]


def succession(runs: int) -> list[Figure]:
    """The coordinator's host loses its power → the next instruction is accepted through another; 3 and 5 hosts."""
    figures = []
    for size in SIZES:
        with installed_hosts(size) as desk:
            ours = [
                once(desk, "agent", coordinator_name(desk), lambda: desk.wait_all_alive(list(desk.lab.hosts)))
                for _ in range(max(runs, RUNS))
            ]
            stop_agents(desk)
            theirs = beside_etcd(desk, max(runs, PEER_RUNS)) if etcd.is_there() else []
        name = f"coordinator's host cut, next instruction accepted, {size} hosts"
        figures += [
            Figure(name=name, unit="s", values=ours, target=MEDIAN_TARGET_S),
            Figure(name=f"the same, the worst of {len(ours)}", unit="s", values=[max(ours)], target=WORST_TARGET_S),
        ]
        if theirs:
            note = f"a put is tried again every 0.25 s; worst {max(theirs):.2f} s"
            figures.append(
                Figure(name=f"etcd's leader cut, next put, {size} hosts", unit="s", values=theirs, note=note)
            )
    return figures


def killed(runs: int) -> list[Figure]:
    """The coordinator's process is killed, its host lives → the next instruction is accepted through another."""
    with installed_hosts(KILLED_SIZE) as desk:
        values = [_kill_once(desk) for _ in range(max(runs, RUNS))]
    name = f"coordinator's process killed, next instruction accepted, {KILLED_SIZE} hosts"
    note = f"worst {max(values):.2f} s"
    return [Figure(name=name, unit="s", values=values, target=KILLED_TARGET_S, note=note)]


def _kill_once(desk: Desk) -> float:
    """systemd starts it again."""
    lost = coordinator_name(desk)
    process = process_of(desk.lab.hosts[lost], *AGENT)
    return once(
        desk,
        "agent",
        lost,
        lambda: desk.wait_all_alive(list(desk.lab.hosts)),
        lose=lambda _: process.kill(),
        restore=lambda _: None,
    )


def beside_etcd(desk: Desk, runs: int) -> list[float]:
    """Likewise."""

    def whole() -> None:
        for name in desk.lab.hosts:
            etcd.start_member(desk, name)
        wait_for_sync(lambda: etcd.leader(desk), READY_TIMEOUT_S, what="an etcd leader", interval_s=0.2)

    with etcd.etcd(desk) as first:
        lost, taken = first, []
        for _ in range(runs):
            taken.append(once(desk, "etcd", lost, whole))
            found = etcd.leader(desk)
            assert found is not None
            lost = found
    return taken


def cut_power(host: Host) -> None:
    """The first thing that a power cut does; the rest takes a while and is heard by nobody."""
    host.cable_out()


def give_power(host: Host) -> None:
    """The rest of the cut, and a boot."""
    host.power_cut()
    host.cable_in()
    host.start()


def once(
    desk: Desk,
    kind: str,
    lost: str,
    wait_whole: Callable[[], object],
    *,
    lose: Callable[[Host], None] = cut_power,
    restore: Callable[[Host], None] = give_power,
) -> float:
    """Seconds from the loss to the answer; the host is back afterwards."""
    host = desk.lab.hosts[lost]
    through = next(name for name in desk.lab.hosts if name != lost)
    where = through if kind == "agent" else f"http://{desk.lab.hosts[through].address}:2379"
    with writer(desk, kind, where) as write:
        write()
        began = time.perf_counter()
        lose(host)
        write()
        taken = time.perf_counter() - began
    restore(host)
    wait_whole()
    pause(SETTLE_S)
    return taken


@contextmanager
def writer(desk: Desk, kind: str, where: str) -> Iterator[Callable[[], None]]:
    """A process at the desk that writes when it is called, and is back when that was accepted."""
    argv = ["python", "-m", "tests.bench.lan.writer", kind, where]
    with desk.lab.operator.popen(argv, env={"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def write() -> None:
            asked.write(b"\n")
            asked.flush()
            assert answered.readline() == b"done\n", _words(process)

        try:
            yield write
        finally:
            asked.close()
            process.wait()


def _words(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    return process.communicate()[1].decode(errors="replace")[-2000:]
