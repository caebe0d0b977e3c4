"""`Raft`: one member's consensus, driven from outside. The rules of terms (Raft §5.1) are here, the rest is called."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args

from agent.raft.config import RaftLimits, RaftTiming
from agent.raft.election import Election
from agent.raft.entry import Configuration, Entry, HardState, Snapshot
from agent.raft.errors import NotLeader
from agent.raft.follower import Follower, answer_stale
from agent.raft.handover import Handover
from agent.raft.leadership import Leadership
from agent.raft.log import open_log
from agent.raft.membership import Membership
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
from agent.raft.ready import FollowerStatus, ReadState, Ready, Role
from agent.raft.state import RaftState
from agent.raft.strangers import Strangers

# No honest member is that many elections ahead; a lying one must not use up the numbers there are.
MAX_TERM_JUMP = 2**32


class Raft:
    """One member. Not for several threads; see the package's docstring for the loop around it.

    `hard_state`, `log`, `snapshot`, `commit`: what the storage has. `commit` may be stale. `applied`: what the state
    machine already has; entries after it are handed out again. `configuration`: the genesis's, used while there is no
    snapshot. `verify_snapshots`: an arriving snapshot is offered in `Ready.offered` and installed only by
    `accept_snapshot`. Raises ValueError when what was stored contradicts itself.

    All `now` are seconds on one monotonic clock.
    """

    def __init__(
        self,
        *,
        id: str,
        timing: RaftTiming,
        rng: random.Random,
        now: float,
        hard_state: HardState,
        log: Sequence[Entry],
        configuration: Configuration,
        commit: int,
        applied: int,
        snapshot: Snapshot | None = None,
        limits: RaftLimits | None = None,
        verify_snapshots: bool = False,
    ) -> None:
        membership = (
            Membership(0, configuration) if snapshot is None else Membership(snapshot.index, snapshot.configuration)
        )
        membership.extend(log)
        self._state = RaftState(
            id=id,
            timing=timing,
            limits=limits or RaftLimits(),
            rng=rng,
            hard_state=hard_state,
            log=open_log(log, snapshot, commit, applied),
            membership=membership,
            snapshot=snapshot,
        )
        if self._state.log.last_term > hard_state.term:
            raise ValueError("the log has a later term than the stored one")
        self._now = self._taken_at = now
        self._election = Election(self._state, now)
        self._strangers = Strangers(self._state)
        self._follower = Follower(self._state, verify_snapshots=verify_snapshots)
        self._leadership: Leadership | None = None
        self._handover = Handover(self._state)
        self._handlers: Mapping[type, Callable[[str, Any], None]] = {
            PreVote: self._on_pre_vote,
            ReadIndex: self._on_read_index,
            ReadIndexResponse: self._on_read_index_response,
            Vote: self._on_vote,
            VoteResponse: self._on_vote_response,
            PreVoteResponse: self._on_pre_vote_response,
            TimeoutNow: self._on_timeout_now,
            **dict.fromkeys((Append, Heartbeat, InstallSnapshot), self._on_leader_message),
            **dict.fromkeys(get_args(LeaderAnswer), self._on_leader_answer),
        }

    # --- input -------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message, now: float) -> None:
        """A message from `sender`, whose identity the link proved and whose place in the cluster the shell checked.

        Raises LogDiverged when a leader contradicts what is committed here; the process must end then.
        """
        self._now = now
        if sender == self.id or self.fenced:
            self._state.drop("fenced" if self.fenced else "message from myself")
            return
        if not self._strangers.heard(sender, message, now, trusts_leader=self._trusts_leader):
            return
        if isinstance(message, UNTERMED) or self._settle_term(sender, message):
            self._handlers[type(message)](sender, message)
            self._settle()

    def _settle_term(self, sender: str, message: TermedMessage) -> bool:
        """Raft §5.1: follow a later term, refuse an earlier one. Returns whether the message is of our term now."""
        state = self._state
        if message.term > state.term + MAX_TERM_JUMP:
            state.drop("term out of bounds")
            return False
        if isinstance(message, PreVoteResponse) and message.granted:
            return True
        if message.term > state.term:
            if isinstance(message, Vote) and not message.forced and self._trusts_leader():
                state.drop("vote asked while the leader is well")
                return False
            self._follow(message.term)
        elif message.term < state.term:
            answer_stale(state, sender, message)
            return False
        return True

    def _follow(self, term: int, leader: str | None = None) -> None:
        if self._leadership is not None:
            self._leadership = None
            self._election.wait(self._now)
        self._state.follow(term, leader)

    def _trusts_leader(self) -> bool:
        led = self._election.trusts_leader(self._now) and not self._follower.doubts(self._now)
        return self._leadership.quorum_active(self._now) if self._leadership is not None else led

    def _on_pre_vote(self, sender: str, request: PreVote) -> None:
        self._election.on_pre_vote(sender, request, self._trusts_leader())

    def _on_vote(self, sender: str, request: Vote) -> None:
        self._election.on_vote(sender, request, self._now)

    def _on_pre_vote_response(self, sender: str, response: PreVoteResponse) -> None:
        asked_for = self._state.term + 1 if response.granted else self._state.term
        if self.role is Role.PRE_CANDIDATE and response.term == asked_for:
            self._election.on_response(sender, response, self._now)

    def _on_vote_response(self, sender: str, response: VoteResponse) -> None:
        if self.role is Role.CANDIDATE:
            self._election.on_response(sender, response, self._now)

    def _on_timeout_now(self, sender: str, _: TimeoutNow) -> None:
        if sender == self.leader and self._state.is_voter and not self.is_leader:
            self._election.campaign(self._now, forced=True)
        else:
            self._state.drop("timeout-now from another than the leader")

    def _on_leader_message(self, sender: str, message: LeaderMessage) -> None:
        state = self._state
        known = state.knows(sender)
        if self.is_leader or (self.leader not in (None, sender) and (state.knows_leader or not known)):
            # Raft §5.2 (election safety) rules this out: one of the two lies.
            state.drop("second leader in a term")
            return
        fresh = self.leader != sender
        self._follow(state.term, sender)
        if known or not state.is_voter:
            self._election.heard_leader(self._now)
        elif fresh and state.vote != sender:  # else the vote has done so
            self._election.wait(self._now)  # what a stranger says later doesn't put the own campaign off: it may lie
        was_voter = state.is_voter
        if isinstance(message, Append):
            self._follower.on_append(sender, message)
        elif isinstance(message, Heartbeat):
            self._follower.on_heartbeat(sender, message)
        else:
            self._follower.on_install_snapshot(sender, message, self._now)
        self._settle_voter(was_voter)

    def _settle_voter(self, was_voter: bool) -> None:
        """A promoted member is as patient as the others; a removed one gives up its campaign."""
        if self._state.is_voter and not was_voter:
            self._election.wait(self._now)
        elif was_voter and not self._state.is_voter:
            self._state.follow(self.term, self.leader)
            self._election.awaited.clear()

    def _on_leader_answer(self, sender: str, answer: LeaderAnswer) -> None:
        leadership = self._leadership
        if leadership is None or not leadership.heard(sender, self._now):
            return
        if isinstance(answer, AppendResponse):
            leadership.on_append_response(sender, answer)
        elif isinstance(answer, HeartbeatResponse):
            leadership.on_heartbeat_response(sender, answer, self._now)
        else:
            leadership.on_snapshot_response(sender, answer, self._now)

    def _on_read_index(self, sender: str, request: ReadIndex) -> None:
        if self._leadership is None:
            self._state.drop("read-index while not leading")
        else:
            self._leadership.on_read(sender, request.context)

    def _on_read_index_response(self, sender: str, response: ReadIndexResponse) -> None:
        if sender == self.leader:
            self._state.outbox.reads.append(ReadState(response.context, response.index))

    def _settle(self) -> None:
        """Draw the conclusions: an election won, a leader that isn't a voter any more."""
        state = self._state
        if state.role is Role.PRE_CANDIDATE and self._election.result() is VoteResult.WON:
            self._election.campaign(self._now, forced=False)
        elif state.role is Role.CANDIDATE and self._election.result() is VoteResult.WON:
            state.role, state.leader = Role.LEADER, state.id
            self._leadership = Leadership(state, self._now)
        elif self._leadership is not None and not state.is_voter:
            self._leadership.flush(self._now)
            self._leadership.resign()
            self._follow(state.term)

    # --- requests ----------------------------------------------------------------------------------------------------

    def propose(self, data: bytes, now: float) -> int:
        """Append an entry; returns its index. It is committed when it comes in `Ready.committed` with this term.

        Raises NotLeader, or ProposalDropped when too much is uncommitted or leadership is being handed over.
        """
        self._now = now
        return self._lead().propose(data)

    def propose_configuration(self, configuration: Configuration, now: float) -> int:
        """Change who is a member; returns the entry's index. In force at once, to be relied on when committed.

        Raises NotLeader, ProposalDropped (being handed over) or ConfigurationRefused: more than one voter changes, the
        change before isn't committed, or no entry of this term is (Raft §4.1; Ongaro 2015).
        """
        self._now = now
        return self._lead().propose_configuration(configuration, now)

    def read_index(self, context: bytes, now: float) -> None:
        """Ask from where a read that starts now may be served; the answer comes in `Ready.reads` (Raft §6.4).

        No answer comes when a message is lost or the leader changes: ask again. Raises NotLeader(None) while no leader
        is known, ReadDropped when too many wait.
        """
        self._now = now
        if self._leadership is not None:
            self._leadership.read(context, None)
        elif self.leader is not None:
            self._state.outbox.send_now(self.leader, ReadIndex(context=context))
        else:
            raise NotLeader(None)

    def transfer_leadership(self, to: str | None, now: float) -> str:
        """Hand leadership to the voter `to`, or to the best one; returns who (Raft §3.10 of the thesis).

        No proposals are taken meanwhile. It is given up after an election timeout. Raises NotLeader, TransferRefused.
        """
        self._now = now
        return self._lead().transfer(to, now)

    def peer_linked(self, id: str, now: float) -> None:
        """The shell has a link to `id`."""
        self._now = now
        self._state.linked.add(id)
        self._follower.peer_linked(id)
        if self._leadership is not None:
            self._leadership.peer_linked(id, now)
        else:
            self._election.peer_linked(id, now)

    def await_peers(self, ids: Collection[str], now: float) -> None:
        """At a start: a sole voter that led before is linked with these first, or waits; see `Election.await_peers`."""
        self._election.await_peers(ids, now)

    @property
    def awaited(self) -> frozenset[str]:
        return frozenset(self._election.awaited)

    def peer_unlinked(self, id: str, now: float) -> None:
        """The link to `id` closed. A leader's closed link means most likely that its process is gone."""
        self._now = now
        self._state.linked.discard(id)
        if id == self.leader and self.role is Role.FOLLOWER:
            self._election.lost_leader(now)

    def observe(self, entries: Sequence[Entry], commit: int, now: float) -> None:
        """Take committed entries that a voter streams to this observer, `commit` being that voter's commit index.

        They must begin at or before `commit + 1` of this member's own and agree with what is committed here. Raises
        ObservationRefused otherwise, and when a leader feeds this log already.
        """
        self._now = now
        was_voter = self._state.is_voter
        self._follower.observe(entries, commit)
        self._settle_voter(was_voter)

    def observe_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """Start over from a voter's snapshot (verified by the caller). Raises ObservationRefused as `observe` does."""
        self._now = now
        was_voter = self._state.is_voter
        self._follower.observe_snapshot(snapshot)
        self._settle_voter(was_voter)

    def accept_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """`Ready.offered` is sound: install it, unless the log has passed it in the meantime."""
        self._now = now
        was_voter = self._state.is_voter
        self._follower.accept(snapshot)
        self._settle_voter(was_voter)

    def refuse_snapshot(self, snapshot: Snapshot, now: float, *, again: bool = False) -> None:
        """`Ready.offered` isn't to be believed: forget it. The same isn't gathered in this term, unless `again`."""
        self._now = now
        self._follower.refuse(snapshot, again=again)

    def fence(self, index: int, now: float) -> None:
        """This member's disk went back, from where it had entries up to `index`; see `fenced`."""
        self._now, self._leadership = now, None
        self._state.fence(index)

    def compact(self, index: int, data: bytes, keep_entries: int) -> None:
        """`data` is the state machine at `index` (applied): entries up to it may go, except the last `keep_entries`.

        Raises ValueError when `index` isn't applied yet or not after the last snapshot.
        """
        self._state.compact(index, data, keep_entries)

    # --- time and output ---------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `on_deadline` is due, in seconds of the caller's clock; infinite when nothing is."""
        return self._leadership.deadline if self._leadership is not None else self._election.deadline

    def on_deadline(self, now: float) -> None:
        """Time has passed. Messages that arrived before must have been given to `receive` first."""
        self._now = now
        if now < self.deadline():
            return
        if self._leadership is not None:
            if not self._leadership.on_deadline(now):
                self._follow(self.term)
        elif not self._state.is_voter:
            self._state.leader = None
        elif self._handover.busy and now - self._taken_at >= self._state.timing.election_timeout_min_s:
            # The disk hangs, or what is being applied is huge: who can't store a vote shouldn't ask for any.
            self._election.wait(now)
        else:
            self._election.canvass(now)
            self._settle()

    def has_ready(self) -> bool:
        """Whether `take_ready` has something; never while a Ready is in flight."""
        if self._handover.busy:
            return False
        if self._leadership is not None:
            self._leadership.flush(self._now)
        return not self._handover.is_empty()

    def take_ready(self) -> Ready | None:
        """The next work, or None. It is in flight until `advance`."""
        if not self.has_ready():
            return None
        self._taken_at = self._now
        return self._handover.take()

    def advance(self, ready: Ready, now: float) -> None:
        """`ready` is done: persisted, sent and applied."""
        self._now = now
        self._handover.done(ready)
        self._election.own_vote_persisted()
        if self._leadership is not None:
            self._leadership.advance_commit()
            if ready.persist is not None:
                self._leadership.disk_took(now - self._taken_at, now)
        self._settle()

    # --- what is known -----------------------------------------------------------------------------------------------

    def _lead(self) -> Leadership:
        if self._leadership is None:
            raise NotLeader(self.leader)
        return self._leadership

    @property
    def id(self) -> str:
        return self._state.id

    @property
    def term(self) -> int:
        return self._state.term

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def leader(self) -> str | None:
        """Who leads the current term, as far as this member knows."""
        return self._state.leader

    @property
    def fenced(self) -> bool:
        """Whether this member's disk went back: it takes no part until it has left the configuration."""
        return self._state.fenced_at is not None

    @property
    def is_leader(self) -> bool:
        return self._leadership is not None

    @property
    def leader_since(self) -> float | None:
        """When this member's leadership began."""
        return self._leadership.since if self._leadership is not None else None

    @property
    def commit(self) -> int:
        return self._state.log.commit

    @property
    def applied(self) -> int:
        """What the state machine has: the last entry or snapshot that a finished Ready handed out."""
        return self._state.log.applied

    @property
    def first_index(self) -> int:
        """The first entry that isn't compacted away (it may be one after the last)."""
        return self._state.log.base_index + 1

    @property
    def last_index(self) -> int:
        return self._state.log.last_index

    @property
    def configuration(self) -> Configuration:
        """The one in force, committed or not."""
        return self._state.membership.current

    def configuration_at(self, index: int) -> Configuration:
        """The one in force at an entry behind the snapshot."""
        return self._state.membership.at(index)

    @property
    def configuration_committed(self) -> bool:
        """Whether the configuration in force can't be rolled back any more."""
        return self._state.membership.index <= self._state.log.commit

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest, for an observer that is too far behind."""
        return self._state.snapshot

    @property
    def dropped(self) -> Mapping[str, int]:
        """Messages thrown away, by reason."""
        return self._state.dropped

    def term_at(self, index: int) -> int | None:
        """The term of an entry; None when it is compacted away or isn't there."""
        return self._state.log.term_at(index)

    def entries_between(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        """Committed entries `first … last`, as many as fit into `max_bytes` of data but at least one if there is one.

        Raises Compacted when `first` is before `first_index`: send `snapshot` then.
        """
        return self._state.log.slice(first, min(last, self.commit), max_bytes)

    def entries_behind(self, index: int) -> tuple[Entry, ...]:
        """All entries behind `index`, committed or not. Raises Compacted as `entries_between`."""
        return self._state.log.slice(index + 1, self.last_index, sys.maxsize)

    def quorum_active(self, now: float) -> bool:
        """Whether this member leads and a majority of voters answered within an election timeout."""
        return self._leadership is not None and self._leadership.quorum_active(now)

    def active_members(self, now: float) -> tuple[str, ...]:
        """On a leader: itself and who answered within an election timeout, sorted. On others: nobody."""
        return self._leadership.active_members(now) if self._leadership is not None else ()

    def followers(self, now: float) -> tuple[FollowerStatus, ...]:
        """On a leader: the progress of every other member, sorted by id. On others: nothing."""
        return self._leadership.replication.followers(now) if self._leadership is not None else ()
