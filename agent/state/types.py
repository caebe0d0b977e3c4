"""The replicated state: what every agent derives from the ledger, frozen, the same at the same index everywhere.

Mappings are plain dicts that nobody mutates: `apply` copies the one it changes. Insertion order is part of nothing;
the digest sorts.
"""

from typing import Literal

from msgspec import Struct

from agent.model.cluster import ApiKey, Member, Operator
from agent.model.instruction import Act, InstructionResult, TargetRecord
from agent.model.ledger import Assignment, Phase
from agent.model.spec import ReplicaKey
from agent.model.stack import InstructionRef, Stack
from agent.model.types import AgentId, CertificatePem, ClusterId, Digest, Jti, Label, Millis, OperatorName, Target

MAX_REFUSALS = 256  # remembered, so that a resent one gets its first answer; more than fit into one token's life time


EntryName = Literal["genesis", "instruction", "assign", "phase", "level"]


class SignedStack(Struct, frozen=True, kw_only=True):
    """A `deploy` instruction that something still refers to: its parsed body beside the exact token and bytes.

    Snapshots carry token and body, so whoever installs one can verify it again.
    """

    ref: InstructionRef
    stack: Stack
    token: str
    body: bytes


class Evidence(Struct, frozen=True, kw_only=True):
    """What proves a live object that no `SignedStack` proves: the instruction that made it, as it was signed."""

    act: Act
    target: Target
    revision: int
    token: str
    body: bytes


class StackState(Struct, frozen=True, kw_only=True):
    """A stack as its instructions left it.

    `revision` is that of the newest instruction on it. `deployed` names the deploy in force; `proven`: it has been
    healthy. `previous` is the deploy that was healthy before it: when a rollout fails that isn't proven, `previous` is
    in force again (then `deployed == previous`). `scale` are counts from `scale` since that deploy; `generations`
    holds, by service, the revision of the newest `restart`; `stopped` are services told to stop. `held` are services
    told to run again whose class's phase hasn't come yet: main doesn't start before the services, nor workers before
    main. `removing`: it goes once its last assignment is released, or by an entry where it has none.

    `phase_since` is the ledger time of the newest phase; `moved_index` and `moved_at` name the newest entry that
    changed anything for the stack's replicas: a host's report from before that index says nothing about them, nor does
    that host surely know which volumes go with the stack.
    """

    name: Label
    revision: int
    deployed: InstructionRef
    proven: bool = False
    previous: InstructionRef | None = None
    previous_scale: dict[Label, int] = {}
    previous_stopped: frozenset[Label] = frozenset()
    scale: dict[Label, int] = {}
    generations: dict[Label, int] = {}
    stopped: frozenset[Label] = frozenset()
    held: frozenset[Label] = frozenset()
    removing: bool = False
    delete_volumes: bool = False
    phase: Phase = "preparing"
    reason: str = ""
    phase_since: Millis = 0
    moved_index: int = 0
    moved_at: Millis = 0
    changed_by: OperatorName
    changed_at: Millis


class ClusterState(Struct, frozen=True, kw_only=True):
    """Everything the ledger says, at `index`.

    `chain` is the rolling hash of all entries up to `index`; `at` is ledger time. `signed` is keyed by the body's
    digest. `expelled` ids never return; of those since level 4 the newest have evidence. `drained` are members whose
    hosts are to run nothing. `refusals` are the newest MAX_REFUSALS answers that took no revision. `evidence` is keyed
    by `<target>/<revision>`. `genesis` is entry 1's, encoded: what every proof ends at.
    """

    cluster: ClusterId
    name: Label
    epoch: int
    level: int
    trust_anchor: CertificatePem
    index: int
    chain: Digest
    at: Millis
    members: dict[AgentId, Member]
    expelled: frozenset[AgentId] = frozenset()
    drained: frozenset[AgentId] = frozenset()
    operators: dict[OperatorName, Operator]
    api_keys: dict[OperatorName, ApiKey] = {}
    targets: dict[str, TargetRecord] = {}
    stacks: dict[Label, StackState] = {}
    signed: dict[Digest, SignedStack] = {}
    assignments: dict[ReplicaKey, Assignment] = {}
    refusals: dict[Jti, InstructionResult] = {}
    evidence: dict[str, Evidence] = {}
    genesis: bytes = b""


class Applied(Struct, frozen=True, kw_only=True):
    """What one entry changed: for the operator's answer, for events, and for the host's next reconcile.

    `at` is ledger time after it. `result` is set for instructions (`act` too when the signature held). `members` were
    entered, replaced or removed, `member` is the name of one; `stacks` changed in anything but their assignments;
    `assigned` were made or replaced, `released` are gone. `stack` is that of an entry of the coordinator's, `ignored`
    why it changed nothing, else empty.
    """

    index: int
    at: Millis
    kind: EntryName
    act: Act | None = None
    result: InstructionResult | None = None
    members: frozenset[AgentId] = frozenset()
    member: Label = ""
    stacks: frozenset[Label] = frozenset()
    assigned: frozenset[ReplicaKey] = frozenset()
    released: frozenset[ReplicaKey] = frozenset()
    stack: Label = ""
    ignored: str = ""
