"""What is on its way to the disk: one settling write at most, and now and then a commit index alone."""

from __future__ import annotations

from msgspec import Struct

from agent.errors import InvariantBroken
from agent.node.context import Context
from agent.node.effects import Store
from agent.node.instant import Instant
from agent.raft import Persist, Ready

# A commit index that no write carried is kept on its own after this long: a host that wakes alone must know its last
# assignments.
COMMIT_SETTLES_S = 0.5


class Disk(Struct):
    """Invariant: `ready` is set exactly while a settling `Store` is open."""

    context: Context
    kept_commit: int
    ready: Ready | None = None
    settle_at: float = float("inf")

    def deadline(self) -> float:
        """When the commit index is to be kept on its own; what is on its way carries it along."""
        return self.settle_at if self.ready is None else float("inf")

    def store(self, ready: Ready, persist: Persist, verified_through: int) -> None:
        """What `ready` has to have kept before the rest of it."""
        self.ready = ready
        self.kept_commit = max(self.kept_commit, persist.commit or 0)
        self.context.emit(Store(persist=persist, verified_through=verified_through))

    def stored(self) -> Ready:
        """It is kept. Raises InvariantBroken when there was nothing."""
        ready, self.ready = self.ready, None
        if ready is None:
            raise InvariantBroken("stored() without an open Store")
        return ready

    def keep_commit(self, verified_through: int, when: Instant) -> None:
        """See `COMMIT_SETTLES_S`."""
        commit = self.context.raft.commit
        if commit <= self.kept_commit:
            self.settle_at = float("inf")
        elif self.settle_at == float("inf"):
            self.settle_at = when.mono + COMMIT_SETTLES_S
        elif when.mono >= self.settle_at and self.ready is None:
            self.kept_commit, self.settle_at = commit, float("inf")
            self.context.emit(Store(persist=Persist(commit=commit), verified_through=verified_through, settles=False))
