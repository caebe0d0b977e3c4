"""The states of a member and every legal move between them, in one table.

Claims about one member are ordered by incarnation first, then by strength (alive < suspect < dead < left): SWIM §4.2.
Two rules go beyond the paper, because members here come from the ledger and are never forgotten:

* Somebody else's claim *dead* makes a member suspect with the shortest timeout, never dead. Only the own timer
  concludes death, so a member always has that long to answer, whoever talks about it.
* The dead and the left may come back: any claim of a newer incarnation moves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final, TypeAlias


class MemberState(Enum):
    """What this agent believes of a member of the ledger."""

    UNKNOWN = "unknown"  # in the ledger; neither heard nor told of since this agent started
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"  # stopped cleanly and said so


class Claim(IntEnum):
    """What a message says of a member. The numbers are the wire format and the strength within one incarnation."""

    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4


class Timer(Enum):
    """The one event that comes from no message: the suspicion ran out."""

    EXPIRED = "expired"


class Age(Enum):
    """A claim's incarnation against the one this agent knows."""

    OLDER = "older"
    SAME = "same"
    NEWER = "newer"


Event: TypeAlias = Claim | Timer

_U, _A, _S, _D, _L = (
    MemberState.UNKNOWN,
    MemberState.ALIVE,
    MemberState.SUSPECT,
    MemberState.DEAD,
    MemberState.LEFT,
)

# A key that is missing means: the event says nothing new, the member stays as it is. No key has Age.OLDER.
TRANSITIONS: Final[Mapping[tuple[MemberState, Event, Age], MemberState]] = MappingProxyType(
    {
        (_U, Claim.ALIVE, Age.SAME): _A,
        (_U, Claim.ALIVE, Age.NEWER): _A,
        (_U, Claim.SUSPECT, Age.SAME): _S,
        (_U, Claim.SUSPECT, Age.NEWER): _S,
        (_U, Claim.DEAD, Age.SAME): _S,
        (_U, Claim.DEAD, Age.NEWER): _S,
        (_U, Claim.LEFT, Age.SAME): _L,
        (_U, Claim.LEFT, Age.NEWER): _L,
        (_A, Claim.ALIVE, Age.NEWER): _A,
        (_A, Claim.SUSPECT, Age.SAME): _S,
        (_A, Claim.SUSPECT, Age.NEWER): _S,
        (_A, Claim.DEAD, Age.SAME): _S,
        (_A, Claim.DEAD, Age.NEWER): _S,
        (_A, Claim.LEFT, Age.SAME): _L,
        (_A, Claim.LEFT, Age.NEWER): _L,
        (_S, Claim.ALIVE, Age.NEWER): _A,  # refuted
        (_S, Claim.SUSPECT, Age.SAME): _S,  # a confirmation
        (_S, Claim.SUSPECT, Age.NEWER): _S,  # refuted and suspected again
        (_S, Claim.DEAD, Age.SAME): _S,  # shortens the suspicion
        (_S, Claim.DEAD, Age.NEWER): _S,
        (_S, Claim.LEFT, Age.SAME): _L,
        (_S, Claim.LEFT, Age.NEWER): _L,
        (_S, Timer.EXPIRED, Age.SAME): _D,
        (_D, Claim.ALIVE, Age.NEWER): _A,
        (_D, Claim.SUSPECT, Age.NEWER): _S,
        (_D, Claim.DEAD, Age.NEWER): _D,
        (_D, Claim.LEFT, Age.SAME): _L,
        (_D, Claim.LEFT, Age.NEWER): _L,
        (_L, Claim.ALIVE, Age.NEWER): _A,
        (_L, Claim.SUSPECT, Age.NEWER): _S,
        (_L, Claim.DEAD, Age.NEWER): _D,
        (_L, Claim.LEFT, Age.NEWER): _L,
    }
)

# The members that are probed and gossiped to in every round.
PROBED_STATES: Final = frozenset({_U, _A, _S})

# How a state is told to others. UNKNOWN is nothing to tell.
CLAIM_OF: Final[Mapping[MemberState, Claim]] = MappingProxyType(
    {_A: Claim.ALIVE, _S: Claim.SUSPECT, _D: Claim.DEAD, _L: Claim.LEFT}
)


def age_of(claimed_incarnation: int, known_incarnation: int) -> Age:
    """How old a claim is against what is known."""
    if claimed_incarnation < known_incarnation:
        return Age.OLDER
    return Age.SAME if claimed_incarnation == known_incarnation else Age.NEWER


def next_state(state: MemberState, event: Event, age: Age) -> MemberState | None:
    """The state after `event`, or None when the event says nothing new (SWIM §4.2)."""
    return TRANSITIONS.get((state, event, age))
