"""Whether the ledger can go on without some hosts."""

from __future__ import annotations

from agent.errors import NotAllowed
from agent.model.status import Status
from agent.model.types import AgentId

_NOBODY_COORDINATES = (
    "Start voters that are away. If most of them are lost for good, `agent recover --new-epoch` goes on without them."
)


def check_majority(status: Status, leaving: frozenset[AgentId], *, fix: str) -> None:
    """Raises NotAllowed, with `fix`, when the voters that stay and are alive would be no majority of today's voters.
    Where there is none already, no choice of hosts mends that. Pure.
    """
    voters = [host for host in status.hosts if host.role in ("voter", "coordinator")]
    staying = [host for host in voters if host.id not in leaving and host.state == "alive"]
    needed = len(voters) // 2 + 1
    if len(staying) < needed:
        what = f"of {len(voters)} voters {len(staying)} would be left, and {needed} must agree for the ledger to go on"
        raise NotAllowed(
            what, where=status.cluster.name, fix=fix if status.coordinator is not None else _NOBODY_COORDINATES
        )
