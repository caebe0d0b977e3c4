"""The cluster as this agent itself sees it, for its status and its list of members."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from agent.control import ClusterFacts
from agent.node.context import Context
from agent.node.coordination import Coordination
from agent.node.epochs import Epochs
from agent.node.expelled import Expelled
from agent.node.instant import Instant
from agent.node.local_host import LocalHost
from agent.node.status import View


class Viewing(Struct, frozen=True):
    """Gathers it from the parts that know some of it."""

    context: Context
    coordination: Coordination
    host: LocalHost
    epochs: Epochs
    expelled: Expelled

    def at(self, when: Instant) -> View:
        """Everything, as of now."""
        context = self.context
        versions = {peer.id: peer.agent_version for peer in context.peers.values()}
        return View(
            me=context.id,
            name=context.own_name,
            leader=context.leader,
            term=max(context.raft.term, context.lead.term if context.lead is not None else 0),
            voters=context.raft.configuration.voters,
            linked=frozenset(context.peers) & context.state.members.keys(),
            facts=self._facts(when),
            now_ms=when.wall_ms,
            stale=not context.raft.is_leader,
            heard_ms=self.coordination.heard_ms,
            versions=versions | {context.id: self.host.agent_version},
            refused=self.epochs.refused,
            expelled=self.expelled.look(),
        )

    def _facts(self, when: Instant) -> ClusterFacts:
        """The hosts as this agent knows them: its own always, the others' reports if it coordinates."""
        facts, own = self.coordination.facts(when), self.host.own_report(when)
        mine = facts.of(self.context.id)
        if mine.report is not None or own is None:
            return facts
        hosts = facts.hosts | {self.context.id: msgspec.structs.replace(mine, report=own, awaited=False)}
        return msgspec.structs.replace(facts, hosts=hosts)
