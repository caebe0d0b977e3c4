"""Terms and roles (Raft §5.1, fig. 3.3): what a message does to them, and which role's part handles it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from agent.raft.election import Election
from agent.raft.follower import Follower, answer_stale
from agent.raft.leadership import Leadership
from agent.raft.messages import (
    UNTERMED,
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    LeaderAnswer,
    LeaderMessage,
    Message,
    PreVote,
    PreVoteResponse,
    ReadIndex,
    ReadIndexResponse,
    TermedMessage,
    TimeoutNow,
    Vote,
    VoteResponse,
)
from agent.raft.quorum import VoteResult
from agent.raft.ready import ReadState, Role
from agent.raft.state import RaftState
from agent.raft.strangers import Strangers

# No honest member is that many elections ahead; a lying one must not use up the numbers there are.
MAX_TERM_JUMP = 2**32


class Roles:
    """The parts that a member's roles are made of, and the way from one role to the next.

    `leadership` is there exactly while this member leads.
    """

    def __init__(self, state: RaftState, now: float, *, verify_snapshots: bool) -> None:
        self._state = state
        self.election = Election(state, now)
        self.follower = Follower(state, verify_snapshots=verify_snapshots)
        self.leadership: Leadership | None = None
        self._strangers = Strangers(state)
        self._handlers: Mapping[type, Callable[[str, Any, float], None]] = {
            PreVote: self._on_pre_vote,
            PreVoteResponse: self._on_pre_vote_response,
            Vote: self.election.on_vote,
            VoteResponse: self._on_vote_response,
            TimeoutNow: self._on_timeout_now,
            ReadIndex: self._on_read_index,
            ReadIndexResponse: self._on_read_index_response,
            **dict.fromkeys((Append, Heartbeat, InstallSnapshot), self._on_leader_message),
            **dict.fromkeys(get_args(LeaderAnswer), self._on_leader_answer),
        }

    def receive(self, sender: str, message: Message, now: float) -> None:
        """See `Raft.receive`."""
        state = self._state
        if state.stands_aside:
            state.drop("retired" if state.retired else "fenced")
            return
        if sender == state.id:
            state.drop("message from myself")
            return
        if not self._strangers.heard(sender, message, now, trusts_leader=self.trusts_leader):
            return
        if isinstance(message, UNTERMED) or self._settle_term(sender, message, now):
            self._handlers[type(message)](sender, message, now)
            self.settle(now)

    def _settle_term(self, sender: str, message: TermedMessage, now: float) -> bool:
        """Follow a later term, refuse an earlier one (Raft §5.1). Returns whether the message is of our term now."""
        state = self._state
        if message.term > state.term + MAX_TERM_JUMP:
            state.drop("term out of bounds")
            return False
        if isinstance(message, PreVoteResponse) and message.granted:
            return True
        if message.term > state.term:
            if isinstance(message, Vote) and not message.forced and self.trusts_leader(now):
                state.drop("vote asked while the leader is well")
                return False
            self.follow(message.term, None, now)
        elif message.term < state.term:
            answer_stale(state, sender, message)
            return False
        return True

    def trusts_leader(self, now: float) -> bool:
        """Whether there is a working leader, possibly this member itself: then nobody's campaign is helped (thesis
        §4.2.3).
        """
        if self.leadership is not None:
            return self.leadership.quorum_active(now)
        return self.election.trusts_leader(now) and not self.follower.doubts(now)

    def follow(self, term: int, leader: str | None, now: float) -> None:
        """Be a follower in `term` (>= own)."""
        if self.leadership is not None:
            self.leadership = None
            self.election.wait(now)
        self._state.follow(term, leader)

    def fence(self, index: int) -> None:
        """See `RaftState.fence`."""
        self.leadership = None
        self._state.fence(index)

    def retire(self) -> None:
        """See `RaftState.retire`."""
        self.leadership = None
        self._state.retire()

    def settle(self, now: float) -> None:
        """Draw the conclusions: an election won, a leader that isn't a voter any more."""
        state = self._state
        if state.role is Role.PRE_CANDIDATE and self.election.result() is VoteResult.WON:
            self.election.campaign(now, forced=False)
        elif state.role is Role.CANDIDATE and self.election.result() is VoteResult.WON:
            state.role, state.leader = Role.LEADER, state.id
            self.leadership = Leadership(state, now)
        elif self.leadership is not None and not state.is_voter:
            self.leadership.flush(now)
            self.leadership.resign()
            self.follow(state.term, None, now)

    def settle_voter(self, was_voter: bool, now: float) -> None:
        """A promoted member becomes as patient as the others; a removed one gives up its campaign."""
        state = self._state
        if state.is_voter and not was_voter:
            self.election.wait(now)
        elif was_voter and not state.is_voter:
            state.follow(state.term, state.leader)
            self.election.awaited.clear()

    # --- messages, each of this member's term ------------------------------------------------------------------------

    def _on_pre_vote(self, sender: str, request: PreVote, now: float) -> None:
        self.election.on_pre_vote(sender, request, self.trusts_leader(now))

    def _on_pre_vote_response(self, sender: str, response: PreVoteResponse, now: float) -> None:
        state = self._state
        asked_for = state.term + 1 if response.granted else state.term
        if state.role is Role.PRE_CANDIDATE and response.term == asked_for:
            self.election.on_response(sender, response, now)

    def _on_vote_response(self, sender: str, response: VoteResponse, now: float) -> None:
        if self._state.role is Role.CANDIDATE:
            self.election.on_response(sender, response, now)

    def _on_timeout_now(self, sender: str, _: TimeoutNow, now: float) -> None:
        state = self._state
        if sender == state.leader and state.is_voter and self.leadership is None:
            self.election.campaign(now, forced=True)
        else:
            state.drop("timeout-now from another than the leader")

    def _on_leader_message(self, sender: str, message: LeaderMessage, now: float) -> None:
        state = self._state
        known = state.knows(sender)
        if self.leadership is not None or (state.leader not in (None, sender) and (state.knows_leader or not known)):
            # Raft §5.2 (election safety) rules this out: one of the two lies.
            state.drop("second leader in a term")
            return
        fresh = state.leader != sender
        self.follow(state.term, sender, now)
        if known or not state.is_voter:
            self.election.heard_leader(now)
        elif fresh and state.vote != sender:  # else the vote has done so
            self.election.wait(now)  # what a stranger says later doesn't put the own campaign off: it may lie
        was_voter = state.is_voter
        if isinstance(message, Append):
            self.follower.on_append(sender, message)
        elif isinstance(message, Heartbeat):
            self.follower.on_heartbeat(sender, message)
        else:
            self.follower.on_install_snapshot(sender, message, now)
        self.settle_voter(was_voter, now)

    def _on_leader_answer(self, sender: str, answer: LeaderAnswer, now: float) -> None:
        leadership = self.leadership
        if leadership is None or not leadership.heard(sender, now):
            return
        if isinstance(answer, AppendResponse):
            leadership.on_append_response(sender, answer)
        elif isinstance(answer, HeartbeatResponse):
            leadership.on_heartbeat_response(sender, answer, now)
        else:
            leadership.on_snapshot_response(sender, answer, now)

    def _on_read_index(self, sender: str, request: ReadIndex, _now: float) -> None:
        if self.leadership is None:
            self._state.drop("read-index while not leading")
        else:
            self.leadership.on_read(sender, request.context)

    def _on_read_index_response(self, sender: str, response: ReadIndexResponse, _now: float) -> None:
        if sender == self._state.leader:
            self._state.outbox.reads.append(ReadState(response.context, response.index))
