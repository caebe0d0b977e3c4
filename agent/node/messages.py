"""What agents send each other over the peer link: one tagged union, one frame each.

Four kinds: consensus (`RaftFrame`), membership (`SwimFrame`), soft state (`ReportFrame`, `AskFrame`), and calls: a
request with an id, answered by one or more replies, the last with `end`. `agent.net.frames` puts them on the wire with
a length and a version.

Nothing here is ever changed or removed; additions are of a later version, and agent.node.versions says how.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.instruction import SIGNATURE_BYTES
from agent.model.doctor import HostAnswer
from agent.model.errand import MAX_ERRANDS, Errand
from agent.model.events import Event, LogLine
from agent.model.fault import Fault
from agent.model.instruction import MAX_BODY_BYTES, MAX_TOKEN_BYTES, InstructionResult
from agent.model.status import Status
from agent.model.types import AgentId, Digest, Label
from agent.model.usage import MAX_USED, ReplicaUsage
from agent.raft import Configuration, Entry, Message
from agent.raft.entry import MAX_INDEX, Index, Term
from agent.raft.messages import MAX_CHUNK_BYTES, Heartbeat, HeartbeatResponse
from agent.swim import SwimMessage

MAX_BLOB_WINDOW_BYTES = 262_144  # one answer: on a 10 Mbit/s link it holds a heartbeat up for 0.2 s

MAX_WITHIN_MS = 315_360_000_000  # ten years; a time that long ago can still be written

CallId = Annotated[int, Meta(ge=1, le=2**53)]


class RaftFrame(Struct, frozen=True, kw_only=True, tag="raft", omit_defaults=True):
    """A Raft message; the sender is the link's peer."""

    message: Message


class SwimFrame(Struct, frozen=True, kw_only=True, tag="swim", omit_defaults=True):
    """A SWIM message that must also get through where UDP is blocked; datagrams carry the others."""

    message: SwimMessage


class ReportFrame(Struct, frozen=True, kw_only=True, tag="report", omit_defaults=True):
    """A host's soft state, to the coordinator of `term`, directly or through the voter that the host follows.

    `report`: a HostReport in msgpack, as the bytes that the host signed (agent.instruction.reports).
    """

    host: AgentId
    term: Term
    report: bytes
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class AskFrame(Struct, frozen=True, kw_only=True, tag="ask", omit_defaults=True):
    """The coordinator's errands for `host`, all of them: those sent before and not in it are over.

    Sent directly, or through the voter that the host follows.
    """

    host: AgentId
    errands: Annotated[tuple[Errand, ...], Meta(max_length=MAX_ERRANDS)] = ()


class Submit(Struct, frozen=True, kw_only=True, tag="submit", omit_defaults=True):
    """An instruction on its way to the coordinator. Answered by `Submitted` or a fault.

    `pass_on`: a receiver that doesn't coordinate relays it to the one that does; here and below.
    """

    token: Annotated[str, Meta(max_length=MAX_TOKEN_BYTES)]
    body: Annotated[bytes, Meta(max_length=MAX_BODY_BYTES)]
    pass_on: bool = False


class GetStatus(Struct, frozen=True, kw_only=True, tag="status", omit_defaults=True):
    """Asks the coordinator for its view. Answered by `StatusIs`."""

    pass_on: bool = False


class FollowLogs(Struct, frozen=True, kw_only=True, tag="logs", omit_defaults=True):
    """A replica's output. Answered by `Logs` parts until the end or a `Cancel`.

    `since` is RFC 3339; `within_ms` is as long ago by the receiver's own clock.
    """

    stack: Label
    service: Label
    slot: int
    tail: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    since: str | None = None
    within_ms: Annotated[int, Meta(ge=0, le=MAX_WITHIN_MS)] | None = None
    follow: bool = False


class FollowEvents(Struct, frozen=True, kw_only=True, tag="events", omit_defaults=True):
    """The coordinator's events from now on. Answered by `Events` parts until a `Cancel`."""

    pass_on: bool = False


class FollowLedger(Struct, frozen=True, kw_only=True, tag="ledger", omit_defaults=True):
    """An observer subscribes to committed entries from `index` on. Answered by `Ledger` parts until a `Cancel`.

    The voter sends a few parts ahead of what `TakenFrame`s confirm. `snapshot`, `digest`, `offset`: index and sha256 of
    a snapshot that the observer has the first bytes of. `chain`: the ledger's hash before `index` as the observer has
    it, which has to be the voter's too; "" if it doesn't know.
    """

    index: Annotated[int, Meta(ge=0, le=MAX_INDEX)]
    snapshot: Annotated[int, Meta(ge=0, le=MAX_INDEX)] = 0
    digest: Digest | Literal[""] = ""
    offset: Annotated[int, Meta(ge=0, le=MAX_INDEX)] = 0
    chain: Digest | Literal[""] = ""


class FetchEpoch(Struct, frozen=True, kw_only=True, tag="epoch", omit_defaults=True):
    """An agent of an earlier epoch asks for proof of the later one. Answered by a `Ledger` with a part of a snapshot.

    `index`, `offset`: of the snapshot that it has the first bytes of; of another one the first part comes.
    """

    index: Index = 0
    offset: Index = 0


class GetSnapshotName(Struct, frozen=True, kw_only=True, tag="snapshot_name", omit_defaults=True):
    """Which snapshot the receiver has, or had lately, at an entry. Answered by one `SnapshotNameIs`."""

    index: Index


class FetchBlob(Struct, frozen=True, kw_only=True, tag="blob", omit_defaults=True):
    """The next bytes of a content. Answered by one `BlobPart` or a fault; the receiver asks for
    more at its own speed.
    """

    digest: Digest
    offset: Annotated[int, Meta(ge=0, le=2**53)] = 0


class LoadImage(Struct, frozen=True, kw_only=True, tag="load", omit_defaults=True):
    """Fetch the image archive that the operator's blob token names from the sender, and load it into the engine.

    Answered by `ImageLoad` parts; the last one's `step` is `loaded`, or `skipped` where no engine takes images.
    """

    token: Annotated[str, Meta(max_length=MAX_TOKEN_BYTES)]


class Examine(Struct, frozen=True, kw_only=True, tag="examine", omit_defaults=True):
    """What a host sees of itself and the others. Answered by one `Examined`.

    `host` None: the receiver itself; else a member that the sender can't reach and that the receiver asks for it.
    """

    host: AgentId | None = None
    log: bool = False


class GetUsage(Struct, frozen=True, kw_only=True, tag="usage", omit_defaults=True):
    """What a host's replicas use now, all or a stack's. Answered by one `UsageIs`."""

    stack: Label | None = None


Served = FollowLogs | FetchBlob | LoadImage | Examine | GetUsage
"""What the host behind the core answers (the `Serve` effect)."""

Request = Submit | GetStatus | FollowEvents | FollowLedger | FetchEpoch | GetSnapshotName | Served


class Submitted(Struct, frozen=True, kw_only=True, tag="submitted", omit_defaults=True):
    result: InstructionResult


class StatusIs(Struct, frozen=True, kw_only=True, tag="status_is", omit_defaults=True):
    status: Status


class Logs(Struct, frozen=True, kw_only=True, tag="log_lines", omit_defaults=True):
    lines: tuple[LogLine, ...]


class Events(Struct, frozen=True, kw_only=True, tag="event_list", omit_defaults=True):
    events: tuple[Event, ...]


class SnapshotPart(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The bytes from `offset` of a snapshot `total` bytes long, whose sha256 is `digest`."""

    index: Index
    term: Term
    configuration: Configuration
    digest: Digest
    total: Index
    offset: Index
    data: Annotated[bytes, Meta(max_length=MAX_CHUNK_BYTES)]


class Ledger(Struct, frozen=True, kw_only=True, tag="entries", omit_defaults=True):
    """Committed entries in order; a snapshot's parts come first if the voter no longer has the entry asked for.

    `leader`: who coordinates in `term`, as the voter knows; a part may come only for this news.
    """

    entries: tuple[Entry, ...] = ()
    commit: int = 0
    snapshot: SnapshotPart | None = None
    leader: AgentId | None = None
    term: int = 0


class SnapshotNameIs(Struct, frozen=True, kw_only=True, tag="snapshot_name_is", omit_defaults=True):
    """`name` is a sha256 of all of it (agent.node.vouching); empty for none."""

    name: Digest | Literal[""] = ""


class BlobPart(Struct, frozen=True, kw_only=True, tag="blob_part", omit_defaults=True):
    """Empty after the end."""

    offset: int = 0
    data: Annotated[bytes, Meta(max_length=MAX_BLOB_WINDOW_BYTES)] = b""


class ImageLoad(Struct, frozen=True, kw_only=True, tag="image_load", omit_defaults=True):
    """How far a host is. `done` bytes were fetched; `images`: what the engine says that it has now."""

    step: Literal["fetching", "loading", "loaded", "skipped"]
    done: int = 0
    images: tuple[str, ...] = ()


class Examined(Struct, frozen=True, kw_only=True, tag="examined", omit_defaults=True):
    answer: HostAnswer


class UsageIs(Struct, frozen=True, kw_only=True, tag="usage_is", omit_defaults=True):
    replicas: Annotated[tuple[ReplicaUsage, ...], Meta(max_length=MAX_USED)] = ()


class Ended(Struct, frozen=True, kw_only=True, tag="ended", omit_defaults=True):
    """Nothing more comes."""


class Failed(Struct, frozen=True, kw_only=True, tag="failed", omit_defaults=True):
    fault: Fault


Reply = (
    Submitted
    | StatusIs
    | Logs
    | Events
    | Ledger
    | SnapshotNameIs
    | BlobPart
    | ImageLoad
    | Examined
    | UsageIs
    | Ended
    | Failed
)


class CallFrame(Struct, frozen=True, kw_only=True, tag="call", omit_defaults=True):
    """`id` is the caller's own, never used twice on one link."""

    id: CallId
    request: Request


class ReplyFrame(Struct, frozen=True, kw_only=True, tag="reply", omit_defaults=True):
    id: CallId
    reply: Reply
    end: bool = True


class CancelFrame(Struct, frozen=True, kw_only=True, tag="cancel", omit_defaults=True):
    """The caller is no longer interested; no reply follows."""

    id: CallId


class TakenFrame(Struct, frozen=True, kw_only=True, tag="taken", omit_defaults=True):
    """The caller has taken the first `parts` replies to its call; the other side may send more."""

    id: CallId
    parts: Annotated[int, Meta(ge=1, le=2**53)]


Word = Annotated[bytes, Meta(max_length=64)]  # an Ed25519 signature, or nothing


class KeptFrame(Struct, frozen=True, kw_only=True, tag="kept", omit_defaults=True):
    """How far the ledger is on the sender's disk for good: committed up to `index`, and its log up to `last`.

    Sent between agents that consensus counts, when they link and as they move on. `boot` counts the sender's starts;
    `word` is its signature for `index`. `remembered`: the highest `index` that the sender has heard from the receiver
    itself, and `shown` what that one signed. `went_back`: the sender was shown such a statement of its own, and is
    fenced.
    """

    boot: Annotated[int, Meta(ge=0, le=2**62)]
    index: Index
    last: Index
    word: Word = b""
    remembered: Index = 0
    shown: Word = b""
    went_back: bool = False


class Unheard(Struct, frozen=True, kw_only=True, tag="unheard", omit_defaults=True):
    """From the coordinator to an observer: its reports don't come through its voter, or the ledger
    doesn't get to it.
    """


class Alive(Struct, frozen=True, kw_only=True, tag="alive", omit_defaults=True):
    """A sign of life when there is nothing to say for a while."""


Frame = (
    RaftFrame
    | SwimFrame
    | ReportFrame
    | AskFrame
    | CallFrame
    | ReplyFrame
    | CancelFrame
    | TakenFrame
    | KeptFrame
    | Unheard
    | Alive
)

# Tuples, as every frame is held against them: `isinstance` takes far longer for a union.
BEATS = (Heartbeat, HeartbeatResponse)
"""Idle agents hear nothing else all the time."""

SETTLED_AT_ONCE = (AskFrame, SwimFrame)
"""Whoever takes these in does all that follows from them at once."""
