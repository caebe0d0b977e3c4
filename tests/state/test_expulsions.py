"""The instruction that expelled a host is kept from a level on: what it proves, and what can't be said without it."""

from __future__ import annotations

import sys

import pytest
from msgspec.structs import replace

from agent.model.instruction import Cancel, Enrol, Expel, Grant, Revoke
from agent.model.ledger import LevelEntry
from agent.state import (
    EXPULSION_LEVEL,
    ClusterState,
    SnapshotRefused,
    decode_snapshot,
    encode_snapshot,
    expelled_unproven,
    expulsions,
    proven_expelled,
)
from agent.state.types import Evidence
from tests.support.ledger import Ledger, member, operator


def ledger_at(level: int = EXPULSION_LEVEL) -> Ledger:
    ledger = Ledger("n1", "n2", "n3")
    ledger.propose(LevelEntry(at=ledger.now_ms, level=level))
    return ledger


def expel(ledger: Ledger, name: str, by: str = "ann") -> str:
    gone = member(name).id
    result = ledger.instruct("expel", f"member:{gone}", Expel(reason="stolen"), by=by)
    assert result is not None
    assert result.outcome == "applied"
    return gone


def read(state: ClusterState) -> ClusterState:
    return decode_snapshot(encode_snapshot(state))


def test_it_is_kept_as_it_was_signed_and_proven_in_a_snapshot() -> None:
    ledger = ledger_at()
    gone = expel(ledger, "n3")
    (kept,) = expulsions(ledger.state).values()
    assert (kept.act, kept.target, kept.revision) == ("expel", f"member:{gone}", 1)
    assert kept.body == b'{"reason":"stolen"}'
    assert read(ledger.state) == ledger.state


def test_it_takes_the_place_of_what_made_the_member() -> None:
    ledger = ledger_at()
    new = member("n4")
    ledger.instruct("enrol", f"member:{new.id}", Enrol(member=new))
    expel(ledger, "n4")
    assert list(ledger.state.evidence) == [f"member:{new.id}/2"]


def test_below_its_level_none_is_kept_as_earlier_agents_keep_none() -> None:
    ledger = ledger_at(EXPULSION_LEVEL - 1)
    gone = expel(ledger, "n3")
    assert gone in ledger.state.expelled
    assert not ledger.state.evidence
    ledger.propose(LevelEntry(at=ledger.now_ms, level=EXPULSION_LEVEL))
    expel(ledger, "n2")
    assert expulsions(ledger.state).keys() == {member("n2").id}
    assert read(ledger.state) == ledger.state, "with somebody expelled before it was kept"


def test_it_holds_when_its_operator_is_one_no_more() -> None:
    ledger = ledger_at()
    ledger.instruct("grant", "operator:eve", Grant(operator=operator("eve")))
    expel(ledger, "n3", by="eve")
    ledger.instruct("revoke", "operator:eve", Revoke())
    assert read(ledger.state) == ledger.state


def _with(state: ClusterState, **changes: object) -> ClusterState:
    (key, kept), *_ = [(key, item) for key, item in state.evidence.items() if item.act == "expel"]
    made: Evidence = replace(kept, **changes)
    rest = {other: item for other, item in state.evidence.items() if other != key}
    return replace(state, evidence={**rest, f"{made.target}/{made.revision}": made})


def test_one_that_nobody_signed_is_refused() -> None:
    ledger = ledger_at()
    expel(ledger, "n3")
    other, mallory = member("n2").id, ledger_at()
    mallory.state = replace(mallory.state, operators={**mallory.state.operators, "mal": operator("mal")})
    expel(mallory, "n3", by="mal")
    for lie in (
        _with(ledger.state, body=b'{"reason":"sold"}'),
        _with(ledger.state, target=f"member:{other}"),
        _with(ledger.state, revision=2),
        replace(ledger.state, evidence=mallory.state.evidence),
        replace(ledger.state, expelled=frozenset()),
    ):
        with pytest.raises(SnapshotRefused):
            read(lie)


def test_who_was_expelled_since_is_proven_to_be() -> None:
    """An agent at that level knows everybody who had been expelled before."""
    ledger = ledger_at()
    before = ledger.state
    gone = expel(ledger, "n3")
    assert expelled_unproven(before, ledger.state) == frozenset()
    bare = replace(ledger.state, evidence={})
    assert expelled_unproven(before, bare) == {gone}
    assert expelled_unproven(ledger.state, bare) == frozenset(), "known already"
    earlier = ledger_at(EXPULSION_LEVEL - 1)
    assert expelled_unproven(earlier.state, bare) == frozenset(), "that may have been before the level"


def test_an_operator_whose_authority_has_ended_proves_no_expulsion() -> None:
    """The ledger that saw it end would have the expulsion itself, so it was signed since."""
    ledger = ledger_at()
    ledger.instruct("grant", "operator:eve", Grant(operator=operator("eve")))
    granted = ledger.state
    gone = expel(ledger, "n3", by="eve")
    since, every = ledger.state, {gone, member("n2").id}
    assert proven_expelled(granted, since, every) == {gone}
    assert proven_expelled(granted, since, {member("n2").id}) == frozenset(), "not asked about"
    assert proven_expelled(ledger_at().state, since, every) == {gone}, "by somebody who came later"
    revoked = replace(granted, operators={"ann": granted.operators["ann"]})
    assert proven_expelled(revoked, since, every) == frozenset()
    for other in (operator("eve", "deploy"), replace(operator("eve"), key=operator("mal").key)):
        regranted = replace(granted, operators={**granted.operators, "eve": other})
        assert proven_expelled(regranted, since, every) == frozenset()


def test_the_newest_are_kept_by_the_ledgers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["agent.state.membership"], "MAX_EXPULSIONS_KEPT", 2)
    ledger = Ledger("n1", "n2", "n3", "n4", "n5")
    ledger.propose(LevelEntry(at=ledger.now_ms, level=EXPULSION_LEVEL))
    before = ledger.state
    gone = [expel(ledger, "n4"), expel(ledger, "n2")]
    ledger.state = read(ledger.state)
    gone.append(expel(ledger, "n3"))
    assert expulsions(ledger.state).keys() == set(gone[1:])
    assert expelled_unproven(before, ledger.state) == frozenset(), "of so many some are forgotten"
    assert read(ledger.state) == ledger.state


def test_nothing_is_cancelled_on_who_was_expelled_so_that_its_last_instruction_says_so() -> None:
    """`bootstrap install` goes by it, and the host's own status."""
    ledger = ledger_at()
    gone = expel(ledger, "n3")
    result = ledger.instruct("cancel", f"member:{gone}", Cancel())
    assert result is not None
    assert (result.outcome, result.what) == ("refused", f"{gone} was expelled, and ids never return")
    assert ledger.state.targets[f"member:{gone}"].act == "expel"


def test_below_that_level_it_is_as_earlier_agents_do() -> None:
    ledger = ledger_at(EXPULSION_LEVEL - 1)
    result = ledger.instruct("cancel", f"member:{expel(ledger, 'n3')}", Cancel())
    assert result is not None
    assert result.outcome == "applied"
