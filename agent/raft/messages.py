"""Every message of the consensus protocol: msgpack arrays, a tagged union, bounded.

No message names its sender: the link's certificate does. Names of fields follow Raft fig. 3.1 and §9.6.
"""

from typing import Annotated

import msgspec

from agent.raft.entry import MAX_INDEX, Configuration, Entry, Index, Term

# A leader batches entries up to `RaftLimits.append_bytes`; more than this in one message is not one of ours.
MAX_ENTRIES_PER_APPEND = 4096

# A chunk must fit into one frame beside its header.
MAX_CHUNK_BYTES = 1024 * 1024

# The asker's own words, e.g. a request number; long enough for a hash.
MAX_READ_CONTEXT_BYTES = 64

Round = Annotated[int, msgspec.Meta(ge=0, le=MAX_INDEX)]
Context = Annotated[bytes, msgspec.Meta(max_length=MAX_READ_CONTEXT_BYTES)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    pass


class PreVote(_Message, frozen=True, kw_only=True, tag="pre-vote"):
    """Would I get your vote in `term`? Nobody's term moves (Raft §9.6)."""

    term: Term
    last_index: Index
    last_term: Term


class PreVoteResponse(_Message, frozen=True, kw_only=True, tag="pre-vote-response"):
    """Granted: `term` repeats the request's. Refused: it is the answerer's own."""

    term: Term
    granted: bool


class Vote(_Message, frozen=True, kw_only=True, tag="vote"):
    """RequestVote (Raft §5.2, §5.4.1). `forced`: the leader itself asked for this election (§3.10)."""

    term: Term
    last_index: Index
    last_term: Term
    forced: bool = False


class VoteResponse(_Message, frozen=True, kw_only=True, tag="vote-response"):
    term: Term
    granted: bool


class Append(_Message, frozen=True, kw_only=True, tag="append"):
    """AppendEntries (Raft §5.3): `entries` follow directly on (`prev_index`, `prev_term`)."""

    term: Term
    prev_index: Index
    prev_term: Term
    commit: Index
    entries: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=MAX_ENTRIES_PER_APPEND)] = ()


class AppendResponse(_Message, frozen=True, kw_only=True, tag="append-response"):
    """Accepted: the log is the leader's up to `index`, on disk. Refused: `index` repeats `prev_index`.

    With a refusal, (`hint_index`, `hint_term`) is the follower's last entry that could still match: the largest
    index up to `prev_index` whose term is at most `prev_term` (Raft §5.3, end).
    """

    term: Term
    accepted: bool
    index: Index
    hint_index: Index = 0
    hint_term: Term = 0


class Heartbeat(_Message, frozen=True, kw_only=True, tag="heartbeat"):
    """I lead `term`. `commit` never passes what the receiver is known to hold; `round` numbers the broadcast."""

    term: Term
    commit: Index
    round: Round


class HeartbeatResponse(_Message, frozen=True, kw_only=True, tag="heartbeat-response"):
    """I follow you in `term` and saw `round` (Raft §6.4)."""

    term: Term
    round: Round


class InstallSnapshot(_Message, frozen=True, kw_only=True, tag="install-snapshot"):
    """The bytes from `offset` of a snapshot `total` bytes long (Raft §5.1 of the thesis)."""

    term: Term
    index: Index
    snapshot_term: Term
    configuration: Configuration
    offset: Index
    total: Index
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNK_BYTES)]


class InstallSnapshotResponse(_Message, frozen=True, kw_only=True, tag="install-snapshot-response"):
    """Send on from `offset`; an installed snapshot is told by an `AppendResponse` at its index instead."""

    term: Term
    index: Index
    offset: Index


class TimeoutNow(_Message, frozen=True, kw_only=True, tag="timeout-now"):
    """Campaign at once: I'm handing leadership to you (Raft §3.10)."""

    term: Term


class ReadIndex(_Message, frozen=True, kw_only=True, tag="read-index"):
    """From where may a read that starts now be served (Raft §6.4)?"""

    context: Context


class ReadIndexResponse(_Message, frozen=True, kw_only=True, tag="read-index-response"):
    """Once you applied `index`."""

    context: Context
    index: Index


LeaderMessage = Append | Heartbeat | InstallSnapshot
LeaderAnswer = AppendResponse | HeartbeatResponse | InstallSnapshotResponse
TermedMessage = LeaderMessage | LeaderAnswer | Vote | VoteResponse | PreVoteResponse | TimeoutNow

# The others, which move nobody's term. A tuple, as every message is held against it: `isinstance` takes far longer for
# a union.
UNTERMED = (PreVote, ReadIndex, ReadIndexResponse)

Message = (
    PreVote
    | PreVoteResponse
    | Vote
    | VoteResponse
    | Append
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | InstallSnapshot
    | InstallSnapshotResponse
    | TimeoutNow
    | ReadIndex
    | ReadIndexResponse
)
