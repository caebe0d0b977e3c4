"""What the Raft core raises. All but `LogDiverged` are for the caller to act on."""

from __future__ import annotations

from agent.errors import InvariantBroken


class RaftError(Exception):
    """A call that can't be served now; nothing changed."""


class NotLeader(RaftError):
    """Only a leader can do this; `leader` is the member to ask, or None while nobody leads."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"not the leader; leader is {leader or 'unknown'}")
        self.leader = leader


class ProposalDropped(RaftError):
    """The leader takes no entry now: too much is uncommitted, leadership is being handed over, or it is too large."""


class ConfigurationRefused(RaftError):
    """A change of members that isn't safe, or not yet (Raft §4.1, Ongaro 2015)."""


class TransferRefused(RaftError):
    """Leadership can't go to that member."""


class ReadDropped(RaftError):
    """Too many reads wait for confirmation."""


class ObservationRefused(RaftError):
    """Streamed entries or a snapshot don't fit onto this log; ask for them again from `commit + 1`."""


class Compacted(RaftError):
    """These entries are in the snapshot now."""


class LogDiverged(InvariantBroken):
    """A leader contradicts a committed entry: going on would roll back what was promised (Raft §5.4.3, fig. 3)."""
