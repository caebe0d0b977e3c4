"""What a voter keeps of the ledger's past: each entry that it applied, with its result (ARCHITECTURE.md "What is kept
where").
"""

from __future__ import annotations

from agent.model.instruction import InstructionResult
from agent.model.types import Digest, Millis
from agent.node.context import Context
from agent.node.effects import Audit
from agent.raft import Entry
from agent.state import Applied

MAX_WHAT_CHARACTERS = 500  # of a refusal's reason; the whole of it was the operator's answer


def keep(context: Context, entry: Entry, before: Digest, applied: Applied) -> None:
    """Have it kept, if this agent votes. `before`: the chain before the entry."""
    if context.id not in context.raft.configuration.voters:
        return
    context.emit(audit_of(entry.index, entry.data, before, applied.at, applied.result))


def audit_of(index: int, data: bytes, before: Digest, at: Millis, result: InstructionResult | None) -> Audit:
    """An entry with its result."""
    return Audit(
        index=index,
        data=data,
        before=before,
        at=at,
        outcome=result.outcome if result is not None else "",
        what=result.what[:MAX_WHAT_CHARACTERS] if result is not None else "",
    )
