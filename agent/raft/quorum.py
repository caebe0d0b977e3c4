"""Majorities: small mathematics, compared with a naive version (tests/raft/test_quorum.py)."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence


class VoteResult(enum.Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """The least number of `voters` (≥ 1) of which any two sets have a member in common."""
    return voters // 2 + 1


def majority_of_others(voters: Collection[str], me: str) -> int:
    """How many voters other than `me` it takes to be sure of something: a majority, or all of them, but at least one.

    With two voters, of which we are one, there is only the other's word.
    """
    return max(1, min(majority(len(voters)), len(set(voters) - {me})))


def blocking_of_others(voters: Collection[str], me: str) -> int:
    """How many voters other than `me` it takes so that those left are no majority; at least two, if there are.

    With four voters that is two, as with three: both survive the loss of one.
    """
    others, survived = len(set(voters) - {me}), len(voters) - majority(len(voters))
    return max(1, min(max(2, survived + 1), others))


def committed_index(acknowledged: Sequence[int]) -> int:
    """The highest index that a majority acknowledged (Raft §5.3); one element per voter, at least one."""
    return sorted(acknowledged, reverse=True)[majority(len(acknowledged)) - 1]


def tally(voters: Sequence[str], granted: Collection[str], refused: Collection[str]) -> VoteResult:
    """WON once a majority granted, LOST once that became impossible. Answers of non-voters don't count."""
    needed = majority(len(voters))
    if sum(voter in granted for voter in voters) >= needed:
        return VoteResult.WON
    if sum(voter not in refused for voter in voters) < needed:
        return VoteResult.LOST
    return VoteResult.PENDING
