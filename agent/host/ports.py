"""Host ports on one host: which starts have to wait for another replica of ours to let go, and what is in the way.

Whether a port is free is asked of the kernel by the runtime, at start, by binding it; here is what can be known
before.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from agent.host.life import Life
from agent.model.ledger import AssignedPort
from agent.model.report import PortConflict
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.workload import Workload

Held = Mapping[tuple[int, str], frozenset[ReplicaKey]]
"""(host port, protocol) → the replicas whose live workload has it."""

LIVE_STATES = frozenset({"running", "restarting"})


def number_of(port: AssignedPort) -> tuple[int, str]:
    """What must be unique on a host."""
    return port.host_port, port.protocol


def held_ports(workloads: Iterable[Workload]) -> Held:
    """Which ports our live workloads have."""
    held: dict[tuple[int, str], frozenset[ReplicaKey]] = {}
    for workload in workloads:
        if workload.state in LIVE_STATES:
            for port in workload.ports:
                number = number_of(port)
                held[number] = held.get(number, frozenset()) | {workload.key}
    return held


def waits_for(
    spec: ReplicaSpec, held: Held, specs: Mapping[ReplicaKey, ReplicaSpec], staying: Container[ReplicaKey] = ()
) -> frozenset[ReplicaKey]:
    """The other replicas that have a port of `spec` now and will release it: they are to end, or to be replaced.

    One that keeps the port (by its spec, or because it is left as it is: `staying`) isn't waited for; the start then
    fails with PortTaken, and the coordinator learns of it.
    """
    waiting: set[ReplicaKey] = set()
    for port in spec.ports:
        for holder in held.get(number_of(port), frozenset()) - {spec.key}:
            if holder in staying:
                continue
            keeps = specs.get(holder)
            if keeps is None or number_of(port) not in {number_of(kept) for kept in keeps.ports}:
                waiting.add(holder)
    return frozenset(waiting)


def conflicts(lives: Mapping[ReplicaKey, Life], specs: Iterable[ReplicaSpec]) -> tuple[PortConflict, ...]:
    """Ports that couldn't be bound at the last try, of replicas that are still assigned to them."""
    return tuple(
        PortConflict(stack=spec.key.stack, service=spec.key.service, slot=spec.key.slot, host_port=port)
        for spec in specs
        if spec.key in lives and lives[spec.key].spec_hash == spec.hash
        for port in lives[spec.key].busy_ports
    )
