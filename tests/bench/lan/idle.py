"""What five idle agents cost, beside five idle members of etcd: memory, processor, traffic on the LAN."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.bench.figures import Figure
from tests.bench.lan import etcd
from tests.bench.lan.cluster import (
    AGENT,
    SETTLE_S,
    coordinator_name,
    installed_hosts,
    process_of,
    start_agents,
    stop_agents,
)
from tests.bench.measures import pause
from tests.bootstrap.desk import Desk
from tests.lab import Host

HOSTS = 5
WINDOW_S = 30.0
MEMORY_MB = 75.0
CPU_PERCENT = 0.6
COORDINATOR_CPU_PERCENT = 1.5
LAN_KB_S = 5.0
COORDINATOR_LAN_KB_S = 16.0


@dataclass
class Cost:
    """Values of those that follow, one for each host and window, and of the one that leads."""

    memory: list[float] = field(default_factory=list)
    unique: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    lan: list[float] = field(default_factory=list)
    leader_cpu: list[float] = field(default_factory=list)
    leader_lan: list[float] = field(default_factory=list)


def idle(runs: int) -> list[Figure]:
    """Memory, processor time and traffic of five idle agents, beside etcd on the same hosts."""
    windows = max(1, runs // 2)
    theirs = None
    with installed_hosts(HOSTS) as desk:
        if etcd.is_there():
            stop_agents(desk)
            with etcd.etcd(desk) as leader:
                theirs = watch(desk, etcd.processes(desk), leader, windows)
            start_agents(desk)
        agents = {name: process_of(host, *AGENT) for name, host in desk.lab.hosts.items()}
        ours = watch(desk, agents, coordinator_name(desk), windows)
    return [*figures("an agent", ours, judge=True), *(figures("etcd", theirs, judge=False) if theirs else [])]


def watch(desk: Desk, processes: Mapping[str, psutil.Process], leader: str, windows: int) -> Cost:
    """Let them be, and see what they took meanwhile."""
    cost, hosts = Cost(), desk.lab.hosts
    pause(SETTLE_S)
    for _ in range(windows):
        before = {name: (cpu_seconds(processes[name]), lan_bytes(hosts[name])) for name in hosts}
        began = time.monotonic()
        pause(WINDOW_S)
        elapsed = time.monotonic() - began
        for name, (cpu, lan) in before.items():
            used = 100 * (cpu_seconds(processes[name]) - cpu) / elapsed
            sent = (lan_bytes(hosts[name]) - lan) / elapsed / 1000
            (cost.leader_cpu if name == leader else cost.cpu).append(used)
            (cost.leader_lan if name == leader else cost.lan).append(sent)
    for process in processes.values():
        memory = process.memory_full_info()
        cost.memory.append(memory.rss / 1_000_000)
        cost.unique.append(memory.pss / 1_000_000)
    return cost


def cpu_seconds(process: psutil.Process) -> float:
    """Of all its threads, in user and in kernel mode."""
    times = process.cpu_times()
    return float(times.user + times.system)


def lan_bytes(host: Host) -> int:
    """Sent and received on the LAN, Ethernet's heads included (proc(5), /proc/PID/net/dev)."""
    for line in Path(f"/proc/{host.init()}/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "eth0":
            fields = rest.split()
            return int(fields[0]) + int(fields[8])
    raise LookupError(f"{host.name} has no eth0")


def figures(who: str, cost: Cost, *, judge: bool) -> list[Figure]:
    """The table's rows; only ours are judged."""

    def row(what: str, unit: str, values: list[float], target: float, digits: int = 2, note: str = "") -> Figure:
        return Figure(
            name=f"{who}, {what}", unit=unit, values=values, target=target if judge else None, digits=digits, note=note
        )

    return [
        row("memory, RSS", "MB", cost.memory, MEMORY_MB, 1),
        row("memory, PSS", "MB", cost.unique, MEMORY_MB, 1, "shared pages divided among the five"),
        row("processor, of one core", "%", cost.cpu, CPU_PERCENT),
        row("processor, who leads", "%", cost.leader_cpu, COORDINATOR_CPU_PERCENT),
        row("LAN", "kB/s", cost.lan, LAN_KB_S, 1, "sent and received, heads and discovery included"),
        row("LAN, who leads", "kB/s", cost.leader_lan, COORDINATOR_LAN_KB_S, 1),
    ]
