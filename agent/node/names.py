"""The names of this agent's own newest snapshots, by which it vouches for others' (agent.node.vouching).

They are stored on disk: an agent that restarts with a newer snapshot is still asked about an older one, which a voter
that isn't as far yet was offered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct, field

from agent.model.types import Digest
from agent.raft import SnapshotName

KEPT_NAMES = 16  # of the newest snapshots: one may be on its way for as long as it takes to make that many more

Name = Digest | Literal[""]


class Names(Struct):
    """`changed`: the disk lacks some of it."""

    _by_index: dict[int, Digest] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def of(cls, kept: Iterable[SnapshotName]) -> Names:
        """From what the disk held."""
        return cls({each.index: each.name for each in kept})

    def at(self, index: int) -> Name:
        """The name of our snapshot there; "" for none, or none that we remember."""
        return self._by_index.get(index, "")

    def note(self, index: int, name: Digest) -> None:
        """We took a snapshot."""
        if self._by_index.get(index) != name:
            self._by_index[index] = name
            for older in sorted(self._by_index)[:-KEPT_NAMES]:
                del self._by_index[older]
            self.changed = True

    def take(self) -> tuple[SnapshotName, ...] | None:
        """All of them, to store; None while the disk has them."""
        if not self.changed:
            return None
        self.changed = False
        return tuple(SnapshotName(index, name) for index, name in self._by_index.items())
