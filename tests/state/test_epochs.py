"""Another epoch: begun by an admin alone, proven to whoever follows (docs/security.md "Epochs")."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.errors import Conflict, MusterError, NotAllowed, NotAuthenticated, Unprocessable
from agent.model.instruction import Grant, InstructionResult, Recover, Revoke
from agent.model.ledger import InstructionEntry
from agent.state import (
    ClusterState,
    SnapshotRefused,
    audience_of,
    begin_epoch,
    check_crossing,
    decode_snapshot,
    encode_snapshot,
)
from tests.support.ledger import Ledger, operator, service, stack


def recovery(ledger: Ledger, **changes: object) -> Recover:
    state = ledger.state
    body = Recover(epoch=state.epoch + 1, survivor=ledger.id("n1"), index=state.index, chain=state.chain)
    return replace(body, **changes)


def entry_of(ledger: Ledger, body: Recover, **how: object) -> InstructionEntry:
    return replace(ledger.signed("recover", "cluster", body, **how), via=ledger.id("n1"))  # type: ignore[arg-type]  # `signed`'s


def begun(ledger: Ledger, **how: object) -> tuple[ClusterState, InstructionResult]:
    return begin_epoch(ledger.state, entry_of(ledger, recovery(ledger), **how))


def test_the_next_epoch_begins_behind_all_that_the_survivor_knows() -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service()))
    state, result = begun(ledger)
    assert (state.epoch, state.index) == (2, ledger.state.index + 1)
    assert (result.outcome, result.target, result.revision, result.by) == ("applied", "cluster", 1, "ann")
    assert state.stacks == ledger.state.stacks
    assert state.members == ledger.state.members
    assert audience_of(state) != audience_of(ledger.state), "which ends all old tokens"
    assert state.targets["cluster"].act == "recover", "audited: who, when, what"


def test_the_recovery_key_begins_one_too() -> None:
    assert begun(Ledger(), by="recovery")[0].epoch == 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"epoch": 3}, Conflict),
        ({"index": 1}, Conflict),
        ({"chain": "0" * 64}, Conflict),
        ({"survivor": "b" * 26}, Unprocessable),
    ],
)
def test_what_was_signed_for_another_head_epoch_or_survivor_begins_none(
    changes: dict[str, object], error: type[MusterError]
) -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service()))
    with pytest.raises(error):
        begin_epoch(ledger.state, entry_of(ledger, recovery(ledger, **changes)))


def test_a_taken_host_has_no_key_that_could() -> None:
    ledger = Ledger()
    ledger.instruct("grant", "operator:bob", Grant(operator=operator("bob", "deploy")))
    with pytest.raises(NotAllowed):
        begun(ledger, by="bob")
    with pytest.raises(NotAuthenticated):
        begun(ledger, by="nobody")
    entry = entry_of(ledger, recovery(ledger))
    with pytest.raises(NotAuthenticated):
        begin_epoch(ledger.state, replace(entry, body=entry.body.replace(b'"epoch":2', b'"epoch":3')))


def test_another_hosts_permission_cant_be_used() -> None:
    ledger = Ledger()
    with pytest.raises(Unprocessable, match="another survivor"):
        begin_epoch(ledger.state, replace(entry_of(ledger, recovery(ledger)), via=ledger.id("n2")))


def test_another_instruction_begins_none() -> None:
    ledger = Ledger()
    with pytest.raises(Unprocessable):
        begin_epoch(ledger.state, ledger.signed("deploy", "stack:shop", stack(web=service())))


def test_in_consensus_it_is_refused_and_changes_nothing() -> None:
    """Whoever coordinates could replay one that was meant for a survivor alone."""
    ledger = Ledger()
    result = ledger.instruct("recover", "cluster", recovery(ledger))
    assert result.outcome == "refused"
    assert ledger.state.epoch == 1
    assert "cluster" not in ledger.state.targets


def test_a_snapshot_of_it_is_proven_and_leads_others_into_it() -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service()))
    state, _ = begun(ledger)
    again = decode_snapshot(encode_snapshot(state), verify=True, founded_as=ledger.state)
    assert again == state
    check_crossing(ledger.state, again)
    check_crossing(Ledger().state, again)


def test_several_epochs_are_crossed_at_once() -> None:
    ledger = Ledger()
    first = ledger.state
    ledger.state, _ = begun(ledger)
    ledger.deploy(stack(web=service()))
    ledger.state, _ = begun(ledger)
    again = decode_snapshot(encode_snapshot(ledger.state), verify=True)
    assert again.epoch == 3
    check_crossing(first, again)


@pytest.mark.parametrize("lie", ["unsigned", "skipped", "another epoch"])
def test_an_epoch_that_nobody_began_is_proven_by_nothing(lie: str) -> None:
    ledger = Ledger()
    if lie == "unsigned":
        state = replace(ledger.state, epoch=2)
    elif lie == "skipped":
        state = replace(begun(ledger)[0], epoch=3)
    else:
        state = begun(ledger)[0]
        key, evidence = next((key, item) for key, item in state.evidence.items() if item.act == "recover")
        again = ledger.signed("recover", "cluster", recovery(ledger, epoch=2), rev=1)
        ledger.state = replace(ledger.state, epoch=2)
        late = ledger.signed("recover", "cluster", recovery(ledger, epoch=2), rev=1)
        assert again.token != late.token
        state = replace(state, evidence={**state.evidence, key: replace(evidence, token=late.token, body=late.body)})
    with pytest.raises(SnapshotRefused):
        decode_snapshot(encode_snapshot(state), verify=True)


def test_who_was_revoked_leads_nobody_away_who_knows_it() -> None:
    ledger = Ledger()
    ledger.instruct("grant", "operator:eve", Grant(operator=operator("eve", "admin")))
    taken = ledger.state
    ledger.instruct("revoke", "operator:eve", Revoke())
    knowing, ledger.state = ledger.state, taken
    state, _ = begun(ledger, by="eve")
    again = decode_snapshot(encode_snapshot(state), verify=True)  # she was an admin once, so it holds in itself
    check_crossing(taken, again)
    with pytest.raises(SnapshotRefused):
        check_crossing(knowing, again)


def test_an_admin_granted_since_leads_those_who_were_away() -> None:
    ledger = Ledger()
    away = ledger.state
    ledger.instruct("grant", "operator:ann", Grant(operator=operator("ann", "deploy"), replaces=operator("ann")))
    ledger.instruct("grant", "operator:eve", Grant(operator=operator("eve", "admin")), by="recovery")
    state, _ = begun(ledger, by="eve")
    check_crossing(away, decode_snapshot(encode_snapshot(state), verify=True))


def test_another_cluster_with_the_same_id_leads_nobody_away() -> None:
    state, _ = begun(Ledger("n1", "n9"))
    with pytest.raises(SnapshotRefused, match="genesis"):
        check_crossing(Ledger().state, decode_snapshot(encode_snapshot(state), verify=True))
