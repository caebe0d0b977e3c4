"""What a member does with messages of a peer that isn't in its configuration (Raft §4.1; thesis §4.2.3).

The peer may be a voter that this log doesn't name yet: a returning voter and a newer one must be able to meet. Or it
was removed, or it lies: then it must neither depose a leader nor block every election.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from agent.raft.messages import UNTERMED, LeaderMessage, Message, PreVoteResponse
from agent.raft.state import RaftState

# Between two strangers that are heard, in longest election timeouts: the voters can elect somebody undisturbed.
PAUSE_TIMEOUTS = 2


class Strangers:
    """Lets a stranger raise the term, or become leader, only while there is no working leader of
    ours, and then rarely.
    """

    def __init__(self, state: RaftState) -> None:
        self._state = state
        self._heard_from = -math.inf

    def heard(self, sender: str, message: Message, now: float, *, trusts_leader: Callable[[float], bool]) -> bool:
        """Whether `message` is to be handled; one of a member of ours always is, and so `trusts_leader` isn't asked."""
        if self._state.knows(sender) or not self._moves(sender, message):
            return True
        if trusts_leader(now) or now < self._heard_from:
            self._state.drop("stranger moves the term")
            return False
        self._heard_from = now + PAUSE_TIMEOUTS * self._state.timing.election_timeout_max_s
        return True

    def _moves(self, sender: str, message: Message) -> bool:
        """Whether taking it would change our term or our leader."""
        state = self._state
        if isinstance(message, UNTERMED):
            return False
        if isinstance(message, PreVoteResponse) and message.granted:
            return False
        if message.term > state.term:
            return True
        # Who was let through to ask for our vote, and got it, leads that term by it: it may need us, as a voter.
        at_hand = sender in (state.leader, state.vote)
        return isinstance(message, LeaderMessage) and message.term == state.term and not at_hand
