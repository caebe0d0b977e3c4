"""What an operator can ask for: the acts, their bodies, and the ledger's answers.

The JWT itself is the business of `agent.instruction`; here are only the shapes.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.model.cluster import MAX_VOTERS, ApiKey, Member, Operator
from agent.model.stack import MAX_REPLICAS, Stack
from agent.model.types import AgentId, Digest, Jti, Label, Labels, Millis, Target

MAX_BODY_BYTES = 1_048_576  # a plan of 200 services with full environments is well below it
MAX_TOKEN_BYTES = 4096  # our claims need about 500

Act = Literal[
    "deploy",
    "place",
    "remove",
    "scale",
    "restart",
    "stop",
    "start",
    "enrol",
    "expel",
    "drain",
    "undrain",
    "relabel",
    "grant",
    "revoke",
    "grant-key",
    "revoke-key",
    "cancel",
    "recover",
]

ServiceNames = Annotated[tuple[Label, ...], Meta(max_length=200)]


class Remove(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Ends a stack: its replicas stop, assignments go, its revision counter stays. Named volumes stay unless said."""

    version: Literal[1] = 1
    delete_volumes: bool = False


class Scale(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """New replica counts, by service name; services not named keep theirs. Ends with the next deploy."""

    version: Literal[1] = 1
    services: Annotated[dict[Label, Annotated[int, Meta(ge=0, le=MAX_REPLICAS)]], Meta(min_length=1, max_length=200)]


class Services(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of restart, stop and start: which services; none named means all of the stack."""

    version: Literal[1] = 1
    services: ServiceNames = ()


class Enrol(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Enters a member; the target is `member:<id>`."""

    version: Literal[1] = 1
    member: Member


class Expel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Removes a member for ever: an expelled id never returns."""

    version: Literal[1] = 1
    reason: Annotated[str, Meta(max_length=512)] = ""


class Drain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Empties a host; the target is `host:<agent id>`. What may run elsewhere moves there; nothing more is placed."""

    version: Literal[1] = 1


class Undrain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Lets the scheduler use a drained host again. What moved away stays where it is."""

    version: Literal[1] = 1


class Relabel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All labels of a host, replacing the enrolled ones. Replicas that need others leave it."""

    version: Literal[1] = 1
    labels: Labels = {}


class Grant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Enters an operator, or replaces the one of that name.

    `replaces`: the operator of that name as the signer knows it, None for nobody; refused if the ledger has another.
    What the signer doesn't change (a key, a scope) it knows from some agent, so an agent that lies gains nothing.
    """

    version: Literal[1] = 1
    operator: Operator
    replaces: Operator | None = None


class Revoke(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Takes an operator's authority away (the last admin can't go), or an API key's."""

    version: Literal[1] = 1


class GrantKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Lets an API key read; the target is `key:<name>`. A name that has one must be revoked first."""

    version: Literal[1] = 1
    key: ApiKey


class Cancel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A signed no-op that takes the revision which an open instruction would have taken, so that it can never apply.

    `jti`: that instruction's, if known; only for the audit.
    """

    version: Literal[1] = 1
    jti: Jti | None = None


class Recover(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Begins another epoch when the majority is lost for good: `survivor` is its first and only voter.

    `index` and `chain` name the head of the survivor's ledger, including uncommitted entries: all of it is kept. `lost`
    are the voters that weren't reached; they are named for the audit only. It never goes through consensus, since there
    is none.
    """

    version: Literal[1] = 1
    epoch: Annotated[int, Meta(ge=2, le=2**31)]
    survivor: AgentId
    index: Annotated[int, Meta(ge=1, le=2**53)]
    chain: Digest
    lost: Annotated[tuple[AgentId, ...], Meta(max_length=MAX_VOTERS)] = ()


Body = (
    Stack
    | Remove
    | Scale
    | Services
    | Enrol
    | Expel
    | Drain
    | Undrain
    | Relabel
    | Grant
    | Revoke
    | GrantKey
    | Cancel
    | Recover
)

BODIES: dict[Act, type[Body]] = {
    "deploy": Stack,
    "place": Stack,
    "remove": Remove,
    "scale": Scale,
    "restart": Services,
    "stop": Services,
    "start": Services,
    "enrol": Enrol,
    "expel": Expel,
    "drain": Drain,
    "undrain": Undrain,
    "relabel": Relabel,
    "grant": Grant,
    "revoke": Revoke,
    "grant-key": GrantKey,
    "revoke-key": Revoke,
    "recover": Recover,
    "cancel": Cancel,
}
"""Which body an act binds. The kind of target each act takes is `TARGET_KINDS`."""

TARGET_KINDS: dict[Act, frozenset[str]] = {
    "deploy": frozenset({"stack"}),
    "place": frozenset({"stack"}),
    "remove": frozenset({"stack"}),
    "scale": frozenset({"stack"}),
    "restart": frozenset({"stack"}),
    "stop": frozenset({"stack"}),
    "start": frozenset({"stack"}),
    "enrol": frozenset({"member"}),
    "expel": frozenset({"member"}),
    "drain": frozenset({"host"}),
    "undrain": frozenset({"host"}),
    "relabel": frozenset({"host"}),
    "grant": frozenset({"operator"}),
    "revoke": frozenset({"operator"}),
    "grant-key": frozenset({"key"}),
    "revoke-key": frozenset({"key"}),
    "recover": frozenset({"cluster"}),
    "cancel": frozenset({"cluster", "stack", "operator", "member", "host", "secret", "key"}),
}


class Claims(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The instruction JWT's claims (docs/security.md "Instructions"). Times in whole seconds; `bdg` is the body's
    sha256."""

    iss: Annotated[str, Meta(max_length=63)]
    aud: Annotated[str, Meta(max_length=64)]
    iat: Annotated[int, Meta(ge=0, le=2**40)]
    exp: Annotated[int, Meta(ge=0, le=2**40)]
    jti: Jti
    act: Act
    target: Target
    rev: Annotated[int, Meta(ge=1, le=2**40)]
    bdg: Digest


Outcome = Literal["applied", "conflict", "refused"]


class InstructionResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ledger's answer, which is `apply`'s result.

    `applied`: the target is now at `revision`. `conflict`: another instruction has that revision; `by` and `at` are
    *its* issuer and ledger time. `refused`: signed and in order, but it can't apply; `kind` is a problem's name.
    `repeated` is true when this very instruction had been answered before and this is that first answer.
    """

    outcome: Outcome
    target: Target
    revision: int
    digest: Digest
    jti: Jti
    by: str
    at: Millis
    index: int
    what: str = ""
    fix: str = ""
    kind: str = ""
    repeated: bool = False


class TargetRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the ledger remembers per target; it outlives the target's deletion (counters are never used twice)."""

    revision: int
    act: Act
    digest: Digest
    jti: Jti
    by: str
    at: Millis
    result: InstructionResult
