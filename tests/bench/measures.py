"""What is measured, each on a cluster of real agents on loopback (or on the command alone)."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from agent.errors import MusterError
from agent.formats.plan import decode_plan
from agent.formats.resolve import resolve
from agent.model.stack import Stack
from agent.model.status import Health
from bootstrap.local import AGENT, LocalCluster, clean_environment
from bootstrap.socket_api import get
from tests.bench.figures import Figure
from tests.support.agents import AgentHttps, Desk
from tests.support.waiting import wait_for_sync

EXAMPLE = Path(__file__).parents[2] / "examples" / "web" / "plan.json"
IDLE_S = 30.0
SETTLE_S = 5.0  # after the start, until links, first beacons and mDNS probing are over
READY_TIMEOUT_S = 60.0
INSTRUCTIONS = 200


@contextmanager
def fresh_cluster(count: int = 3) -> Iterator[LocalCluster]:
    """Agents that were never started, with the timing that real hosts have."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as directory:
        cluster = LocalCluster.create(
            Path(directory), count, name="bench", api_port=0, timing="lan", runtimes=("process",)
        )
        try:
            yield cluster
        finally:
            cluster.down()


@contextmanager
def ready_cluster() -> Iterator[LocalCluster]:
    """Three agents that see each other, with the stack `bench` deployed, which runs nothing."""
    with fresh_cluster() as cluster:
        cluster.up()
        cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
        with AgentHttps(cluster, "n1") as agent:
            submit(agent, *Desk(cluster).sign("deploy", "stack:bench", 1, empty_stack()))
        yield cluster


def empty_stack() -> Stack:
    """The example without replicas."""
    plan = (
        EXAMPLE.read_bytes().replace(b'"stack": "web"', b'"stack": "bench"').replace(b'"replicas": 3', b'"replicas": 0')
    )
    return resolve(decode_plan(plan), stack_name="bench", pin=lambda _: None)


def submit(agent: AgentHttps, token: str, body: bytes) -> int:
    """The revision that the instruction was given. An answer other than 200 is a failure of the benchmark."""
    reply = agent.ask("POST", "/api/v1/instructions", token=token, body=body)
    assert reply.status == 200, reply.body
    return int(reply.json["revision"])


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def pause(seconds: float) -> None:
    """Let the agents be, for as long as it takes by the clock: here time is what is measured, not waited for."""
    end = time.monotonic() + seconds
    wait_for_sync(lambda: time.monotonic() >= end, seconds + 5, interval_s=seconds / 4)


def coordinator_of(cluster: LocalCluster, through: str) -> str | None:
    """Its name, if that agent knows it."""
    try:
        status = cluster.status(through)
    except MusterError:
        return None
    return status.coordinator.name if status.coordinator is not None and not status.stale else None


def formation(runs: int) -> list[Figure]:
    """Three agents that have never run → one coordinator, and all see all."""
    values = []
    for _ in range(runs):
        with fresh_cluster() as cluster:
            began = time.perf_counter()
            cluster.up()
            cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
            values.append(time.perf_counter() - began)
    note = "from the first exec to the agents' own answers; all three share this machine's cores"
    return [Figure(name="three agents started, all see all", unit="s", values=values, target=1.5, note=note)]


def succession(runs: int) -> list[Figure]:
    """The coordinator is gone → the next instruction is accepted, through an agent that lives."""
    killed, halted = [], []
    with ready_cluster() as cluster:
        for run in range(2 * max(runs, 10)):
            lost = coordinator_of(cluster, "n1") or coordinator_of(cluster, "n2")
            assert lost is not None
            through = next(name for name in cluster.names if name != lost)
            token, body = Desk(cluster).sign("deploy", "stack:bench", run + 2, empty_stack())
            with AgentHttps(cluster, through) as agent:
                agent.ask("GET", "/health")  # the connection is there, as the operator's would be
                if run % 2:
                    cluster.kill(lost)
                    killed.append(timed(partial(submit, agent, token, body)))
                    cluster.start(lost)
                else:
                    with halt(cluster, lost):
                        halted.append(timed(partial(submit, agent, token, body)))
            cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
            pause(2.0)  # else the next run would measure an agent that is still catching up
    next_one = "next instruction accepted"
    note = "its host says that the connections are closed"
    silent = "SIGSTOP: nothing says so, as when a host loses its power"
    return [
        Figure(name=f"coordinator killed, {next_one}", unit="s", values=killed, target=1.0, digits=3, note=note),
        Figure(name=f"coordinator silent, {next_one}", unit="s", values=halted, target=1.5, digits=3, note=silent),
    ]


@contextmanager
def halt(cluster: LocalCluster, name: str) -> Iterator[None]:
    """The agent stands still."""
    pid = cluster.pid(name)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def instruction(_: int) -> list[Figure]:
    """An idle cluster takes an instruction: signed before, sent on a kept connection, answered after its fsyncs."""
    figures = []
    with ready_cluster() as cluster:
        desk, revision = Desk(cluster), 1
        pause(SETTLE_S)
        coordinator = coordinator_of(cluster, "n1")
        assert coordinator is not None
        other = next(name for name in cluster.names if name != coordinator)
        for label, through in (("the coordinator", coordinator), ("another agent", other)):
            values = []
            with AgentHttps(cluster, through) as agent:
                agent.ask("GET", "/health")
                for _run in range(INSTRUCTIONS):
                    revision += 1
                    token, body = desk.sign("deploy", "stack:bench", revision, empty_stack())
                    values.append(1000 * timed(partial(submit, agent, token, body)))
                    pause(0.02)
            p99 = statistics.quantiles(values, n=100)[98]
            name = f"instruction accepted through {label}, p50"
            figures.append(Figure(name=name, unit="ms", values=values, target=15, note=f"p99 {p99:.1f} ms"))
    return figures


def command(runs: int) -> list[Figure]:
    """A whole command that changes something: interpreter, search for an agent, signature, answer."""
    with ready_cluster() as cluster:
        pause(SETTLE_S)
        desk = Desk(cluster)
        values = [timed(lambda: desk.run("scale", "bench", "web=0")) for _ in range(max(runs, 10))]
    return [Figure(name="`agent scale`, the whole command", unit="s", values=values, digits=3)]


def start(runs: int) -> list[Figure]:
    """An agent of a running cluster is started again → it serves its API."""
    values = []
    with ready_cluster() as cluster:
        for _ in range(max(runs, 10)):
            cluster.stop("n3")
            values.append(timed(lambda: (cluster.start("n3"), wait_for_sync(lambda: serves(cluster, "n3"), 30))))
            cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
            pause(1.0)
    return [Figure(name="agent started, serves", unit="s", values=values, target=1.0)]


def serves(cluster: LocalCluster, name: str) -> bool:
    """Whether the agent answers."""
    try:
        get(cluster.socket_path(name), "/health", Health)
    except MusterError as error:
        return "answered 503" in error.what  # it serves, and says that it knows no coordinator yet
    return True


def idle(_: int) -> list[Figure]:
    """What three idle agents cost: memory after 30 s, processor time over those 30 s."""
    with ready_cluster() as cluster:
        pause(SETTLE_S)
        agents = [psutil.Process(cluster.pid(name)) for name in cluster.names]
        before = [sum(agent.cpu_times()[:2]) for agent in agents]
        began = time.monotonic()
        pause(IDLE_S)
        elapsed = time.monotonic() - began
        cpu = [100 * (sum(agent.cpu_times()[:2]) - was) / elapsed for agent, was in zip(agents, before, strict=True)]
        memory: list[Any] = [agent.memory_full_info() for agent in agents]
    mb = 1_000_000
    note = "the runs are the three agents"
    return [
        Figure(name="resident memory, RSS", unit="MB", values=[m.rss / mb for m in memory], target=75, digits=1),
        Figure(name="resident memory, PSS", unit="MB", values=[m.pss / mb for m in memory], target=75, digits=1),
        Figure(name="idle processor time, of one core", unit="%", values=cpu, note=note),
    ]


def help_time(runs: int) -> list[Figure]:
    """`agent --help`: what every command costs before it does anything."""

    def run() -> None:
        subprocess.run([*AGENT, "--help"], stdout=subprocess.DEVNULL, check=True, env=clean_environment())

    run()  # writes byte code where there is none yet
    values = [timed(run) for _ in range(max(runs, 20))]
    bare = [timed(lambda: subprocess.run([AGENT[0], "-c", "pass"], check=True)) for _ in range(10)]
    note = f"of it {statistics.median(bare):.3f} s the interpreter itself"
    return [Figure(name="`agent --help`", unit="s", values=values, target=0.15, digits=3, note=note)]


MEASURES: dict[str, Callable[[int], list[Figure]]] = {
    "formation": formation,
    "succession": succession,
    "instruction": instruction,
    "command": command,
    "start": start,
    "idle": idle,
    "help": help_time,
}
