"""Which stacks have to be decided on again. Pure; coordinator only.

Deciding on a stack costs as much as it has replicas, and every host reports every few seconds. So a report that changes
nothing a decision depends on must cost nothing, however many stacks and hosts there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from agent.model.instruction import Act
from agent.model.report import HostReport
from agent.model.types import Label
from agent.state import Applied

# Reports that come within this of the last decision, for each host of the cluster, are judged together: when all of
# 1,000 hosts tell of a rollout's step, that is ten decisions a second, and a cluster of ten waits for a millisecond.
TOGETHER_S_PER_HOST = 0.0001

# They say who may sign or read what, or nothing but a revision: where anything runs doesn't depend on them.
_PLACES_NOTHING: frozenset[Act] = frozenset({"cancel", "grant", "revoke", "grant-key", "revoke-key"})


class Attention:
    """What has changed since the last decision.

    `everything`: something that every stack may depend on. `hosts`: how hosts are seen, which mostly turns out to be as
    before. `stacks`: only these stacks. `urgent`: the ledger moved, so others wait for what follows.
    """

    def __init__(self) -> None:
        self.everything = False
        self.hosts = False
        self.urgent = False
        self.stacks: set[Label] = set()

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to decide again."""
        return self.everything or self.hosts or bool(self.stacks)

    def applied(self, applied: Applied) -> None:
        """The ledger moved on. Releases, and hosts that joined, make room for other stacks' replicas."""
        result = applied.result
        if result is not None and (result.outcome != "applied" or result.repeated or applied.act in _PLACES_NOTHING):
            return
        self.urgent = True
        told = applied.stacks | {key.stack for key in applied.assigned}
        if applied.members or applied.released or not told:
            self.everything = True
        self.stacks |= told

    def reported(
        self, known: HostReport | None, report: HostReport, waiting: Mapping[Label, int], *, voter: bool
    ) -> None:
        """A host reported; `known` is its report before.

        `waiting`: the stacks that wait for hosts, and the index of the entry that moved each last: of a host's
        progress, decisions only use whether it is that far.
        """
        if known is None or _offer(known) != _offer(report):
            self.everything = True
            return
        self.hosts = self.hosts or (voter and known.linked != report.linked)
        if known.applied != report.applied:
            self.stacks.update(name for name, moved in waiting.items() if known.applied < moved <= report.applied)
        if known.replicas != report.replicas:
            self.stacks.update(item.stack for item in set(known.replicas) ^ set(report.replicas))
        if known.findings != report.findings:
            self.stacks.update(item.stack for item in set(known.findings) ^ set(report.findings))


def _offer(report: HostReport) -> Hashable:
    """What scheduling uses of a host. Its free disk space and load are only shown."""
    resources = report.resources
    told = report.applied > 0  # what it tells before its first look says nothing
    return told, report.boot, report.runtimes, resources.memory_mib, resources.cpu_millis, report.busy_ports
