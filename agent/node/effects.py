"""What the node core wants done. The driver runs them in order; nothing here has happened yet."""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from agent import raft, swim
from agent.host import Desired, Task
from agent.model.events import Event
from agent.model.fault import Fault
from agent.model.instruction import InstructionResult
from agent.model.status import Status
from agent.model.types import AgentId, Digest, Millis
from agent.node.messages import Frame, Reply, Served


class Store(Struct, frozen=True, kw_only=True):
    """Write in one transaction, fsync, then call `NodeCore.stored`. At most one is open.

    `verified_through`: signatures up to this index were checked; stored along with it. `settles`: `stored` must be
    called; what is written lazily needs no answer.
    """

    persist: raft.Persist
    verified_through: int
    settles: bool = True


class Send(Struct, frozen=True, kw_only=True):
    """A frame for a linked peer; lost when the link is gone or its queue is full."""

    to: AgentId
    frame: Frame


class Datagram(Struct, frozen=True, kw_only=True):
    """A SWIM message for a member, signed by the shell."""

    to: AgentId
    message: swim.SwimMessage


class Want(Struct, frozen=True, kw_only=True):
    """The members to keep links with, replacing the set before. Emitted whenever members or voters changed."""

    peers: frozenset[AgentId]


class Cut(Struct, frozen=True, kw_only=True):
    """Close the link with an expelled agent, and take no other from it."""

    peer: AgentId


class Answer(Struct, frozen=True, kw_only=True):
    """The answer to a request of this agent's own API (`NodeCore.submit`, `NodeCore.ask_status`)."""

    request: int
    answer: InstructionResult | Status | Fault


class Reconcile(Struct, frozen=True, kw_only=True):
    """What this host has to run, from the ledger at index `applied`."""

    desired: Desired
    applied: int


class Examine(Struct, frozen=True, kw_only=True):
    """What this host has to find out for the coordinator, replacing what it had before; findings come back as
    observations.
    """

    tasks: tuple[Task, ...]


class Audit(Struct, frozen=True, kw_only=True):
    """An entry that this voter has applied, for the ledger's past; it may come again after a restart.

    `before` is the ledger's chain before it, `at` ledger time after it. `outcome` and `what`: an instruction's.
    """

    index: int
    data: bytes
    before: Digest
    at: Millis
    outcome: str = ""
    what: str = ""


class Publish(Struct, frozen=True, kw_only=True):
    """Events for whoever listens at this agent."""

    events: tuple[Event, ...]


class Serve(Struct, frozen=True, kw_only=True):
    """A peer asks this host itself; reply with frames of this call id until the end or `Unserve`."""

    peer: AgentId
    call: int
    request: Served


class Unserve(Struct, frozen=True, kw_only=True):
    """The peer cancelled the call; without `call`: the peer is gone, and all its calls with it."""

    peer: AgentId
    call: int | None = None


class Replied(Struct, frozen=True, kw_only=True):
    """A part of the answer to a call that the driver opened (`NodeCore.call`). `reply` None: the peer is gone."""

    call: int
    reply: Reply | None
    end: bool


class BeginEpoch(Struct, frozen=True, kw_only=True):
    """Keep this proven snapshot instead of all that the ledger holds, and start anew with it. `what` tells a person."""

    snapshot: raft.Snapshot
    what: str


class Stir(IntEnum):
    """The result of a frame. NOTHING: no effect. ANSWER: only messages. With both, no deadline is
    earlier than it was.
    """

    NOTHING = 0
    ANSWER = 1
    MORE = 2


Effect = (
    Audit
    | Store
    | BeginEpoch
    | Send
    | Datagram
    | Want
    | Cut
    | Answer
    | Reconcile
    | Examine
    | Publish
    | Serve
    | Unserve
    | Replied
)
