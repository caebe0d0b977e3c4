"""The hosts that may take replicas of one service, best first."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TypeAlias

from agent.control.facts import ClusterFacts
from agent.control.fit import fit, state_reason
from agent.control.placements import Placements
from agent.model.cluster import Member
from agent.model.ledger import AssignedPort, Assignment
from agent.model.spec import ReplicaKey
from agent.model.stack import Service
from agent.model.types import AgentId, Label

Place: TypeAlias = tuple[str, str]
"""(region, zone) by the labels of these names; a zone counts within its region: two regions may both have an `a`."""

HostRank: TypeAlias = tuple[int, int, int, Label, AgentId]
"""Lower is better: replicas of the service there, thousandths reserved, replicas of all services, name."""


class Pool:
    """Draws hosts: fewest replicas of the service in the region, then zone, then host; then the least reserved.

    While one service is placed, a host only gets fuller. So a host that didn't fit once is out (`reasons` says why),
    and a rank in the heap that is too good is corrected when it comes to the top: a draw costs O(places + log hosts).
    """

    def __init__(
        self,
        service: Service,
        allowed: list[Member],
        members: Mapping[AgentId, Member],
        spread: Counter[AgentId],
        facts: ClusterFacts,
        placements: Placements,
    ) -> None:
        self.reasons: dict[Label, str] = {}
        self._service = service
        self._members = members
        self._facts = facts
        self._placements = placements
        self._on_host = spread
        self._in_region: Counter[str] = Counter()
        self._in_zone: Counter[Place] = Counter()
        for host, count in spread.items():
            self._count(members[host], count)
        self._heaps: dict[Place, list[HostRank]] = defaultdict(list)
        for member in allowed:
            if reason := state_reason(facts.of(member.id)):
                self.reasons[member.name] = reason
            else:
                self._heaps[_place(member)].append(self._rank(member))
        for heap in self._heaps.values():
            heapq.heapify(heap)

    def draw(self, key: ReplicaKey, current: Assignment | None) -> tuple[AgentId, tuple[AssignedPort, ...]] | None:
        """The best host for the replica, now assigned as `current`, and its ports there; None when none fits.

        It then counts as one of the service's places.
        """
        while (place := self._best_place()) is not None:
            member = self._members[self._heaps[place][0][-1]]
            found = fit(key, self._service, member, self._facts, self._placements, current)
            if not found.reason:
                self._on_host[member.id] += 1
                self._count(member, 1)
                return member.id, found.ports
            self.reasons[member.name] = found.reason
            heapq.heappop(self._heaps[place])
        return None

    def _best_place(self) -> Place | None:
        ranked = [
            (self._in_region[place[0]], self._in_zone[place], heap[0], place)
            for place, heap in self._heaps.items()
            if self._freshen(heap)
        ]
        return min(ranked)[-1] if ranked else None

    def _freshen(self, heap: list[HostRank]) -> bool:
        """Bring the heap's top up to date; False when the heap is empty."""
        while heap:
            rank = self._rank(self._members[heap[0][-1]])
            if rank <= heap[0]:
                return True
            heapq.heapreplace(heap, rank)
        return False

    def _rank(self, member: Member) -> HostRank:
        host = member.id
        return self._on_host[host], self._reserved(host), self._placements.replicas(host), member.name, host

    def _reserved(self, host: AgentId) -> int:
        """Thousandths of what the host has, of memory or CPU, whichever is more."""
        report = self._facts.of(host).report
        if report is None:
            return 0
        placements, going = self._placements, self._placements.going(host)
        memory = (placements.memory_mib(host) + going.memory_mib) * 1000 // max(report.resources.memory_mib, 1)
        cpu = (placements.cpu_millis(host) + going.cpu_millis) * 1000 // max(report.resources.cpu_millis, 1)
        return max(memory, cpu)

    def _count(self, member: Member, by: int) -> None:
        region, zone = _place(member)
        self._in_region[region] += by
        self._in_zone[region, zone] += by


def _place(member: Member) -> Place:
    return member.labels.get("region", ""), member.labels.get("zone", "")
