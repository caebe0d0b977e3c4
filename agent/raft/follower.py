"""What a member takes from a leader, or as an observer from a voter: entries, commit index, snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent.raft.entry import Entry, Snapshot
from agent.raft.errors import LogDiverged, ObservationRefused
from agent.raft.log import follows
from agent.raft.membership import configuration_in
from agent.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    LeaderMessage,
    TermedMessage,
    Vote,
    VoteResponse,
)
from agent.raft.ready import Role
from agent.raft.state import RaftState


class _Acknowledged(NamedTuple):
    """To whom, in which term, up to which entry."""

    leader: str
    term: int
    last: int


class _Unbelieved(NamedTuple):
    """In which term, up to which entry, and since when (monotonic seconds)."""

    term: int
    up_to: int
    since: float


class Follower:
    """The log's side of the protocol. The caller has settled terms and who leads before it hands a message in."""

    def __init__(self, state: RaftState, *, verify_snapshots: bool) -> None:
        self._state = state
        self._verify_snapshots = verify_snapshots
        self._arriving: tuple[int, int] | None = None
        self._buffer = bytearray()
        self._offered: Snapshot | None = None
        self._gathered_in = 0
        self._refused: tuple[int, int, int] | None = None
        self._acknowledged: _Acknowledged | None = None
        self._unbelieved: _Unbelieved | None = None

    def peer_linked(self, peer: str) -> None:
        """What was on its way to `peer` may be lost."""
        if self._acknowledged is not None and self._acknowledged.leader == peer:
            self._acknowledged = None

    def on_append(self, leader: str, append: Append) -> None:
        """Raft §5.3. Raises LogDiverged when one of our voters contradicts a committed entry.

        Anybody else who does so may be lying, which is no reason to stop.
        """
        try:
            self._take(leader, append)
        except LogDiverged:
            if leader in self._state.membership.current.voters:
                raise
            self._state.drop("contradicts what is committed")

    def _take(self, leader: str, append: Append) -> None:
        state, log = self._state, self._state.log
        if not follows(append.entries, append.prev_index, append.prev_term, append.term) or not _readable(
            append.entries
        ):
            state.drop("malformed append")
            return
        if append.prev_index >= log.base_index and log.term_at(append.prev_index) != append.prev_term:
            self._refuse(leader, append)
            return
        self._merge(append.entries)
        last = append.prev_index + len(append.entries)
        # Only what this message vouched for may be committed: what follows `last` may be another leader's leftover.
        commits = log.commit_to(min(append.commit, last))
        told = self._acknowledged
        known = told is not None and told[:2] == (leader, state.term) and last <= told.last
        if known and commits and not append.entries:
            return  # it tells what is committed, and asks nothing; one that asks comes again, and commits nothing new
        self._acknowledged = _Acknowledged(leader, state.term, last)
        state.outbox.send_after_persist(leader, AppendResponse(term=state.term, accepted=True, index=last))

    def _refuse(self, leader: str, append: Append) -> None:
        state, log = self._state, self._state.log
        if append.prev_index <= log.commit:
            raise LogDiverged(
                f"entry {append.prev_index} is committed with term {log.term_at(append.prev_index)}, "
                f"and {leader} has it with term {append.prev_term}"
            )
        self._acknowledged = None
        hint_index, hint_term = log.last_possible_match(append.prev_index, append.prev_term)
        refusal = AppendResponse(
            term=state.term, accepted=False, index=append.prev_index, hint_index=hint_index, hint_term=hint_term
        )
        state.outbox.send_after_persist(leader, refusal)

    def _merge(self, entries: Sequence[Entry]) -> None:
        state = self._state
        truncated_from = state.log.merge(entries)
        if truncated_from is not None:
            state.membership.truncate(truncated_from)
        state.membership.extend(entries)

    def on_heartbeat(self, leader: str, heartbeat: Heartbeat) -> None:
        """Answered before the disk: the answer only promises that this member follows `leader` just now.

        The commit index in it never passes what this member acknowledged to this leader.
        """
        state, log = self._state, self._state.log
        if heartbeat.commit > log.last_index:
            state.drop("heartbeat commits what isn't here")
            return
        log.commit_to(heartbeat.commit)
        state.outbox.send_now(leader, HeartbeatResponse(term=state.term, round=heartbeat.round))

    def on_install_snapshot(self, leader: str, chunk: InstallSnapshot, now: float) -> None:
        """Gather a snapshot's chunks (Raft fig. 5.3); each answer says from where to go on."""
        state, log = self._state, self._state.log
        if log.term_at(chunk.index) == chunk.snapshot_term:
            # Everything up to it is here already, and a snapshot holds committed entries only.
            log.commit_to(chunk.index)
        if chunk.index <= log.commit:
            response = AppendResponse(term=state.term, accepted=True, index=chunk.index)
            state.outbox.send_after_persist(leader, response)
            return
        too_long = chunk.total > state.limits.snapshot_bytes or chunk.offset + len(chunk.data) > chunk.total
        if too_long or chunk.snapshot_term > chunk.term:
            state.drop("snapshot out of bounds")
            return
        name = (chunk.index, chunk.snapshot_term)
        if self._refused == (state.term, *name):
            state.drop("snapshot refused before")
        elif self._offered is not None and (self._offered.index, self._offered.term) == name:
            self._ask_on(leader, chunk.index, chunk.total)
        else:
            self._gather(leader, chunk, name, now)

    def _gather(self, leader: str, chunk: InstallSnapshot, name: tuple[int, int], now: float) -> None:
        if self._arriving != name:
            self._arriving, self._offered = name, None
            self._buffer.clear()
        if chunk.offset == len(self._buffer):
            self._buffer += chunk.data
        if len(self._buffer) < chunk.total or chunk.offset > len(self._buffer):
            self._ask_on(leader, chunk.index, len(self._buffer))
            return
        snapshot = Snapshot(
            index=chunk.index,
            term=chunk.snapshot_term,
            configuration=chunk.configuration,
            data=bytes(self._buffer[: chunk.total]),
        )
        self._arriving = None
        self._buffer.clear()
        if self._verify_snapshots:
            self._offered = self._state.outbox.offered = snapshot
            self._gathered_in = self._state.term
            earlier = self._awaited()
            self._unbelieved = _Unbelieved(self._state.term, snapshot.index, now if earlier is None else earlier.since)
            self._ask_on(leader, chunk.index, chunk.total)
        else:
            self._reach(snapshot)
            self._confirm(snapshot)

    def _awaited(self) -> _Unbelieved | None:
        """What this leader offered, as long as it is needed and not believed."""
        offered = self._unbelieved
        if offered is None or offered.term != self._state.term or offered.up_to <= self._state.log.commit:
            return None
        return offered

    def doubts(self, now: float) -> bool:
        """Whether this leader's snapshots, complete as they came, haven't been believed for `unbelieved_s`.

        It then leads this member nowhere, although it is heard: another one has to be elected, and this member mustn't
        be in the way.
        """
        awaited = self._awaited()
        return awaited is not None and now - awaited.since >= self._state.timing.unbelieved_s

    def _ask_on(self, leader: str, index: int, offset: int) -> None:
        self._state.outbox.send_now(leader, InstallSnapshotResponse(term=self._state.term, index=index, offset=offset))

    def _confirm(self, snapshot: Snapshot) -> None:
        state = self._state
        if state.leader is not None:
            response = AppendResponse(term=state.term, accepted=True, index=snapshot.index)
            state.outbox.send_after_persist(state.leader, response)

    def accept(self, snapshot: Snapshot) -> None:
        """The offered snapshot is sound. One that the log has passed in the meantime is forgotten."""
        if self._offered != snapshot or self._state.role is Role.LEADER:
            return
        self._offered = None
        if snapshot.index > self._state.log.commit:
            self._reach(snapshot)
            self._confirm(snapshot)

    def refuse(self, snapshot: Snapshot, *, again: bool) -> None:
        """The offered snapshot isn't to be believed; this leader's isn't gathered again, a later one is.

        `again`: nobody came to judge it, so this one is as well.
        """
        if self._offered != snapshot:
            return
        self._offered = None
        if not again:
            self._refused = (self._gathered_in, snapshot.index, snapshot.term)

    def _reach(self, snapshot: Snapshot) -> None:
        """Commit what it holds. A log that has its last entry keeps those that follow, as they may have been
        acknowledged: a later leader can bring them while the snapshot is looked into (Raft fig. 5.3, step 6).
        """
        log = self._state.log
        if log.term_at(snapshot.index) == snapshot.term:
            log.commit_to(snapshot.index)
        else:
            self._restore(snapshot)

    def _restore(self, snapshot: Snapshot) -> None:
        state = self._state
        state.log.restore(snapshot.index, snapshot.term)
        self._acknowledged = None
        state.membership.restore(snapshot.index, snapshot.configuration)
        state.snapshot = snapshot
        state.outbox.snapshot = state.outbox.restore = snapshot
        state.outbox.compact_to = None

    def observe(self, entries: Sequence[Entry], commit: int) -> None:
        """See `Raft.observe`."""
        log = self._state.log
        self._check_observer()
        if not entries:
            return
        first, last = entries[0], entries[-1]
        previous_term = log.term_at(first.index - 1)
        if first.index > log.commit + 1 or previous_term is None:
            raise ObservationRefused(f"entries begin at {first.index}; wanted from {log.commit + 1}")
        if last.index > commit:
            raise ObservationRefused("entries go beyond the commit index told")
        if not follows(entries, first.index - 1, previous_term, last.term) or not _readable(entries):
            raise ObservationRefused("entries aren't contiguous or can't be read")
        for entry in entries:
            if entry.index <= log.commit and log.term_at(entry.index) != entry.term:
                raise ObservationRefused(f"entry {entry.index} contradicts the one committed here")
        self._merge(entries)
        log.commit_to(last.index)
        self._reach_term(last.term)
        self._state.lift_fence()

    def observe_snapshot(self, snapshot: Snapshot) -> None:
        """See `Raft.observe_snapshot`."""
        self._check_observer()
        if snapshot.index <= self._state.log.commit:
            raise ObservationRefused(f"snapshot at {snapshot.index} is behind {self._state.log.commit}")
        self._reach(snapshot)
        self._reach_term(snapshot.term)
        self._state.lift_fence()

    def _check_observer(self) -> None:
        state = self._state
        if state.role is Role.LEADER or (state.is_voter and state.leader is not None):
            raise ObservationRefused("a leader feeds this log")

    def _reach_term(self, term: int) -> None:
        """A log never holds a later term than its member's own (Raft fig. 3.2)."""
        if term > self._state.term:
            self._state.follow(term, None)


def answer_stale(state: RaftState, sender: str, message: TermedMessage) -> None:
    """A leader of an earlier term must hear that it is over, or a member ahead of it never gets back in."""
    if isinstance(message, LeaderMessage):
        refusal = AppendResponse(term=state.term, accepted=False, index=0)
        state.outbox.send_after_persist(sender, refusal)
    elif isinstance(message, Vote):
        state.outbox.send_after_persist(sender, VoteResponse(term=state.term, granted=False))


def _readable(entries: Sequence[Entry]) -> bool:
    try:
        for entry in entries:
            configuration_in(entry)
    except ValueError:
        return False
    return True
