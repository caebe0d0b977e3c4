"""`Raft`: one member's consensus, as its driver sees it: inputs, requests, time, Readys, and queries."""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Mapping, Sequence

from agent.raft.config import RaftLimits, RaftTiming
from agent.raft.entry import Configuration, Entry, HardState, Snapshot
from agent.raft.errors import NotLeader
from agent.raft.handover import Handover
from agent.raft.leadership import Leadership
from agent.raft.log import open_log
from agent.raft.membership import Membership
from agent.raft.messages import Message, ReadIndex
from agent.raft.progress import Progress
from agent.raft.ready import Ready, Role
from agent.raft.roles import Roles
from agent.raft.state import RaftState


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
        self._roles = Roles(self._state, now, verify_snapshots=verify_snapshots)
        self._handover = Handover(self._state)

    # --- input -------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message, now: float) -> None:
        """A message from `sender`, whose identity the link proved and whose place in the cluster the shell checked.

        Raises LogDiverged when a leader contradicts what is committed here; the process must end then.
        """
        self._now = now
        self._roles.receive(sender, message, now)

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
        if (leadership := self._roles.leadership) is not None:
            leadership.read(context, None)
        elif self.leader is not None:
            self._state.outbox.send_now(self.leader, ReadIndex(context=context))
        else:
            raise NotLeader(None)

    def transfer_leadership(self, to: str | None, now: float) -> str:
        """Hand leadership to the voter `to`, or to the best one; returns which (Raft §3.10 of the thesis).

        No proposals are accepted meanwhile. It is given up after an election timeout. Raises NotLeader,
        TransferRefused.
        """
        self._now = now
        return self._lead().transfer(to, now)

    def peer_linked(self, id: str, now: float) -> None:
        """The shell has a link to `id`."""
        self._now = now
        self._state.linked.add(id)
        roles = self._roles
        roles.follower.peer_linked(id)
        if roles.leadership is not None:
            roles.leadership.peer_linked(id, now)
        else:
            roles.election.peer_linked(id, now)

    def await_peers(self, ids: Collection[str], now: float) -> None:
        """At a start: a sole voter that led before is linked with these first, or waits; see `Election.await_peers`."""
        self._roles.election.await_peers(ids, now)

    @property
    def awaited(self) -> frozenset[str]:
        return frozenset(self._roles.election.awaited)

    def peer_unlinked(self, id: str, now: float) -> None:
        """The link to `id` closed. A leader's closed link means most likely that its process is gone."""
        self._now = now
        self._state.linked.discard(id)
        if id == self.leader and self.role is Role.FOLLOWER:
            self._roles.election.lost_leader(now)

    def observe(self, entries: Sequence[Entry], commit: int, now: float) -> None:
        """Take committed entries that a voter streams to this observer, `commit` being that voter's commit index.

        They must begin at or before `commit + 1` of this member's own and agree with what is committed here. Raises
        ObservationRefused otherwise, and when a leader feeds this log already.
        """
        self._now = now
        was_voter = self._state.is_voter
        self._roles.follower.observe(entries, commit)
        self._roles.settle_voter(was_voter, now)

    def observe_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """Start over from a voter's snapshot (verified by the caller). Raises ObservationRefused as `observe` does."""
        self._now = now
        was_voter = self._state.is_voter
        self._roles.follower.observe_snapshot(snapshot)
        self._roles.settle_voter(was_voter, now)

    def accept_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """`Ready.offered` is sound: install it, unless the log has passed it in the meantime."""
        self._now = now
        was_voter = self._state.is_voter
        self._roles.follower.accept(snapshot)
        self._roles.settle_voter(was_voter, now)

    def refuse_snapshot(self, snapshot: Snapshot, now: float, *, again: bool = False) -> None:
        """`Ready.offered` isn't to be believed: forget it. The same isn't gathered in this term, unless `again`."""
        self._now = now
        self._roles.follower.refuse(snapshot, again=again)

    def fence(self, index: int, now: float) -> None:
        """This member's disk went back; it had entries up to `index`. See `fenced`."""
        self._now = now
        self._roles.fence(index)

    def retire(self, now: float) -> None:
        """This member was expelled, which nobody who leads will tell it: it neither campaigns nor votes any more."""
        self._now = now
        self._roles.retire()

    def compact(self, index: int, data: bytes, keep_entries: int) -> None:
        """`data` is the state machine at `index` (applied): entries up to it may go, except the last `keep_entries`.

        Raises ValueError when `index` isn't applied yet or not after the last snapshot.
        """
        self._state.compact(index, data, keep_entries)

    # --- time and output ---------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `on_deadline` is due, in seconds of the caller's clock; infinite when nothing is."""
        roles = self._roles
        return roles.leadership.deadline if roles.leadership is not None else roles.election.deadline

    def on_deadline(self, now: float) -> None:
        """Time has passed. Messages that arrived before must have been given to `receive` first."""
        self._now = now
        if now < self.deadline():
            return
        roles = self._roles
        if roles.leadership is not None:
            if not roles.leadership.on_deadline(now):
                roles.follow(self.term, None, now)
        elif not self._state.is_voter:
            self._state.leader = None
        elif self._handover.busy and now - self._taken_at >= self._state.timing.election_timeout_min_s:
            # The disk hangs, or what is being applied is huge: who can't store a vote shouldn't ask for any.
            roles.election.wait(now)
        else:
            roles.election.canvass(now)
            roles.settle(now)

    def has_ready(self) -> bool:
        """Whether `take_ready` has something; never while a Ready is in flight."""
        if self._handover.busy:
            return False
        if (leadership := self._roles.leadership) is not None:
            leadership.flush(self._now)
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
        roles = self._roles
        roles.election.own_vote_persisted()
        if roles.leadership is not None:
            roles.leadership.advance_commit()
            if ready.persist is not None:
                roles.leadership.disk_took(now - self._taken_at, now)
        roles.settle(now)

    # --- what is known -----------------------------------------------------------------------------------------------

    def _lead(self) -> Leadership:
        if (leadership := self._roles.leadership) is None:
            raise NotLeader(self.leader)
        return leadership

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
        return self._roles.leadership is not None

    @property
    def leader_since(self) -> float | None:
        """When this member's leadership began."""
        leadership = self._roles.leadership
        return leadership.since if leadership is not None else None

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
        """The one in force at an entry after the snapshot."""
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
        """All entries after `index`, committed or not. Raises Compacted as `entries_between`."""
        return self._state.log.slice(index + 1, self.last_index, sys.maxsize)

    def quorum_active(self, now: float) -> bool:
        """Whether this member leads and a majority of voters answered within an election timeout."""
        leadership = self._roles.leadership
        return leadership is not None and leadership.quorum_active(now)

    def active_members(self, now: float) -> tuple[str, ...]:
        """On a leader: itself and those that answered within an election timeout, sorted. On others: nobody."""
        leadership = self._roles.leadership
        return leadership.active_members(now) if leadership is not None else ()

    def followers(self) -> Mapping[str, Progress]:
        """On a leader: the progress of every other member, sorted by id. On others: nothing."""
        leadership = self._roles.leadership
        return leadership.replication.progress if leadership is not None else {}
