"""What `verify=False` leaves out, and what it doesn't: the signature alone."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.errors import MusterError
from agent.instruction import read_instruction
from agent.model.ledger import InstructionEntry
from agent.state import audience_of
from tests.support.ledger import Ledger, operator, service, stack, tampered


def broken_signature(entry: InstructionEntry) -> InstructionEntry:
    head, claims, signature = entry.token.split(".")
    return replace(entry, token=f"{head}.{claims}.{('A' if signature[0] != 'A' else 'B') + signature[1:]}")


def test_the_signature_alone_is_left_out() -> None:
    ledger = Ledger()
    entry = broken_signature(ledger.signed("deploy", "stack:shop", stack()))
    known, audience = ledger.state.operators, audience_of(ledger.state)
    with pytest.raises(MusterError):
        read_instruction(entry.token, entry.body, known, audience)
    assert read_instruction(entry.token, entry.body, known, audience, verify=False).body == stack()


def test_body_audience_key_and_scope_still_count() -> None:
    ledger = Ledger()
    entry = ledger.signed("deploy", "stack:shop", stack())
    other = tampered(entry, stack(web=service(replicas=2)))
    known, audience = ledger.state.operators, audience_of(ledger.state)
    for token, body, operators, aud in (
        (other.token, other.body, known, audience),
        (entry.token, entry.body, known, "abcdefghijklmnop.2"),
        (entry.token, entry.body, {}, audience),
        (entry.token, entry.body, {"ann": replace(operator("bob"), name="ann")}, audience),
        (entry.token, entry.body, {"ann": operator("ann", "operate")}, audience),
    ):
        with pytest.raises(MusterError):
            read_instruction(token, body, operators, aud, verify=False)
