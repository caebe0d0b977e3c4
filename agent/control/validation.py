"""Before a rollout counts as healthy: every replica's published TCP ports answer, from the other hosts too. Pure.

Who asks whom: while there are few, every host asks every port (docs/seed.md "Phase 4: validation"). All pairs of
1,000 hosts would be 10^6 requests that say the same over and over: beyond MAX_PROBES each port is asked by
MIN_PROBERS hosts or more, spread so that all hosts ask about equally many. Always among them: the replica's own host,
which tells a closed firewall from a program that doesn't listen, and for a worker main's host, which registers it.
Ports that a plan says are closed to other hosts on purpose are asked by their own host alone, or by nobody.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from msgspec import Struct

from agent.control.facts import ClusterFacts
from agent.control.progress import Progress, Reports, deadline_passed
from agent.model.cluster import Member
from agent.model.errand import MAX_SLOTS, ErrandFinding, Reach, Unreached, errand_id
from agent.model.ledger import Assignment, Slot
from agent.model.spec import ReplicaKey
from agent.model.stack import Service
from agent.model.types import AgentId, Millis, Port
from agent.state import StackState, key_of, validation_of

MAX_PROBES = 2_000  # pairs of host and replica in one validation; 45 hosts with a replica each are asked by all
MIN_PROBERS = 3  # of a replica in larger clusters: one broken host among them doesn't hide a closed port
VALIDATION_DEADLINE_MS = 120_000  # hosts try for 20 s; a busy one is done well within it
MAX_PAIRS_TOLD = 5  # in the reason; a closed port is mostly closed for all


class Visit(Struct, frozen=True, kw_only=True):
    """A replica whose ports are tried; `also`: a host that must be among those that try, e.g. main's.

    `closed`: those of its host ports that only its own host tries; if that is all of them, `inward` is true.
    """

    replica: Assignment
    also: AgentId | None = None
    closed: frozenset[Port] = frozenset()
    inward: bool = False


def visit_of(service: Service, replica: Assignment, main: AgentId | None) -> Visit | None:
    """The ports to try of a replica of the service; None if there are none."""
    asked = {
        port.host_port: validation for port in replica.ports if (validation := validation_of(service, port)) != "none"
    }
    if not asked:
        return None
    closed = frozenset(port for port, validation in asked.items() if validation == "host")
    inward = len(closed) == len(asked)
    also = main if service.role == "worker" and not inward else None
    return Visit(replica=replica, also=also, closed=closed, inward=inward)


def reaching(stack: StackState, visits: Sequence[Visit], hosts: Sequence[AgentId]) -> dict[AgentId, tuple[Reach, ...]]:
    """What each of `hosts` (those that can be asked, in a fixed order) has to try to reach."""
    inward = {number for number, visit in enumerate(visits) if visit.inward}
    asks = who_asks([visit.replica.host for visit in visits], hosts, inward)
    for number, visit in enumerate(visits):
        if visit.also is not None and visit.also in asks:
            asks[visit.also].add(number)
    return {
        host: tuple(
            Reach(stack=stack.name, revision=stack.revision, index=stack.moved_index, slots=tuple(map(_slot, some)))
            for some in _cut([visits[number] for number in sorted(numbers)])
        )
        for host, numbers in asks.items()
        if numbers
    }


def _cut(visits: Sequence[Visit]) -> Iterator[Sequence[Visit]]:
    return (visits[begin : begin + MAX_SLOTS] for begin in range(0, len(visits), MAX_SLOTS))


def who_asks(
    targets: Sequence[AgentId], hosts: Sequence[AgentId], inward: Container[int] = ()
) -> dict[AgentId, set[int]]:
    """For each host of `hosts`: the numbers of the targets (each given by its own host) that it tries.

    Every target is tried by its own host, if that is among `hosts`, and, unless it is `inward`, by min(all others,
    enough) others.
    """
    asks: dict[AgentId, set[int]] = {host: set() for host in hosts}
    if not targets or not hosts:
        return asks
    enough = max(MIN_PROBERS, MAX_PROBES // len(targets))
    begin = 0
    for number, own in enumerate(targets):
        others = len(hosts) - (own in asks)
        if own in asks:
            asks[own].add(number)
        left = min(others, enough) if number not in inward else 0
        while left:
            host = hosts[begin % len(hosts)]
            begin += 1
            if host != own:
                asks[host].add(number)
                left -= 1
    return asks


def judge_validation(
    stack: StackState,
    members: Mapping[AgentId, Member],
    asked: Mapping[AgentId, tuple[Reach, ...]],
    visits: Sequence[Visit],
    reports: Reports,
    now_ms: Millis,
) -> Progress:
    """done: everything that was tried answered. failed: names the pairs, with the likely cause and the fix."""
    unreached: list[tuple[AgentId, Unreached]] = []
    waiting: list[str] = []
    for host, errands in asked.items():
        found = reports.findings(host)
        for errand in errands:
            finding = found.get(errand_id(errand))
            if finding is None or finding.state == "working":
                waiting.append(members[host].name)
            else:
                unreached.extend((host, item) for item in _told(finding))
    if waiting:
        names = ", ".join(sorted(set(waiting))[:MAX_PAIRS_TOLD])
        if deadline_passed(stack, reports.facts, now_ms, VALIDATION_DEADLINE_MS):
            seconds = VALIDATION_DEADLINE_MS // 1000
            return Progress(verdict="failed", reason=f"{names} didn't say within {seconds} s what they reach")
        return Progress(verdict="working", reason=f"waiting for {names}")
    visited = {key_of(visit.replica): visit for visit in visits}
    reason = _why_unreached(stack, members, visited, unreached, alone=len(asked) == 1)
    return Progress(verdict="failed", reason=reason) if reason else Progress(verdict="done")


def _told(finding: ErrandFinding) -> tuple[Unreached, ...]:
    return finding.unreached if finding.state == "failed" else ()


def _why_unreached(
    stack: StackState,
    members: Mapping[AgentId, Member],
    visited: Mapping[ReplicaKey, Visit],
    unreached: Sequence[tuple[AgentId, Unreached]],
    *,
    alone: bool,
) -> str:
    """One sentence for each pair, for the first MAX_PAIRS_TOLD of them; empty when there are none.

    That only its own host doesn't reach a replica says nothing, unless it was `alone` in trying, or alone for that
    port: some networks don't let a host connect to its own address.
    """
    silent = {
        (item.service, item.slot, item.port) for host, item in unreached if host == _host_of(stack, visited, item)
    }
    told: list[str] = []
    pairs = 0
    for host, item in sorted(unreached, key=lambda pair: (pair[1].service, pair[1].slot, members[pair[0]].name)):
        visit = visited.get(_key_of(stack, item))
        if visit is None or (host == visit.replica.host and not alone and item.port not in visit.closed):
            continue
        pairs += 1
        if pairs <= MAX_PAIRS_TOLD:
            listens = (item.service, item.slot, item.port) not in silent
            told.append(_sentence(members[visit.replica.host], members[host], item, listens=listens))
    more = pairs - MAX_PAIRS_TOLD
    return ". ".join(told) + (f". And {more} pairs more" if more > 0 else "")


def _sentence(there: Member, here: Member, item: Unreached, *, listens: bool) -> str:
    asked = f"{item.service}.{item.slot}"
    question = "does the program listen there, on all addresses?"
    if here == there:
        return f"{here.name} itself doesn't reach {asked} at port {item.port}: {item.reason}; {question}"
    what = f"{here.name} doesn't reach {asked} on {there.name} at port {item.port}: {item.reason}"
    if not listens:
        return f"{what}; nor does {there.name} itself: {question}"
    rule = f"ufw allow from {here.address} to any port {item.port} proto tcp"
    purpose = 'if that is on purpose, the port\'s `"validation": "host"` says so'
    return f"{what}; {there.name} itself does, so a firewall between them is likely: there `{rule}`; {purpose}"


def _key_of(stack: StackState, item: Unreached) -> ReplicaKey:
    return ReplicaKey(stack=stack.name, service=item.service, slot=item.slot)


def _host_of(stack: StackState, visited: Mapping[ReplicaKey, Visit], item: Unreached) -> AgentId | None:
    visit = visited.get(_key_of(stack, item))
    return visit.replica.host if visit is not None else None


def _slot(visit: Visit) -> Slot:
    key = key_of(visit.replica)
    return Slot(service=key.service, slot=key.slot)


def may_be_asked(facts: ClusterFacts, host: AgentId) -> bool:
    """Whether a host can say what it reaches. One that is away isn't waited for: its silence says nothing."""
    known = facts.of(host)
    return known.liveness == "alive" and not known.lost and known.report is not None
