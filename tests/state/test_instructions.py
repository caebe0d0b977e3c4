"""What instructions do to the state, and when they don't (ARCHITECTURE.md "The way of an instruction")."""

from __future__ import annotations

import sys

import msgspec
import pytest
from msgspec.structs import replace

from agent.errors import InvariantBroken
from agent.instruction import encode_body
from agent.model.instruction import Act, Cancel, Drain, Enrol, Expel, Grant, Relabel, Revoke, Services, Undrain
from agent.model.ledger import InstructionEntry, LevelEntry, encode_entry
from agent.model.stack import Service
from agent.state import STATE_LEVEL, SnapshotRefused, UnknownEntry, apply, decode_snapshot, encode_snapshot
from tests.support.ledger import Ledger, genesis_entry, member, operator, service, stack, tampered

JTI = "0123456789abcdef" * 2


def frozen_but_for_history(ledger: Ledger) -> object:
    """The state without what every entry moves."""
    return replace(ledger.state, index=0, chain="", at=0)


def test_genesis_is_a_pure_function_of_entry_one() -> None:
    one, other = Ledger("n1", "n2"), Ledger("n1", "n2")
    assert one.state == other.state
    assert one.state.index == 1
    assert {item.name for item in one.state.members.values()} == {"n1", "n2"}
    assert set(one.state.operators) == {"ann", "recovery"}


def test_a_deploy_applies_at_the_next_revision_only() -> None:
    ledger = Ledger()
    assert ledger.deploy(stack()).outcome == "applied"
    for revision in (1, 3, 7):
        answer = ledger.deploy(stack(web=service(replicas=2)), rev=revision)
        assert answer.outcome == "conflict"
        assert answer.kind == "conflict"
    assert ledger.deploy(stack(web=service(replicas=2)), rev=2).outcome == "applied"
    assert ledger.state.stacks["shop"].revision == 2


def test_the_first_revision_of_a_target_is_one() -> None:
    answer = Ledger().deploy(stack(), rev=2)
    assert answer.outcome == "conflict"
    assert "the next one is 1" in answer.what


def test_the_same_instruction_again_gets_the_first_answer() -> None:
    ledger = Ledger()
    entry = ledger.signed("deploy", "stack:shop", stack())
    first = ledger.propose(entry)[0].result
    before = frozen_but_for_history(ledger)
    again = ledger.propose(replace(entry, at=entry.at + 50_000))[0].result
    assert first is not None
    assert again == replace(first, repeated=True)
    assert frozen_but_for_history(ledger) == before


def test_another_body_for_a_taken_revision_names_who_and_when() -> None:
    ledger = Ledger()
    ledger.instruct("grant", "operator:bob", Grant(operator=operator("bob", "deploy")))
    first = ledger.deploy(stack(), by="bob")
    second = ledger.deploy(stack(web=service(replicas=2)), rev=1)
    assert (second.outcome, second.by, second.at) == ("conflict", "bob", first.at)
    assert "deploy by bob" in second.what


def test_a_refused_instruction_takes_no_revision_and_keeps_its_answer() -> None:
    ledger = Ledger()
    entry = ledger.signed("deploy", "stack:shop", stack(web=service(host="n9")))
    refused = ledger.propose(entry)[0].result
    assert refused is not None
    assert (refused.outcome, refused.kind) == ("refused", "unprocessable")
    assert "n9 isn't a member" in refused.what
    assert "stack:shop" not in ledger.state.targets
    assert ledger.propose(entry)[0].result == replace(refused, repeated=True)
    assert ledger.deploy(stack()).outcome == "applied"


def test_refusals_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["agent.state.apply"], "MAX_REFUSALS", 3)  # the package's `apply` is the function
    ledger = Ledger()
    jtis = []
    for _ in range(5):
        jtis.append(ledger.remove().jti)
    assert set(ledger.state.refusals) == set(jtis[-3:])


@pytest.mark.parametrize("verify", [True, False])
def test_a_changed_body_is_refused_and_moves_only_the_history(verify: bool) -> None:
    ledger = Ledger()
    before = frozen_but_for_history(ledger)
    entry = tampered(ledger.signed("deploy", "stack:shop", stack()), stack(web=service(replicas=9)))
    ledger.state, applied = apply(ledger.state, 2, encode_entry(entry), verify=verify)
    assert applied.result is not None
    assert (applied.result.outcome, applied.result.kind) == ("refused", "not-authenticated")
    assert applied.act is None
    assert frozen_but_for_history(ledger) == before


def test_a_forged_signature_is_refused() -> None:
    ledger = Ledger()
    entry = ledger.signed("deploy", "stack:shop", stack())
    head, claims, signature = entry.token.split(".")
    forged = replace(entry, token=f"{head}.{claims}.{('A' if signature[0] != 'A' else 'B') + signature[1:]}")
    before = frozen_but_for_history(ledger)
    applied = ledger.propose(forged)[0]
    assert applied.result is not None
    assert applied.result.kind == "not-authenticated"
    assert frozen_but_for_history(ledger) == before


def test_an_operator_without_scope_is_refused() -> None:
    ledger = Ledger()
    ledger.instruct("grant", "operator:bob", Grant(operator=operator("bob", "operate")))
    answer = ledger.deploy(stack(), by="bob")
    assert (answer.outcome, answer.kind) == ("refused", "not-allowed")


def test_ledger_time_never_goes_backwards() -> None:
    ledger = Ledger()
    ledger.deploy(stack())
    late = ledger.state.at
    ledger.now_ms -= 3_600_000
    ledger.scale(web=2)
    assert ledger.state.at == late
    assert ledger.state.stacks["shop"].changed_at == late


def test_the_chain_covers_every_entry_and_its_place() -> None:
    one, other = Ledger(), Ledger()
    one.deploy(stack())
    other.deploy(stack(web=service(replicas=2)))
    assert one.state.chain != other.state.chain
    data = one.entries[1]
    assert apply(Ledger().state, 2, data)[0].chain != apply(Ledger().state, 3, data)[0].chain


def test_an_entry_that_cannot_be_read_stops_the_agent() -> None:
    ledger = Ledger()
    for data in (
        b"",
        b"\xc1",
        b"\x81\xa1v\x02",
        encode_entry(LevelEntry(at=1, level=STATE_LEVEL + 1)),
        genesis_entry((member("n1"),)),
    ):
        with pytest.raises(UnknownEntry):
            apply(ledger.state, 2, data)
    assert issubclass(UnknownEntry, InvariantBroken)


def test_an_entry_of_the_past_stops_the_agent() -> None:
    ledger = Ledger()
    with pytest.raises(InvariantBroken):
        apply(ledger.state, 1, encode_entry(LevelEntry(at=1, level=1)))


def test_a_lower_level_changes_nothing() -> None:
    ledger = Ledger()
    ledger.propose(LevelEntry(at=1, level=STATE_LEVEL), LevelEntry(at=1, level=1))
    assert ledger.state.level == STATE_LEVEL


def test_an_act_of_a_later_level_changes_nothing_until_the_ledger_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent of before can't read it, and must have the same state."""
    ledger = Ledger()
    monkeypatch.setattr(sys.modules["agent.state.apply"], "ACT_LEVELS", {"deploy": 2})
    before = frozen_but_for_history(ledger)
    answer = ledger.deploy(stack())
    assert (answer.outcome, answer.target, answer.fix != "") == ("refused", "cluster", True)
    assert frozen_but_for_history(ledger) == before
    ledger.state = replace(ledger.state, level=2)
    assert ledger.deploy(stack()).outcome == "applied"


@pytest.mark.parametrize("act", ["deploy", "place"])
def test_so_does_a_deploy_with_what_came_with_a_later_level(act: Act) -> None:
    """Also written out as it is by default: an agent of before refuses the body for the field's name."""
    ledger = Ledger()
    before = frozen_but_for_history(ledger)
    body = stack(web=service(move_order="stop-first"))
    answer = ledger.instruct(act, "stack:shop", body)
    assert (answer.outcome, answer.target, answer.fix != "") == ("refused", "cluster", True)
    assert frozen_but_for_history(ledger) == before
    for written in (None, "start-first"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"image": {"ref": "app:1"}, "move_order": written}, Service)
    ledger.propose(LevelEntry(at=ledger.now_ms, level=body.level))
    assert ledger.instruct(act, "stack:shop", body).outcome == "applied"


def test_skipping_the_signature_gives_the_same_state() -> None:
    ledger = Ledger()
    ledger.deploy(stack())
    ledger.scale(web=3)
    ledger.deploy(stack(web=service(host="n9")))
    state = Ledger().state
    for index, data in enumerate(ledger.entries[1:], start=2):
        state, _ = apply(state, index, data, verify=False)
    assert encode_snapshot(state) == encode_snapshot(ledger.state)


def test_counters_outlive_deletion() -> None:
    ledger = Ledger()
    ledger.deploy(stack())
    ledger.remove()
    assert "shop" not in ledger.state.stacks
    assert ledger.deploy(stack(), rev=1).outcome == "conflict"
    assert ledger.deploy(stack(), rev=3).outcome == "applied"


def test_cancel_takes_the_revision_so_the_open_one_never_applies() -> None:
    ledger = Ledger()
    ledger.deploy(stack())
    opened = ledger.signed("scale", "stack:shop", Services())  # any open instruction at revision 2
    assert ledger.instruct("cancel", "stack:shop", Cancel(jti=JTI)).outcome == "applied"
    assert ledger.state.stacks["shop"].revision == 2
    late = ledger.signed("restart", "stack:shop", Services(), rev=2)
    result = ledger.propose(late)[0].result
    assert opened
    assert result is not None
    assert result.outcome == "conflict"


class TestMembers:
    def test_enrol_enters_a_member(self) -> None:
        ledger = Ledger()
        new = member("n4")
        assert ledger.instruct("enrol", f"member:{new.id}", Enrol(member=new)).outcome == "applied"
        assert ledger.state.members[new.id] == new
        assert ledger.last is not None
        assert ledger.last.members == {new.id}

    def test_a_taken_name_is_refused(self) -> None:
        ledger = Ledger()
        other = replace(member("n4"), name="n1")
        answer = ledger.instruct("enrol", f"member:{other.id}", Enrol(member=other))
        assert (answer.outcome, answer.kind) == ("refused", "conflict")

    def test_an_expelled_id_never_returns(self) -> None:
        ledger = Ledger()
        gone = member("n3")
        assert ledger.instruct("expel", f"member:{gone.id}", Expel()).outcome == "applied"
        assert gone.id in ledger.state.expelled
        answer = ledger.instruct("enrol", f"member:{gone.id}", Enrol(member=gone))
        assert answer.outcome == "refused"
        assert "expelled" in answer.what

    def test_an_id_that_is_not_the_keys_is_refused(self) -> None:
        ledger = Ledger()
        forged = replace(member("n4"), signing_key=member("n5").signing_key)
        assert ledger.instruct("enrol", f"member:{forged.id}", Enrol(member=forged)).outcome == "refused"

    def test_the_last_member_stays(self) -> None:
        ledger = Ledger("n1")
        answer = ledger.instruct("expel", f"member:{ledger.id('n1')}", Expel())
        assert (answer.outcome, answer.kind) == ("refused", "unprocessable")

    def test_an_unknown_member_cannot_be_expelled(self) -> None:
        answer = Ledger().instruct("expel", f"member:{member('n9').id}", Expel())
        assert (answer.outcome, answer.kind) == ("refused", "not-found")

    def test_expelling_a_host_takes_its_assignments(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack(web=service(replicas=2)))
        ledger.assign(ledger.assignment("n1", slot=1), ledger.assignment("n2", slot=2))
        ledger.instruct("expel", f"member:{ledger.id('n2')}", Expel())
        assert {item.slot for item in ledger.state.assignments.values()} == {1}
        assert ledger.last is not None
        assert {key.slot for key in ledger.last.released} == {2}
        assert ledger.last.stacks == {"shop"}

    def test_expelling_the_last_host_of_a_removed_stack_ends_it(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack())
        ledger.assign(ledger.assignment("n2"))
        ledger.remove()
        ledger.instruct("expel", f"member:{ledger.id('n2')}", Expel())
        assert "shop" not in ledger.state.stacks
        assert not ledger.state.signed


class TestLabels:
    def test_they_replace_those_of_the_enrolment_and_are_in_the_snapshot(self) -> None:
        ledger = Ledger()
        before = ledger.state.members[ledger.id("n2")]
        assert ledger.relabel("n2", zone="b", disk="ssd").outcome == "applied"
        assert ledger.state.members[before.id] == replace(before, labels={"zone": "b", "disk": "ssd"})
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state

    def test_only_the_newest_are_kept(self) -> None:
        ledger = Ledger()
        assert [ledger.relabel("n2", zone="b").outcome, ledger.relabel("n2").outcome] == ["applied", "applied"]
        assert ledger.state.members[ledger.id("n2")].labels == {}
        assert list(ledger.state.evidence) == [f"host:{ledger.id('n2')}/2"]
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state

    def test_a_drain_and_its_end_leave_them_and_they_leave_a_drain(self) -> None:
        ledger = Ledger()
        ledger.drain("n2")
        ledger.relabel("n2", zone="b")
        assert ledger.state.drained == {ledger.id("n2")}
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state
        ledger.undrain("n2")
        assert ledger.state.members[ledger.id("n2")].labels == {"zone": "b"}
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state

    def test_another_enrolment_says_them_anew(self) -> None:
        ledger = Ledger()
        ledger.relabel("n2", zone="b")
        again = replace(ledger.state.members[ledger.id("n2")], labels={"zone": "c"}, address="192.0.2.9")
        assert ledger.instruct("enrol", f"member:{again.id}", Enrol(member=again)).outcome == "applied"
        assert ledger.state.members[again.id].labels == {"zone": "c"}
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state

    def test_they_go_with_the_member(self) -> None:
        ledger = Ledger()
        gone = ledger.id("n2")
        ledger.relabel("n2", zone="b")
        ledger.instruct("expel", f"member:{gone}", Expel())
        assert not ledger.state.evidence
        assert ledger.instruct("relabel", f"host:{gone}", Relabel()).kind == "not-found"

    def test_what_nobody_signed_is_refused_in_a_snapshot(self) -> None:
        ledger = Ledger()
        ledger.relabel("n2", zone="b")
        known = ledger.state.members[ledger.id("n2")]
        for labels in ({"zone": "c"}, {}):
            forged = replace(ledger.state, members={**ledger.state.members, known.id: replace(known, labels=labels)})
            with pytest.raises(SnapshotRefused, match="a member that nobody enrolled"):
                decode_snapshot(encode_snapshot(forged))


class TestDrains:
    def test_a_drain_holds_until_it_is_ended_and_is_in_the_snapshot(self) -> None:
        ledger = Ledger()
        assert ledger.drain("n2").outcome == "applied"
        assert ledger.state.drained == {ledger.id("n2")}
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state
        assert ledger.undrain("n2").outcome == "applied"
        assert not ledger.state.drained
        assert not ledger.state.evidence
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state

    def test_both_may_be_said_twice_and_only_the_newest_drain_is_kept(self) -> None:
        ledger = Ledger()
        assert [ledger.drain("n2").outcome, ledger.drain("n2").outcome] == ["applied", "applied"]
        assert list(ledger.state.evidence) == [f"host:{ledger.id('n2')}/2"]
        assert [ledger.undrain("n2").outcome, ledger.undrain("n2").outcome] == ["applied", "applied"]
        assert not ledger.state.drained

    def test_assignments_are_left_to_the_coordinator(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack())
        ledger.assign(ledger.assignment("n2"))
        before = ledger.state.assignments
        ledger.drain("n2")
        assert ledger.state.assignments == before

    def test_the_drain_goes_with_the_member(self) -> None:
        ledger = Ledger()
        gone = ledger.id("n2")
        ledger.drain("n2")
        ledger.instruct("expel", f"member:{gone}", Expel())
        assert not ledger.state.drained
        assert not ledger.state.evidence
        assert ledger.instruct("drain", f"host:{gone}", Drain()).kind == "not-found"
        assert ledger.instruct("undrain", f"host:{gone}", Undrain()).kind == "not-found"

    def test_another_certificate_or_address_leaves_it_drained(self) -> None:
        ledger = Ledger()
        ledger.drain("n2")
        moved = replace(ledger.state.members[ledger.id("n2")], address="192.0.2.9")
        assert ledger.instruct("enrol", f"member:{moved.id}", Enrol(member=moved)).outcome == "applied"
        assert ledger.state.drained == {moved.id}

    def test_whoever_is_limited_to_some_stacks_is_refused(self) -> None:
        ledger = Ledger()
        for name, globs in (("bob", ("*",)), ("eve", ("shop",))):
            ledger.instruct("grant", f"operator:{name}", Grant(operator=operator(name, "operate", stacks=globs)))
        assert ledger.instruct("drain", f"host:{ledger.id('n1')}", Drain(), by="bob").outcome == "applied"
        assert ledger.instruct("drain", f"host:{ledger.id('n2')}", Drain(), by="eve").kind == "not-allowed"
        assert ledger.state.drained == {ledger.id("n1")}


class TestOperators:
    def test_grant_and_revoke(self) -> None:
        ledger = Ledger()
        ledger.instruct("grant", "operator:bob", Grant(operator=operator("bob", "deploy")))
        assert ledger.deploy(stack(), by="bob").outcome == "applied"
        ledger.instruct("revoke", "operator:bob", Revoke())
        assert ledger.deploy(stack(web=service(replicas=2)), by="bob").kind == "not-authenticated"

    def test_the_last_admin_stays(self) -> None:
        ledger = Ledger()
        assert ledger.instruct("revoke", "operator:recovery", Revoke()).outcome == "applied"
        assert ledger.instruct("revoke", "operator:ann", Revoke()).outcome == "refused"
        weaker = Grant(operator=operator("ann", "deploy"), replaces=operator("ann"))
        assert ledger.instruct("grant", "operator:ann", weaker).outcome == "refused"
        assert ledger.state.operators["ann"].scope == "admin"

    @pytest.mark.parametrize("wrong", [None, {"key": "eve"}, {"scope": "read"}, {"stacks": ("*",)}])
    def test_a_grant_names_what_it_replaces(self, wrong: dict[str, str] | None) -> None:
        """Else an agent that tells a wrong key or scope has the admin sign it along with what is to be changed."""
        ledger = Ledger()
        bob = operator("bob", "deploy", stacks=("blog-*",))
        ledger.instruct("grant", "operator:bob", Grant(operator=bob))
        told = None
        if wrong is not None:
            told = replace(bob, **({"key": operator("eve").key} if "key" in wrong else wrong))
        answer = ledger.instruct("grant", "operator:bob", Grant(operator=told or operator("bob"), replaces=told))
        assert (answer.outcome, answer.kind) == ("refused", "conflict")
        assert ledger.state.operators["bob"] == bob
        more = Grant(operator=replace(bob, scope="admin"), replaces=bob)
        assert ledger.instruct("grant", "operator:bob", more).outcome == "applied"
        assert (
            ledger.instruct("grant", "operator:amy", Grant(operator=operator("amy"), replaces=bob)).kind == "conflict"
        )

    def test_an_unknown_operator_cannot_be_revoked(self) -> None:
        assert Ledger().instruct("revoke", "operator:eve", Revoke()).kind == "not-found"


class TestStacks:
    def test_a_deploy_is_kept_signed(self) -> None:
        ledger = Ledger()
        answer = ledger.deploy(stack())
        held = ledger.state.signed[answer.digest]
        assert held.stack == stack()
        assert held.body == encode_body(stack())
        assert ledger.state.stacks["shop"].deployed == held.ref

    def test_previous_is_the_deploy_that_was_healthy_last(self) -> None:
        ledger = Ledger()
        first = ledger.deploy(stack())
        ledger.phase("healthy")
        second = ledger.deploy(stack(web=service(replicas=2)))
        third = ledger.deploy(stack(web=service(replicas=3)))
        held = ledger.state.stacks["shop"]
        assert held.previous is not None
        assert held.previous.revision == first.revision
        assert set(ledger.state.signed) == {first.digest, third.digest}
        assert second.digest not in ledger.state.signed

    def test_a_failed_rollout_puts_the_previous_deploy_in_force_with_its_scale(self) -> None:
        ledger = Ledger()
        first = ledger.deploy(stack(web=service(replicas=1), old=service()))
        ledger.phase("healthy")
        ledger.scale(web=5)
        ledger.stop("old")
        ledger.phase("healthy")
        ledger.deploy(stack(web=service(replicas=2)))
        held = ledger.state.stacks["shop"]
        assert (held.scale, held.stopped) == ({}, frozenset())
        ledger.phase("failed", reason="web.1 on n1: exit 1")
        held = ledger.state.stacks["shop"]
        assert held.deployed.revision == first.revision
        assert held.phase == "failed"
        assert held.scale == {"web": 5}
        assert held.stopped == {"old"}
        assert set(ledger.state.signed) == {first.digest}

    def test_a_failure_after_it_was_healthy_returns_nowhere(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack())
        ledger.phase("healthy")
        second = ledger.deploy(stack(web=service(replicas=2)))
        ledger.phase("healthy")
        ledger.scale(web=9)
        ledger.phase("failed", reason="no host")
        assert ledger.state.stacks["shop"].deployed.revision == second.revision

    def test_scale_ends_with_the_next_deploy(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack())
        ledger.scale(web=4)
        assert ledger.state.stacks["shop"].scale == {"web": 4}
        ledger.deploy(stack(web=service(replicas=2)))
        assert ledger.state.stacks["shop"].scale == {}

    def test_a_restart_gives_a_greater_generation_that_outlives_deploys(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack(web=service(), db=service()))
        ledger.restart("web")
        first = ledger.state.stacks["shop"].generations
        assert first == {"web": 2}
        ledger.restart()
        assert ledger.state.stacks["shop"].generations == {"web": 3, "db": 3}
        ledger.deploy(stack(web=service(replicas=2)))
        assert ledger.state.stacks["shop"].generations == {"web": 3}

    def test_stop_and_start(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack(web=service(), db=service()))
        ledger.stop()
        assert ledger.state.stacks["shop"].stopped == {"web", "db"}
        ledger.start("db")
        assert ledger.state.stacks["shop"].stopped == {"web"}
        assert ledger.state.stacks["shop"].phase == "preparing"

    def test_what_is_started_is_held_until_the_phase_of_its_class(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack(db=service(), main=service(role="main"), job=service(role="worker")))
        ledger.phase("healthy")
        ledger.stop()
        ledger.phase("stopped")
        ledger.start()
        seen = []
        for phase in ("services", "main", "workers"):
            seen.append(set(ledger.state.stacks["shop"].held))
            before = ledger.state.index
            ledger.phase(phase)
            assert ledger.state.stacks["shop"].moved_index > before  # older reports don't tell of it
        assert seen == [{"db", "main", "job"}, {"main", "job"}, {"job"}]
        assert ledger.state.stacks["shop"].held == frozenset()

    def test_what_is_stopped_before_its_turn_stays_stopped(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack(main=service(role="main"), job=service(role="worker")))
        ledger.stop()
        ledger.start()
        ledger.stop("job")
        held = ledger.state.stacks["shop"]
        assert (held.held, held.stopped) == (frozenset({"main"}), frozenset({"job"}))

    def test_a_place_puts_a_stack_in_force_with_all_of_it_stopped(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack(web=service()))
        ledger.phase("healthy")
        answer = ledger.place(stack(web=service(replicas=2), db=service()))
        both = frozenset({"web", "db"})
        held = ledger.state.stacks["shop"]
        assert (held.deployed.digest, held.stopped, held.held) == (answer.digest, both, frozenset())
        assert held.previous is not None
        assert ledger.deploy(stack(web=service(replicas=2), db=service())).outcome == "applied"
        held = ledger.state.stacks["shop"]
        assert (held.deployed.digest, held.stopped, held.held) == (answer.digest, frozenset(), both)

    def test_unknown_services_are_refused_by_name(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack())
        for answer in (ledger.scale(nope=2), ledger.stop("nope"), ledger.start("nope"), ledger.restart("nope")):
            assert (answer.outcome, answer.kind) == ("refused", "not-found")
            assert "nope" in answer.what

    def test_a_global_service_cannot_be_scaled(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack(agent=service(replicas="global")))
        assert ledger.scale(agent=2).kind == "unprocessable"

    def test_more_replicas_than_a_stack_may_have_are_refused(self) -> None:
        ledger = Ledger()
        answer = ledger.deploy(stack(one=service(replicas=6000), two=service(replicas=6000)))
        assert (answer.outcome, answer.kind) == ("refused", "bad-input")

    def test_acts_on_a_stack_that_is_not_there_are_refused(self) -> None:
        ledger = Ledger()
        for answer in (ledger.scale(web=2), ledger.stop(), ledger.remove()):
            assert answer.kind == "not-found"

    def test_a_removed_stack_goes_with_its_last_assignment(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack())
        ledger.assign(ledger.assignment("n1"))
        ledger.remove(delete_volumes=True)
        held = ledger.state.stacks["shop"]
        assert (held.removing, held.delete_volumes, held.phase) == (True, True, "removing")
        assert ledger.scale(web=2).outcome == "refused"

    def test_a_stack_being_removed_can_be_deployed_again(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack())
        ledger.phase("healthy")
        ledger.assign(ledger.assignment("n1"))
        ledger.remove()
        ledger.deploy(stack(web=service(replicas=2)))
        held = ledger.state.stacks["shop"]
        assert (held.removing, held.previous, held.phase) == (False, None, "preparing")

    def test_the_same_plan_deployed_again_keeps_one_signed_copy(self) -> None:
        ledger = Ledger()
        ledger.deploy(stack())
        ledger.assign(ledger.assignment("n1"))
        ledger.phase("healthy")
        again = ledger.deploy(stack())
        assert again.outcome == "applied"
        assert set(ledger.state.signed) == {again.digest}
        assert ledger.state.stacks["shop"].deployed.revision == 2


def test_the_body_of_another_act_is_refused() -> None:
    ledger = Ledger()
    entry = ledger.signed("deploy", "stack:shop", Services())
    assert isinstance(entry, InstructionEntry)
    result = ledger.propose(entry)[0].result
    assert result is not None
    assert result.outcome == "refused"
