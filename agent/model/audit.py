"""The ledger's past, as voters keep it: what the API answers of it, and what the agent says and hears."""

from typing import Literal

from msgspec import Struct

from agent.model.instruction import Act, Outcome
from agent.model.types import Digest, Jti, Label, OperatorName


class AuditLine(Struct, frozen=True, kw_only=True):
    """One instruction of the ledger: who changed what, when, and what came of it.

    `index` is its entry's, `at` ledger time (RFC 3339). `via`: the agent that took it. `outcome` `applied`, or why not
    in `what`. Of an instruction whose signature didn't hold, the rest is what its token claims.
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
    """Entries behind `after` up to `through` aren't kept on this host: it didn't vote then, or they were too old."""

    after: int
    through: int


class AuditPage(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/audit`, oldest first. `more`: go on after this index; None at the end.

    `gaps`: among these lines and before them, since the page before; at the end behind them, too.
    """

    answered_by: Label
    lines: tuple[AuditLine, ...]
    gaps: tuple[AuditGap, ...] = ()
    more: int | None = None


class AuditProof(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/audit/proof`: this agent has read all that it keeps, and linked it again.

    `first`, `last`: indices of what it keeps, 0 where that is nothing. `chain` is the hash of all entries up to `at`,
    empty where it can't tell. `broken`: what doesn't fit together, else empty.
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
