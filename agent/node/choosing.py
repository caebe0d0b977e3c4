"""Which voter an observer follows, and which ones it links with for that (ARCHITECTURE.md "Membership and links").
Pure.

By rendezvous hash, as Nomad's clients and Swarm's workers have one server each: hosts spread evenly over the voters,
all agents compute the same choice, and only a lost voter's hosts change, each to another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache

from agent.model.types import AgentId

REMEMBERED_WEIGHTS = 8192  # an agent asks for its own few all the time; the simulator's for five of each of 1,000 hosts


def voter_for(host: AgentId, voters: Collection[AgentId]) -> AgentId | None:
    """The one of these voters that a host follows; None without any."""
    return max(voters, key=lambda voter: _weight(voter, host), default=None)


@lru_cache(REMEMBERED_WEIGHTS)
def _weight(voter: AgentId, host: AgentId) -> bytes:
    return hashlib.sha256(f"{voter} {host}".encode()).digest()


def links_for(
    host: AgentId, voters: Collection[AgentId], *, followed: AgentId | None, shunned: Collection[AgentId], every: bool
) -> frozenset[AgentId]:
    """The voters to link with: the one to follow, and the one that is followed until that link is up.

    `shunned`: those that are dead, or failed before; used all the same if no other is left. `every`: all voters, when
    one alone is of no use: only for a moment, since each of them is linked with only a part of the hosts.
    """
    if every:
        return frozenset(voters)
    best = voter_for(host, [voter for voter in voters if voter not in shunned] or voters)
    return frozenset(voter for voter in (best, followed) if voter is not None)
