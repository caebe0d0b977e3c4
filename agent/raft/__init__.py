"""Raft without I/O: input, time and output only.

Nothing in here opens a socket, reads a clock or a file, logs, or draws from a global random generator. `now` is seconds
on a monotonic clock. A driver owns one `Raft` and runs exactly this loop, from one task:

    raft = Raft(id=me, timing=RaftTiming.lan(), rng=random.Random(), now=clock(), hard_state=hard_state,
                log=entries, configuration=genesis_configuration, snapshot=snapshot, commit=commit, applied=applied)
    while True:
        for sender, message in await inbox.drained_or(raft.deadline()):   # sockets first, also after a stall …
            raft.receive(sender, message, clock())
        if clock() >= raft.deadline():                                    # … and only then the timer
            raft.on_deadline(clock())
        while (ready := raft.take_ready()) is not None:
            send(ready.send_now)                     # may leave before the disk
            if ready.persist is not None:
                await storage.commit(ready.persist)  # one transaction, fsync; an error ends the process
            send(ready.send_after_persist)           # what promises something that is on disk now
            if ready.restore is not None:
                machine.load(ready.restore)
            for entry in ready.committed:            # on this member's disk already
                machine.apply(entry)
            answer(ready.reads)                      # each waits until its index is applied
            raft.advance(ready, clock())

One Ready is in flight at most. While the disk works, `receive`, `propose` and all other calls are welcome; what they
cause gathers for the next Ready, so that one fsync serves many entries. A message of an expelled member or of another
cluster must be dropped before `receive`.

`core` is what a driver sees. Behind it `roles` knows the terms and hands each message to the part of the role that it
is for: `election`, `follower`, or `leadership` with `replication` and `reads`; `strangers` says who is heard at all.
They share one `state`, with the `log` and the `membership` in it, and `handover` makes Readys of what they left there.

A first start: every member has the genesis entry (index 1, term 0) in its log: `log=[genesis], commit=1`,
`hard_state=HardState()`; `applied=0` has it handed out for applying.
"""

from agent.raft.config import RaftLimits, RaftTiming
from agent.raft.core import Raft
from agent.raft.entry import (
    MAX_ENTRY_BYTES,
    Boot,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Life,
    Snapshot,
    SnapshotName,
)
from agent.raft.errors import (
    Compacted,
    ConfigurationRefused,
    LogDiverged,
    NotLeader,
    ObservationRefused,
    ProposalDropped,
    RaftError,
    ReadDropped,
    TransferRefused,
)
from agent.raft.messages import Message
from agent.raft.ready import Envelope, Persist, ReadState, Ready, Role, SoftState

__all__ = [
    "MAX_ENTRY_BYTES",
    "Boot",
    "Compacted",
    "Configuration",
    "ConfigurationRefused",
    "Entry",
    "EntryKind",
    "Envelope",
    "HardState",
    "Life",
    "LogDiverged",
    "Message",
    "NotLeader",
    "ObservationRefused",
    "Persist",
    "ProposalDropped",
    "Raft",
    "RaftError",
    "RaftLimits",
    "RaftTiming",
    "ReadDropped",
    "ReadState",
    "Ready",
    "Role",
    "Snapshot",
    "SnapshotName",
    "SoftState",
    "TransferRefused",
]
