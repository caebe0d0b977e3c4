"""Writes under way to the disk: at most one settling write, and now and then what can wait for the next, alone."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from agent.errors import InvariantBroken
from agent.node.context import Context
from agent.node.effects import Store
from agent.node.instant import Instant
from agent.node.lives import Lives
from agent.node.names import Names
from agent.raft import Persist, Ready

# What no write of consensus carried along is kept on its own after this long: the commit index, since a host that wakes
# alone must know its last assignments, and what is remembered of others' disks.
SETTLES_S = 0.5


class Disk(Struct):
    """Invariant: `ready` is set exactly while a settling `Store` is open."""

    context: Context
    lives: Lives
    names: Names
    kept_commit: int
    ready: Ready | None = None
    settle_at: float = float("inf")

    def deadline(self) -> float:
        """When something is to be written on its own; a write that is under way takes it along."""
        return self.settle_at if self.ready is None else float("inf")

    def store(self, ready: Ready, persist: Persist, verified_through: int) -> None:
        """Write what `ready` must have on disk before the rest of it."""
        self.ready = ready
        self.kept_commit = max(self.kept_commit, persist.commit or 0)
        self.context.emit(Store(persist=self._with_rest(persist), verified_through=verified_through))

    def _with_rest(self, persist: Persist) -> Persist:
        if self.lives.changed or self.names.changed:
            return replace(persist, lives=self.lives.take(), names=self.names.take())
        return persist

    def stored(self) -> Ready:
        """It is on disk. Raises InvariantBroken when there was nothing."""
        ready, self.ready = self.ready, None
        if ready is None:
            raise InvariantBroken("stored() without an open Store")
        return ready

    def keep_rest(self, verified_through: int, when: Instant) -> None:
        """See `SETTLES_S`."""
        commit = self.context.raft.commit
        if commit <= self.kept_commit and not self.lives.changed:
            self.settle_at = float("inf")
        elif self.settle_at == float("inf"):
            self.settle_at = when.mono + SETTLES_S
        elif when.mono >= self.settle_at and self.ready is None:
            self.kept_commit, self.settle_at = commit, float("inf")
            persist = self._with_rest(Persist(commit=commit))
            self.context.emit(Store(persist=persist, verified_through=verified_through, settles=False))
