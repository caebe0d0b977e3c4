"""The ledger's past as voters keep it: what the API answers about it."""

from typing import Literal

from msgspec import Struct

from agent.model.instruction import Act, Outcome
from agent.model.types import Digest, Jti, Label, OperatorName


class AuditLine(Struct, frozen=True, kw_only=True):
    """One instruction of the ledger: who changed what, when, and with which result.

    `index` is its entry's, `at` ledger time (RFC 3339). `via`: the agent that received it. `outcome` is `applied`, or
    else `what` says why not. If the instruction's signature didn't hold, the rest is what its token claims.
    """

    index: int
    at: str
    act: Act
    target: str
    revision: int
    by: OperatorName
    via: str
    outcome: Outcome
    what: str
    digest: Digest
    jti: Jti


class AuditGap(Struct, frozen=True, kw_only=True):
    """This host doesn't keep the entries after `after` up to `through`: it didn't vote then, or they were too old."""

    after: int
    through: int


class AuditPage(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/audit`, oldest first. `more`: continue after this index; None at the end.

    `gaps`: among these lines and between them and the page before; at the end also after them.
    """

    answered_by: Label
    lines: tuple[AuditLine, ...]
    gaps: tuple[AuditGap, ...] = ()
    more: int | None = None


class AuditProof(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/audit/proof`: this agent has read everything that it keeps, and computed its hash chain again.

    `first`, `last`: indices of what it keeps, 0 if that is nothing. `chain` is the hash of all entries up to `at`,
    empty if it can't say. `broken`: what doesn't fit together, else empty.
    """

    name: Label
    voter: bool
    segments: int
    entries: int
    first: int
    last: int
    gaps: tuple[AuditGap, ...]
    at: int
    chain: Digest | Literal[""]
    broken: str = ""
