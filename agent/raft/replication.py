"""How a leader brings its log to the others and learns what is committed (Raft §5.3, §5.4.2, §5.1 of the thesis)."""

from __future__ import annotations

from agent.raft.entry import Entry
from agent.raft.messages import Append, AppendResponse, InstallSnapshot, InstallSnapshotResponse
from agent.raft.progress import Progress, ProgressState
from agent.raft.quorum import committed_index
from agent.raft.state import RaftState


class Replication:
    """The progress of every other member, for one term of leadership.

    `_leaving`: members that the configuration in force no longer has. They are told once that is committed, and not
    before: until then the others may need their votes, which they don't give to a shorter log (thesis §4.2.2).
    """

    def __init__(self, state: RaftState, now: float) -> None:
        self._state = state
        self.progress: dict[str, Progress] = {}
        self._leaving: dict[str, Progress] = {}
        self.reconfigure(now, first_guess=state.log.last_index + 1)

    def reconfigure(self, now: float, *, first_guess: int) -> None:
        """Follow the configuration in force: begin with members that came, forget those that left.

        `first_guess`: the first entry that newcomers are believed to lack.
        """
        state = self._state
        known = self.progress
        self._leaving = {member: known[member] for member in known if member not in state.configuration}
        self.progress = {}
        for member in state.configuration.members:
            if member != state.id:
                self.progress[member] = known.get(member) or Progress(
                    next=first_guess,
                    now=now,
                    max_messages=state.limits.inflight_messages,
                    max_bytes=state.limits.inflight_bytes,
                )

    def flush(self, now: float) -> None:
        """Queue whatever each member may be sent. Called once per Ready, so that proposals travel in batches."""
        last_index, commit = self._state.log.last_index, self._state.log.commit
        for member, progress in self.progress.items():
            # Mostly everything went out, down to the commit index.
            if (
                progress.next <= last_index
                or progress.sent_commit < commit
                or progress.check
                or progress.state is not ProgressState.REPLICATE
            ):
                self._feed(member, progress, now)
        if self._leaving and self._state.membership.index <= commit:
            for member, progress in self._leaving.items():
                self._feed(member, progress, now)
            self._leaving.clear()

    def _feed(self, member: str, progress: Progress, now: float) -> None:
        log, limits = self._state.log, self._state.limits
        if progress.check:
            self._check(member, progress)
        while progress.ready_for_entries():
            previous_term = log.term_at(progress.next - 1)
            if previous_term is None:
                self._begin_snapshot(member, progress, now)
                return
            entries: tuple[Entry, ...] = ()
            if progress.next <= log.last_index:
                entries = log.slice(progress.next, log.last_index, limits.append_bytes, limits.append_entries)
            news_of_commit = progress.sent_commit < min(log.commit, progress.next - 1)
            if not entries and not news_of_commit and progress.state is ProgressState.REPLICATE:
                break
            self._append(member, progress, previous_term, entries)

    def _append(self, member: str, progress: Progress, previous_term: int, entries: tuple[Entry, ...]) -> None:
        commit = self._state.log.commit
        previous = progress.next - 1
        append = Append(
            term=self._state.term, prev_index=previous, prev_term=previous_term, commit=commit, entries=entries
        )
        self._state.outbox.send_now(member, append)
        progress.sent(previous + len(entries), sum(len(entry.data) for entry in entries), commit)

    def _check(self, member: str, progress: Progress) -> None:
        """An empty Append behind everything sent: refused when something before it was lost."""
        previous_term = self._state.log.term_at(progress.next - 1)
        if previous_term is None:
            # What is on its way was compacted meanwhile; find out where the follower is, and send a snapshot.
            progress.become_probe()
        else:
            self._append(member, progress, previous_term, ())

    def _begin_snapshot(self, member: str, progress: Progress, now: float) -> None:
        snapshot = self._state.snapshot
        assert snapshot is not None, "a log is compacted behind a snapshot only"
        progress.become_snapshot(snapshot, now)
        self._send_chunk(member, progress, now)

    def _send_chunk(self, member: str, progress: Progress, now: float) -> None:
        snapshot = progress.snapshot
        assert snapshot is not None
        chunk = InstallSnapshot(
            term=self._state.term,
            index=snapshot.index,
            snapshot_term=snapshot.term,
            configuration=snapshot.configuration,
            offset=progress.offset,
            total=len(snapshot.data),
            data=snapshot.data[progress.offset : progress.offset + self._state.limits.chunk_bytes],
        )
        progress.chunk_sent_at = now
        progress.chunk_sends += 1
        self._state.outbox.send_now(member, chunk)

    def on_append_response(self, member: str, response: AppendResponse) -> None:
        """Move `member`'s progress (Raft §5.3); commits nothing by itself."""
        state, progress = self._state, self.progress[member]
        if response.accepted:
            if response.index > state.log.last_index:
                state.drop("accepted what was never sent")
                return
            progress.accepted(response.index)
            if progress.state is ProgressState.SNAPSHOT and progress.match >= state.log.base_index:
                progress.become_probe()
        else:
            possible, _ = state.log.last_possible_match(response.hint_index, response.hint_term)
            progress.refused(response.index, possible)

    def on_snapshot_response(self, member: str, response: InstallSnapshotResponse, now: float) -> None:
        """Go on from where the follower is; it may have lost what it had."""
        progress = self.progress[member]
        snapshot = progress.snapshot
        if snapshot is None or snapshot.index != response.index or response.offset > len(snapshot.data):
            return
        if response.offset == progress.offset < len(snapshot.data):
            return  # to a chunk that went out twice: what it asks for is on its way
        progress.chunk_answered(response.offset, now)
        if response.offset < len(snapshot.data):
            self._send_chunk(member, progress, now)

    def on_heartbeat_response(self, member: str, round: int, now: float) -> None:
        """A sign of life: whatever seems lost goes out again."""
        progress = self.progress[member]
        progress.answered_heartbeat(round, self._state.log.last_index)
        if progress.state is ProgressState.SNAPSHOT:
            self._retry_snapshot(member, progress, now)

    def _retry_snapshot(self, member: str, progress: Progress, now: float) -> None:
        """A chunk that a slow link still carries mustn't be sent again and again: each repetition waits longer."""
        newest, timing = self._state.snapshot, self._state.timing
        assert progress.snapshot is not None
        assert newest is not None
        delivered = progress.offset >= len(progress.snapshot.data)  # then there is nothing to carry, only to ask
        longer_s = 0.0 if delivered else progress.chunk_patience_s
        patience_s = min(max(timing.snapshot_retry_s, longer_s), timing.snapshot_retry_max_s)
        if now - progress.chunk_sent_at < patience_s:
            return
        if not delivered:
            progress.chunk_patience_s = 2 * patience_s
        if delivered and newest.index > progress.snapshot.index:
            # Delivered and not installed: the follower doesn't believe it. The next may be sound.
            progress.become_snapshot(newest, now)
        self._send_chunk(member, progress, now)

    def relinked(self, member: str, now: float) -> None:
        """The link is a new one: what was on the old one is lost."""
        progress = self.progress.get(member)
        if progress is None:
            return
        if progress.state is ProgressState.SNAPSHOT:
            progress.chunk_first_at, progress.chunk_sends = now, 0
            self._send_chunk(member, progress, now)
        elif progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        else:
            progress.paused = False

    def advance_commit(self) -> bool:
        """Commit what a majority of voters has on disk, if its term is the current one (Raft §5.4.2, fig. 8)."""
        state = self._state
        log = state.log
        acknowledged = [
            log.persisted if voter == state.id else self.progress[voter].match for voter in state.configuration.voters
        ]
        index = committed_index(acknowledged)
        return index > log.commit and log.term_at(index) == state.term and log.commit_to(index)

    def best_successor(self) -> str | None:
        """The voter whose log is the longest; linked ones first."""
        state = self._state
        others = [voter for voter in state.configuration.voters if voter != state.id]
        return max(others, key=lambda voter: (voter in state.linked, self.progress[voter].match), default=None)
