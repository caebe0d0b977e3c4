"""What a leader knows of one follower's log, and what it may send next (after etcd raft's `tracker.Progress`)."""

from __future__ import annotations

import enum
from collections import deque

from agent.raft.entry import Snapshot


class ProgressState(enum.Enum):
    """How a follower is fed."""

    PROBE = "probe"
    """Where the logs agree isn't known: one Append at a time."""
    REPLICATE = "replicate"
    """Appends are pipelined within the window."""
    SNAPSHOT = "snapshot"
    """What it needs next is compacted: a snapshot goes out in chunks."""


class Inflight:
    """Appends sent and not answered: (last index, bytes) in order, bounded in messages and in bytes.

    Another may start while `bytes` is below its bound, so a single large entry always gets through.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._sent: deque[tuple[int, int]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        return len(self._sent) >= self._max_messages or self.bytes >= self._max_bytes

    def add(self, last_index: int, size: int) -> None:
        """Indices must grow."""
        assert not self._sent or self._sent[-1][0] < last_index, "appends are sent in order"
        self._sent.append((last_index, size))
        self.bytes += size

    def free_to(self, index: int) -> None:
        """The follower has everything up to `index`."""
        while self._sent and self._sent[0][0] <= index:
            self.bytes -= self._sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self.bytes = 0


class Progress:
    """Invariant: 0 <= match < next.

    `match`: known to be on the follower's disk. `next`: the first entry not sent yet. `paused`: a probe is on its way.
    `sent_commit`: the highest commit index told. `heard_at`: seconds, when it last answered in this term. `round`: the
    last heartbeat round it answered. `snapshot` with `offset`: what is being sent, from where on. That chunk went out
    first at `chunk_first_at`, last at `chunk_sent_at`, and `chunk_sends` times; it isn't called lost before
    `chunk_patience_s`.
    """

    def __init__(self, *, next: int, now: float, max_messages: int, max_bytes: int) -> None:
        self.match = 0
        self.next = next
        self.state = ProgressState.PROBE
        self.paused = False
        self.check = False
        self.sent_commit = 0
        self.heard_at = now
        self.round = 0
        self.inflight = Inflight(max_messages, max_bytes)
        self.snapshot: Snapshot | None = None
        self.offset = 0
        self.chunk_sent_at = self.chunk_first_at = now
        self.chunk_patience_s = 0.0
        self.chunk_sends = 0
        self._match_at_heartbeat = 0

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.paused = self.check = False
        self.inflight.clear()
        self.snapshot, self.offset = None, 0

    def become_probe(self) -> None:
        """Forget what is on its way; find again where the logs agree."""
        self._enter(ProgressState.PROBE)
        self.next = self.match + 1
        self.sent_commit = min(self.sent_commit, self.match)

    def become_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """Send `snapshot`, whose index is after `match`."""
        self._enter(ProgressState.SNAPSHOT)
        self.snapshot = snapshot
        self.next = max(snapshot.index, self.match) + 1
        self.chunk_sent_at = self.chunk_first_at = now
        self.chunk_sends = 0

    def chunk_answered(self, offset: int, now: float) -> None:
        """It wants what is from `offset` on. The chunk before may still be on its way as often as it was repeated, and
        the next one is behind that; so may the answer have been to the first (RFC 6298 §3, Karn's algorithm)."""
        if offset > self.offset:
            self.chunk_patience_s = (now - self.chunk_first_at) * (self.chunk_sends + 1)
        self.offset = offset
        self.chunk_sent_at = self.chunk_first_at = now
        self.chunk_sends = 0

    def ready_for_entries(self) -> bool:
        """Whether an Append with entries may go out now."""
        if self.state is ProgressState.PROBE:
            return not self.paused
        return self.state is ProgressState.REPLICATE and not self.inflight.full

    def sent(self, last_index: int, size: int, commit: int) -> None:
        """An Append up to `last_index` (>= next - 1) with `size` bytes of data left."""
        self.check = False
        self.sent_commit = max(self.sent_commit, min(commit, last_index))
        if self.state is ProgressState.PROBE:
            self.paused = True
        elif last_index >= self.next:
            self.next = last_index + 1
            self.inflight.add(last_index, size)

    def accepted(self, index: int) -> bool:
        """The follower's log agrees up to `index`, on disk. Returns whether that is more than was known."""
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        self.inflight.free_to(index)
        if self.state is ProgressState.PROBE or (self.snapshot is not None and self.match >= self.snapshot.index):
            self._enter(ProgressState.REPLICATE)
            self.next = self.match + 1
        return news

    def refused(self, prev_index: int, possible: int) -> bool:
        """The Append after `prev_index` didn't fit; `possible` is the last index where the logs may still agree.

        Returns False for a refusal that is out of date: of something the follower acknowledged since, or not of the
        probe on its way.
        """
        if prev_index <= self.match or self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.PROBE and prev_index != self.next - 1:
            return False
        self._enter(ProgressState.PROBE)
        self.next = max(min(prev_index, possible + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True

    def answered_heartbeat(self, round: int, last_index: int) -> None:
        """It is alive: look for a lost Append, at once while probing, else when nothing moved since its last answer.

        Without its entries: heartbeats overtake what a slow link still carries, and must not make it more.
        """
        self.round = max(self.round, round)
        if self.state is ProgressState.PROBE:
            self.check = self.paused
        elif self.state is ProgressState.REPLICATE and self.match < last_index:
            self.check = self.match == self._match_at_heartbeat
        self._match_at_heartbeat = self.match
