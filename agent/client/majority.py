"""Whether the ledger can go on without some hosts."""

from __future__ import annotations

from agent.errors import NotAllowed
from agent.model.status import Status
from agent.model.types import AgentId


def check_majority(status: Status, leaving: frozenset[AgentId], *, fix: str) -> None:
    """Raises NotAllowed, with `fix`, when the voters that stay and are alive would be no majority of today's voters.
    Pure.
    """
    voters = [host for host in status.hosts if host.role in ("voter", "coordinator")]
    staying = [host for host in voters if host.id not in leaving and host.state == "alive"]
    needed = len(voters) // 2 + 1
    if len(staying) < needed:
        what = f"of {len(voters)} voters {len(staying)} would be left, and {needed} must agree for the ledger to go on"
        raise NotAllowed(what, where=status.cluster.name, fix=fix)
