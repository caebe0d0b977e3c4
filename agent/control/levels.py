"""When the ledger may use kinds of entries and rules that older agents don't know. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agent.model.types import AgentId


def next_level(current: int, own: int, members: Collection[AgentId], supported: Mapping[AgentId, int]) -> int | None:
    """The level to raise the ledger to, or None. `own` is the coordinator's highest; `supported`: what members
    reported.

    Every member of the ledger must have reported, including the dead and the observers: whoever comes back must be able
    to read what it missed. Expel a member that never will.
    """
    if not supported.keys() >= set(members):
        return None
    wanted = min([own, *(supported[member] for member in members)])
    return wanted if wanted > current else None
