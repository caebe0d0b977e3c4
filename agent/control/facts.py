"""What the coordinator knows of the hosts now: soft state in the form that scheduling and rollouts use."""

from __future__ import annotations

from msgspec import Struct

from agent.model.report import HostReport
from agent.model.status import HostState
from agent.model.types import AgentId, Millis


class HostFacts(Struct, frozen=True, kw_only=True):
    """One host. `failure.cluster_facts` makes these.

    `lost`: dead for scheduling (ARCHITECTURE.md "Membership and links"): its replicas go elsewhere. `report` is the
    newest one that this coordinator got, None before the first. `awaited`: there is none yet, and deciding without it
    would be a guess. `drained`: an operator drained it: nothing more is placed there, and what may run elsewhere
    leaves.
    """

    liveness: HostState
    lost: bool = False
    awaited: bool = False
    report: HostReport | None = None
    drained: bool = False


class ClusterFacts(Struct, frozen=True, kw_only=True):
    """`hosts` by agent id; a member that isn't in it counts as one that never reported.

    `since_ms`: the ledger time at which this coordinator began; a rollout's deadline counts from there at the earliest.
    """

    hosts: dict[AgentId, HostFacts]
    since_ms: Millis = 0

    def of(self, host: AgentId) -> HostFacts:
        """What is known of the host."""
        return self.hosts.get(host, UNKNOWN_HOST)


UNKNOWN_HOST = HostFacts(liveness="unknown", awaited=True)
