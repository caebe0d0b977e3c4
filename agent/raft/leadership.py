"""One term of leadership: proposals, heartbeats, reads, handing over (Raft §5, §6.4, §3.10 of the thesis)."""

from __future__ import annotations

import contextlib
import math

from agent.raft.entry import MAX_ENTRY_BYTES, Configuration, Entry, EntryKind
from agent.raft.errors import ConfigurationRefused, ProposalDropped, ReadDropped, TransferRefused
from agent.raft.membership import check_change
from agent.raft.messages import (
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshotResponse,
    ReadIndexResponse,
    TimeoutNow,
)
from agent.raft.quorum import committed_index, majority
from agent.raft.reads import PendingReads
from agent.raft.ready import ReadState
from agent.raft.replication import Replication
from agent.raft.state import RaftState


class Leadership:
    """Made when an election is won, thrown away when it ends; `since`: seconds, when that was.

    `deadline`: when `on_deadline` has something to do.
    """

    def __init__(self, state: RaftState, now: float) -> None:
        self._state = state
        self.since = now
        self.replication = Replication(state, now)
        self._reads = PendingReads(state.limits.pending_reads)
        self._round = 0
        self._round_wanted = True
        self._heartbeat_at = self._check_at = now + state.timing.heartbeat_s
        self._transfer_to: str | None = None
        self._transfer_until = math.inf
        self._uncommitted_bytes = self._size(state.log.commit + 1, state.log.last_index)
        # Commits the entries of earlier terms with it (Raft §5.4.2), and tells from where reads are safe (§6.4).
        self._append(EntryKind.NOOP, b"")

    def _size(self, first: int, last: int) -> int:
        if first > last:
            return 0
        everything = 2**63
        return sum(len(entry.data) for entry in self._state.log.slice(first, last, everything))

    @property
    def deadline(self) -> float:
        return min(self._heartbeat_at, self._check_at, self._transfer_until)

    @property
    def term_committed(self) -> bool:
        """Whether an entry of this term is committed."""
        return self._state.log.term_at(self._state.log.commit) == self._state.term

    def propose(self, data: bytes) -> int:
        """See `Raft.propose`."""
        log, limits = self._state.log, self._state.limits
        self._check_transfer()
        if len(data) > MAX_ENTRY_BYTES:
            raise ProposalDropped(f"an entry of {len(data)} bytes is over {MAX_ENTRY_BYTES}")
        if log.last_index - log.commit >= limits.uncommitted_entries:
            raise ProposalDropped(f"{log.last_index - log.commit} entries wait for a majority")
        if self._uncommitted_bytes and self._uncommitted_bytes + len(data) > limits.uncommitted_bytes:
            raise ProposalDropped(f"{self._uncommitted_bytes} bytes wait for a majority")
        return self._append(EntryKind.NORMAL, data)

    def propose_configuration(self, configuration: Configuration, now: float) -> int:
        """See `Raft.propose_configuration`."""
        state = self._state
        self._check_transfer()
        if not self.term_committed:
            # Else two leaders could each change by one and have majorities that don't meet (Ongaro, raft-dev, 2015).
            raise ConfigurationRefused("no entry of this term is committed yet")
        if state.membership.index > state.log.commit:
            raise ConfigurationRefused("the change before isn't committed yet")
        check_change(state.configuration, configuration)
        index = self._append(EntryKind.CONFIG, configuration.encode())
        # Who comes was an observer, and observers have what is committed.
        self.replication.reconfigure(now, first_guess=state.log.commit + 1)
        return index

    def _check_transfer(self) -> None:
        if self._transfer_to is not None:
            raise ProposalDropped(f"leadership is going to {self._transfer_to}")

    def _append(self, kind: EntryKind, data: bytes) -> int:
        state = self._state
        entry = Entry(state.log.last_index + 1, state.term, kind, data)
        state.log.append((entry,))
        state.membership.extend((entry,))
        self._uncommitted_bytes += len(data)
        return entry.index

    def transfer(self, to: str | None, now: float) -> str:
        """See `Raft.transfer_leadership`."""
        state = self._state
        to = to or self.replication.best_successor()
        if to is None or to == state.id or to not in state.configuration.voters:
            raise TransferRefused(f"{to} isn't another voter" if to else "there is no other voter")
        self._transfer_to = to
        self._transfer_until = now + state.timing.election_timeout_max_s
        self._finish_transfer()
        return to

    def disk_took(self, seconds: float, now: float) -> None:
        """A write is done: a leader that needs too long for one lets another one lead, if there is one."""
        if seconds >= self._state.timing.slow_persist_s and self._transfer_to is None:
            with contextlib.suppress(TransferRefused):
                self.transfer(None, now)

    def _finish_transfer(self) -> None:
        """The successor must have everything, or it wouldn't be elected; until then proposals stop."""
        to, state = self._transfer_to, self._state
        if to in self.replication.progress and self.replication.progress[to].match == state.log.last_index:
            state.outbox.send_now(to, TimeoutNow(term=state.term))

    def resign(self) -> None:
        """Leave without waiting: this member isn't a voter any more."""
        successor = self.replication.best_successor()
        if successor is not None:
            self._state.outbox.send_now(successor, TimeoutNow(term=self._state.term))

    def read(self, context: bytes, requester: str | None) -> None:
        """See `Raft.read_index`. Raises ReadDropped."""
        commit = self._state.log.commit if self.term_committed else None
        self._reads.add(context, requester, commit=commit, round=self._round + 1)
        self._round_wanted = self._round_wanted or commit is not None

    def on_read(self, requester: str, context: bytes) -> None:
        """Another member's read: over the bound it is dropped, and the member asks again."""
        try:
            self.read(context, requester)
        except ReadDropped:
            self._state.drop("too many reads")

    def heard(self, member: str, now: float) -> bool:
        """`member` answered in this term. Returns whether it is one of ours."""
        progress = self.replication.progress.get(member)
        if progress is None:
            self._state.drop("answer of a member that isn't in the configuration")
            return False
        progress.heard_at = now
        return True

    def on_append_response(self, member: str, response: AppendResponse) -> None:
        self.replication.on_append_response(member, response)
        self.advance_commit()
        if member == self._transfer_to:
            self._finish_transfer()

    def on_heartbeat_response(self, member: str, response: HeartbeatResponse, now: float) -> None:
        self.replication.on_heartbeat_response(member, min(response.round, self._round), now)
        self._answer_reads()

    def on_snapshot_response(self, member: str, response: InstallSnapshotResponse, now: float) -> None:
        self.replication.on_snapshot_response(member, response, now)

    def advance_commit(self) -> None:
        """Something reached a disk: commit what a majority has."""
        log = self._state.log
        before = log.commit
        if self.replication.advance_commit():
            self._uncommitted_bytes -= self._size(before + 1, log.commit)
            if self._reads.term_committed(log.commit, self._round + 1):
                self._round_wanted = True

    def on_deadline(self, now: float) -> bool:
        """Heartbeats, and the end of a transfer that failed. Returns False when a majority was silent for too long:
        somebody else may lead already, so this leader must not go on (CheckQuorum, Raft §6.2)."""
        if now >= self._transfer_until:
            self._transfer_to, self._transfer_until = None, math.inf
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + self._state.timing.heartbeat_s
            self._round_wanted = True
        if now >= self._check_at:
            # Not with the heartbeats: every read sends one and puts the next off, also where nobody answers.
            self._check_at = now + self._state.timing.heartbeat_s
            return self.quorum_active(now)
        return True

    def peer_linked(self, member: str, now: float) -> None:
        """Tell it at once who leads, and find where its log is."""
        if member in self.replication.progress:
            self.replication.relinked(member, now)
            self._round_wanted = True

    def flush(self, now: float) -> None:
        """Queue everything that may go out: once per Ready."""
        if self._round_wanted:
            self._round_wanted = False
            self._round += 1
            for member, progress in self.replication.progress.items():
                commit = min(progress.match, self._state.log.commit)
                self._state.outbox.send_now(member, Heartbeat(term=self._state.term, commit=commit, round=self._round))
            self._heartbeat_at = now + self._state.timing.heartbeat_s
            self._answer_reads()
        self.replication.flush(now)

    def _answer_reads(self) -> None:
        state, progress = self._state, self.replication.progress
        rounds = [self._round if voter == state.id else progress[voter].round for voter in state.configuration.voters]
        for read in self._reads.take_confirmed(committed_index(rounds)):
            if read.requester is None:
                state.outbox.reads.append(ReadState(read.context, read.commit))
            else:
                state.outbox.send_now(read.requester, ReadIndexResponse(context=read.context, index=read.commit))

    def active_members(self, now: float) -> tuple[str, ...]:
        """This member and all others that answered within an election timeout, sorted."""
        since = now - self._state.timing.election_timeout_max_s
        others = [member for member, progress in self.replication.progress.items() if progress.heard_at > since]
        return tuple(sorted([self._state.id, *others]))

    def quorum_active(self, now: float) -> bool:
        """Whether a majority of voters answered within an election timeout."""
        active = self.active_members(now)
        voters = self._state.configuration.voters
        return sum(voter in active for voter in voters) >= majority(len(voters))
