"""Which voter a host that doesn't vote follows, and with whom it is linked for that (ARCHITECTURE.md "Membership and
links"). Pure.

By rendezvous hash, as Nomad's clients and Swarm's workers have one server each: hosts spread evenly over the voters,
all agents come to the same choice, and of a lost voter's hosts alone each goes to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache

from agent.model.types import AgentId

REMEMBERED_WEIGHTS = 8192  # an agent asks for its own few all the time; the simulator's for five of each of 1,000 hosts


def voter_for(host: AgentId, voters: Collection[AgentId]) -> AgentId | None:
    """Whom a host follows of these; None without any."""
    return max(voters, key=lambda voter: _weight(voter, host), default=None)


@lru_cache(REMEMBERED_WEIGHTS)
def _weight(voter: AgentId, host: AgentId) -> bytes:
    return hashlib.sha256(f"{voter} {host}".encode()).digest()


def links_for(
    host: AgentId, voters: Collection[AgentId], *, followed: AgentId | None, shunned: Collection[AgentId], every: bool
) -> frozenset[AgentId]:
    """The voters to be linked with: the one to follow, and the one that is followed until that is there.

    `shunned`: those that are dead, or were no good; taken all the same where no other is left. `every`: all of them,
    where one alone is of no use: for a moment, since each of them has a link with a part of the hosts only.
    """
    if every:
        return frozenset(voters)
    best = voter_for(host, [voter for voter in voters if voter not in shunned] or voters)
    return frozenset(voter for voter in (best, followed) if voter is not None)
