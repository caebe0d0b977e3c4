"""The replicated state: what every agent derives from the ledger, frozen, the same at the same index everywhere.

Mappings are plain dicts that nobody mutates: `apply` copies the one it changes. Insertion order is part of nothing;
the digest sorts.
"""

from __future__ import annotations

from msgspec import Struct

from agent.model.cluster import Member, Operator
from agent.model.instruction import TargetRecord
from agent.model.ledger import Assignment, Phase
from agent.model.spec import ReplicaKey
from agent.model.stack import InstructionRef, Stack
from agent.model.types import AgentId, CertificatePem, ClusterId, Digest, Label, Millis, OperatorName


class SignedStack(Struct, frozen=True, kw_only=True):
    """A `deploy` instruction that something still refers to: its parsed body beside the exact token and bytes.

    Snapshots carry token and body, so whoever installs one can verify it again.
    """

    ref: InstructionRef
    stack: Stack
    token: str
    body: bytes


class StackState(Struct, frozen=True, kw_only=True):
    """A stack as its instructions left it.

    `revision` is that of the newest instruction on it; `deployed` names the deploy in force and `previous` the one that
    was healthy before it (a failed rollout goes back there). `scale` are counts from `scale` since that deploy;
    `generations` counts restarts by service; `stopped` are services told to stop. `removing`: it goes once its last
    assignment is released.
    """

    name: Label
    revision: int
    deployed: InstructionRef
    previous: InstructionRef | None = None
    scale: dict[Label, int] = {}
    generations: dict[Label, int] = {}
    stopped: frozenset[Label] = frozenset()
    removing: bool = False
    delete_volumes: bool = False
    phase: Phase = "preparing"
    reason: str = ""
    phase_since: Millis = 0
    changed_by: OperatorName
    changed_at: Millis


class ClusterState(Struct, frozen=True, kw_only=True):
    """Everything the ledger says, at `index`.

    `chain` is the rolling hash of all entries up to `index`; `at` is ledger time. `signed` is keyed by the body's
    digest. `expelled` ids never return.
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
    operators: dict[OperatorName, Operator]
    targets: dict[str, TargetRecord] = {}
    stacks: dict[Label, StackState] = {}
    signed: dict[Digest, SignedStack] = {}
    assignments: dict[ReplicaKey, Assignment] = {}
