"""Elections: when to campaign, whom to vote for (Raft §5.2, §5.4.1; thesis §3.10, §4.2.3, §9.6)."""

from __future__ import annotations

import math
from collections.abc import Collection

from agent.raft.messages import PreVote, PreVoteResponse, Vote, VoteResponse
from agent.raft.quorum import VoteResult, tally
from agent.raft.ready import Role
from agent.raft.state import RaftState


class Election:
    """The election timer of a member that doesn't lead, and the votes of its campaign.

    `deadline`: seconds; infinite for observers, which nobody leads, while fenced, and once retired. A learner never
    campaigns, but notices when its leader falls silent: one that was removed hears nothing of it from any leader, and
    has to ask.
    """

    def __init__(self, state: RaftState, now: float) -> None:
        self._state = state
        self._granted: set[str] = set()
        self._refused: set[str] = set()
        self._heard_leader_at = -math.inf
        self._short_delays_left = 0
        self._forced = False
        self._given_up = False
        self.awaited: set[str] = set()
        self.wait(now)
        if state.configuration.voters == (state.id,):
            self._due = now

    @property
    def deadline(self) -> float:
        state = self._state
        if state.stands_aside:
            return math.inf
        if state.is_voter or (state.leader is not None and state.id in state.configuration.learners):
            return self._due
        return math.inf

    def wait(self, now: float) -> None:
        """A full timeout from now, drawn anew: members that tied once must not tie for ever (Raft §9.3)."""
        timing = self._state.timing
        self._timeout = self._state.rng.uniform(timing.election_timeout_min_s, timing.election_timeout_max_s)
        self._due = now + self._timeout

    def await_peers(self, ids: Collection[str], now: float) -> None:
        """A sole voter needs nobody to be elected, even if its disk went back: these may know, and say so (`fence`).

        It waits for links with all of them, or for as long as others wait for a leader. One that never led has
        forgotten nothing.
        """
        state = self._state
        if state.configuration.voters == (state.id,) and state.term and state.role is Role.FOLLOWER:
            self.awaited = set(ids) - state.linked
            if self.awaited:
                self._due = now + state.timing.election_timeout_max_s

    def heard_leader(self, now: float) -> None:
        """A valid message of this term's leader."""
        self._heard_leader_at = now
        self._short_delays_left = 0
        self._due = now + self._timeout

    def lost_leader(self, now: float) -> None:
        """The link to the leader closed: it has probably died. Waits no longer for it, and never longer than before:
        its link may come and go again and again.
        """
        before = self._due
        self._state.leader = None
        self._short_delays_left = self._state.timing.link_loss_attempts
        self._wait_after_loss(now)
        self._due = min(self._due, before)

    def _wait_after_loss(self, now: float) -> None:
        if self._short_delays_left <= 0:
            self.wait(now)
            return
        self._short_delays_left -= 1
        timing = self._state.timing
        self._due = now + self._state.rng.uniform(timing.link_loss_delay_min_s, timing.link_loss_delay_max_s)

    def peer_linked(self, peer: str, now: float) -> None:
        """A member that has heard no leader since its start needn't wait for one that would greet it; see
        `Leadership`'s.

        A campaign under way asks the newcomer too.
        """
        state, timing = self._state, self._state.timing
        if self.awaited:
            self.awaited.discard(peer)
            if not self.awaited:  # what they have to say comes as soon as the link is up
                self._due = min(self._due, now + timing.first_election_delay_max_s)
        elif state.role is Role.FOLLOWER:
            unled = state.leader is None and self._heard_leader_at == -math.inf
            if unled and state.is_voter and state.linked_to_majority():
                greeting_s = timing.link_loss_delay_min_s if state.term else 0.0  # nobody led term 0
                self._due = min(self._due, now + state.rng.uniform(greeting_s, timing.first_election_delay_max_s))
                self._short_delays_left = timing.link_loss_attempts
        elif peer in state.configuration.voters and peer not in self._granted | self._refused:
            self._ask(peer)

    def trusts_leader(self, now: float) -> bool:
        """Whether a leader was heard within the minimum timeout: then nobody's campaign is helped (thesis §4.2.3)."""
        return self._state.knows_leader and now - self._heard_leader_at < self._state.timing.election_timeout_min_s

    def canvass(self, now: float) -> None:
        """Ask for pre-votes: would I win? Moves nobody's term (thesis §9.6)."""
        self._begin(Role.PRE_CANDIDATE, now, forced=False)
        self._granted.add(self._state.id)
        self._ask_all()

    def campaign(self, now: float, *, forced: bool) -> None:
        """Stand for election in the next term. The own vote counts once it is on disk (`own_vote_persisted`)."""
        state = self._state
        state.follow(state.term + 1, None)
        state.vote = state.id
        self._begin(Role.CANDIDATE, now, forced=forced)
        self._ask_all()

    def _begin(self, role: Role, now: float, *, forced: bool) -> None:
        self._state.role, self._state.leader = role, None
        self._forced = forced
        self._given_up = False
        self.awaited.clear()
        self._granted.clear()
        self._refused.clear()
        self.wait(now)

    def _ask_all(self) -> None:
        for voter in self._state.configuration.voters:
            if voter != self._state.id:
                self._ask(voter)

    def _ask(self, voter: str) -> None:
        state, log = self._state, self._state.log
        if state.role is Role.PRE_CANDIDATE:
            request = PreVote(term=state.term + 1, last_index=log.last_index, last_term=log.last_term)
            state.outbox.send_now(voter, request)
        elif state.role is Role.CANDIDATE:
            vote = Vote(term=state.term, last_index=log.last_index, last_term=log.last_term, forced=self._forced)
            state.outbox.send_after_persist(voter, vote)

    def result(self) -> VoteResult:
        """How the campaign under way stands."""
        return tally(self._state.configuration.voters, self._granted, self._refused)

    def own_vote_persisted(self) -> None:
        """Called when a Ready is done: a candidate's own vote counts as soon as a restart would remember it."""
        state = self._state
        if state.role is Role.CANDIDATE and state.persisted_hard_state == state.hard_state:
            self._granted.add(state.id)

    def on_pre_vote(self, sender: str, request: PreVote, leader_trusted: bool) -> None:
        """Answer without any change of own state."""
        state = self._state
        granted = (
            not leader_trusted
            and request.term > state.term
            and state.log.is_up_to_date(request.last_index, request.last_term)
        )
        answer = PreVoteResponse(term=request.term if granted else state.term, granted=granted)
        state.outbox.send_now(sender, answer)

    def on_vote(self, sender: str, request: Vote, now: float) -> None:
        """One vote a term, first come first served, for a log at least as good as ours (Raft §5.2, §5.4.1)."""
        state = self._state
        granted = (
            request.term == state.term
            and (state.vote == sender or (state.vote is None and state.leader is None))
            and state.log.is_up_to_date(request.last_index, request.last_term)
        )
        if granted:
            state.follow(state.term, None)
            state.vote = sender
            self.wait(now)
        state.outbox.send_after_persist(sender, VoteResponse(term=state.term, granted=granted))

    def on_response(self, sender: str, response: PreVoteResponse | VoteResponse, now: float) -> None:
        """Count an answer to the campaign under way; see `result`."""
        (self._granted if response.granted else self._refused).add(sender)
        if self.result() is VoteResult.LOST:
            self._state.role = Role.FOLLOWER
        if not response.granted and not self._given_up and self._hopeless():
            self._given_up = True
            self._wait_after_loss(now)

    def _hopeless(self) -> bool:
        """Whether the voters that can still answer don't suffice: waiting for one without a link is in vain."""
        voters = self._state.configuration.voters
        silent = {
            voter for voter in voters if voter not in self._granted | self._refused and voter not in self._state.linked
        }
        return tally(voters, self._granted, self._refused | silent) is VoteResult.LOST
