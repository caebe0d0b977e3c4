"""What the HTTP API answers, except `agent.model.status`: the same shapes for server, client and OpenAPI."""

from typing import Literal

from msgspec import Struct

from agent.model.cluster import ApiKey, ScopeName
from agent.model.fault import Fault
from agent.model.instruction import Act, InstructionResult, Recover
from agent.model.ledger import AssignedPort, Phase
from agent.model.report import ReplicaState
from agent.model.stack import InstructionRef, Stack
from agent.model.status import AgentRef, MemberView
from agent.model.types import Digest, Jti, Label, OperatorName, PublicKey, Target

PROBLEM_TYPE_PREFIX = "urn:muster:problem:"
PROBLEM_MEDIA_TYPE = "application/problem+json"

REDACTED = "(redacted)"
"""Stands for an environment value (ARCHITECTURE.md "Errors")."""


class ProblemDetails(Struct, frozen=True, kw_only=True):
    """RFC 9457, with `where` and `fix` of the error tree. `result` is the ledger's answer if the ledger refused."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    where: str = ""
    fix: str = ""
    result: InstructionResult | None = None

    def fault(self) -> Fault:
        """The problem as the error it was."""
        kind = self.type.removeprefix(PROBLEM_TYPE_PREFIX)
        return Fault(kind=kind, status=self.status, what=self.detail, where=self.where, fix=self.fix)


class Members(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/members`, as the agent that answers sees them."""

    answered_by: str
    members: tuple[MemberView, ...]


class Recovery(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/recovery`: what this agent would begin the next epoch from (`agent recover --new-epoch`).

    `index`, `term` and `chain` are the head of its ledger; it doesn't know entries after `committed` to be committed.
    `revision` is the target `cluster`'s. `lost`: voters that it has no link with. `unfit`: why no epoch may begin here
    now, else empty; while a snapshot is being loaded, `index` is ahead of `chain`.
    """

    survivor: AgentRef
    epoch: int
    revision: int
    term: int
    index: int
    chain: Digest
    committed: int
    voters: tuple[AgentRef, ...]
    lost: tuple[AgentRef, ...]
    unfit: str = ""

    @property
    def rank(self) -> tuple[int, int, bool, str]:
        """The agent that knows most has the highest (Raft §5.4.1); of equals, one that may begin an epoch."""
        return self.term, self.index, not self.unfit, self.survivor.name

    def beginning(self) -> Recover:
        """The body to sign, to begin the next epoch from it."""
        lost = tuple(voter.id for voter in self.lost)
        return Recover(epoch=self.epoch + 1, survivor=self.survivor.id, index=self.index, chain=self.chain, lost=lost)


class EpochBeginning(Struct, frozen=True, kw_only=True):
    """The `recover` instruction that began an epoch, as it was signed in the one before; `body` is its JSON's text."""

    epoch: int
    token: str
    body: str


class Epochs(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/epochs`: the cluster's epoch, and what began each but the first."""

    answered_by: str
    epoch: int
    begun: tuple[EpochBeginning, ...]


class OperatorView(Struct, frozen=True, kw_only=True):
    """An operator; none of it is secret: `key` is the public half, `key_id` what tokens name it by (`kid`).

    `stacks` are globs that limit every scope but `admin`.
    """

    name: OperatorName
    scope: ScopeName
    stacks: tuple[str, ...]
    key: PublicKey
    key_id: str


class Operators(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/operators`, by name, as the ledger of the agent that answers has them."""

    answered_by: str
    operators: tuple[OperatorView, ...]


class ApiKeys(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/keys`, by name. A key's sha256 tells nothing about it."""

    answered_by: str
    keys: tuple[ApiKey, ...]


class BlobView(Struct, frozen=True, kw_only=True):
    """A content that the agent which answers has. `size` in bytes."""

    digest: Digest
    size: int


class ImageProgress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far one host is with an image: `done` of `size` bytes fetched. `skipped`: it has no engine for images.

    `images` are the names that its engine now has; `what` and `fix` say why it `failed`.
    """

    host: Label
    step: Literal["fetching", "loading", "loaded", "skipped", "failed"]
    done: int = 0
    size: int = 0
    images: tuple[str, ...] = ()
    what: str = ""
    fix: str = ""


class ServiceEndpoint(Struct, frozen=True, kw_only=True):
    """Where a replica is reached. While it moves there are two: it runs at the old place until its successor is
    healthy.
    """

    slot: int
    host: str
    address: str
    state: ReplicaState
    ports: tuple[AssignedPort, ...]


class ServiceView(Struct, frozen=True, kw_only=True):
    """A service of any stack; `wanted` and `healthy` count replicas."""

    stack: str
    name: str
    wanted: int
    healthy: int
    endpoints: tuple[ServiceEndpoint, ...]


class Services(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/services`."""

    as_of: str
    stale: bool
    services: tuple[ServiceView, ...]


class TargetView(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/targets/{target}`: the next instruction on it takes `revision` + 1.

    Revision 0: never changed, and the rest is empty. `at` is RFC 3339. `ending_on`: of a stack that is being removed
    with its volumes, the names of the hosts that haven't said yet that theirs are gone.
    """

    target: Target
    revision: int
    act: Act | None = None
    digest: Digest | None = None
    jti: Jti | None = None
    by: OperatorName | None = None
    at: str | None = None
    ending_on: tuple[Label, ...] = ()


class StackView(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/stacks/{stack}`: the deploy in force. Every environment value in `stack` reads REDACTED.

    `deployed` names the signed body by revision and sha256; `scale` are counts set since, `stopped` services told to
    stop. `previous` is the deploy that was healthy before it, for `agent rollback`. Times are RFC 3339.
    """

    name: Label
    revision: int
    deployed: InstructionRef
    phase: Phase
    reason: str
    changed_by: OperatorName
    changed_at: str
    scale: dict[Label, int]
    stopped: tuple[Label, ...]
    stack: Stack
    previous: InstructionRef | None = None
    previous_stack: Stack | None = None
