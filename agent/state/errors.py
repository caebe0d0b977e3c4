"""What can be wrong with entries and snapshots."""

from __future__ import annotations

from agent.errors import InvariantBroken


class UnknownEntry(InvariantBroken):
    """A committed entry that this version can't read: the agent stops, because guessing would let states differ."""


class SnapshotRefused(Exception):
    """A snapshot that isn't one, whose signatures don't hold, or that is of another cluster. A remote's fault."""
