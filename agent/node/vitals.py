"""How long each agent has been active or silent without a break, for voter healing (agent.control.autopilot)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct, field

from agent.control import AgentHealth
from agent.model.report import HostReport
from agent.model.types import AgentId
from agent.node.context import Context

CAUGHT_UP_ENTRIES = 100  # an agent this close gets the rest within a heartbeat


class Vitals(Struct):
    """One coordinator's time; begins anew with the next."""

    context: Context
    _since: dict[AgentId, tuple[bool, float]] = field(default_factory=dict)

    def look(
        self, reports: Mapping[AgentId, HostReport], streams: Collection[AgentId], now: float
    ) -> dict[AgentId, AgentHealth]:
        """Everyone's health at `now` (monotonic seconds): voters by consensus, observers by report and a voter's link.

        `streams`: the agents that have one.
        """
        raft = self.context.raft
        heard = frozenset(raft.active_members(now))
        matched = {member: progress.match for member, progress in raft.followers().items()}
        health: dict[AgentId, AgentHealth] = {}
        for member in (*self.context.state.members, *raft.configuration.voters):
            if member in health:
                continue
            active = member in heard if member in matched else member in streams
            was = self._since.get(member)
            if was is None or was[0] != active:
                was = self._since[member] = (active, now)
            report = reports.get(member)
            told = max(report.index, report.applied) if report is not None else 0
            at = matched.get(member, told)
            health[member] = AgentHealth(
                active=active,
                active_s=now - was[1] if active else 0.0,
                silent_s=0.0 if active else now - was[1],
                caught_up=at + CAUGHT_UP_ENTRIES >= raft.commit,
            )
        return health
