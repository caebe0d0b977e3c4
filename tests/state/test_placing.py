"""The coordinator's entries can only point at what operators signed; everything else changes nothing."""

from __future__ import annotations

import typing
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from agent.model.instruction import Expel
from agent.model.ledger import (
    AssignedPort,
    AssignEntry,
    Assignment,
    LevelEntry,
    Phase,
    PhaseEntry,
    Predecessor,
    Slot,
)
from agent.model.spec import ReplicaKey
from agent.model.stack import InstructionRef, PortSpec, Service
from agent.state import (
    PORT_TRIES,
    PREDECESSOR_LEVEL,
    REMOVAL_LEVEL,
    SnapshotRefused,
    decode_snapshot,
    encode_snapshot,
)
from agent.state.placing import MOVES
from tests.support.ledger import Ledger, member, service, stack

PHASES: tuple[Phase, ...] = typing.get_args(Phase)
WEB = ReplicaKey(stack="shop", service="web", slot=1)


def with_web(**fields: object) -> Ledger:
    ledger = Ledger(members=(member("n1", (("disk", "ssd"),)), member("n2")))
    ledger.deploy(stack(web=service(**fields)))
    return ledger


def test_an_assignment_is_made_replaced_and_released() -> None:
    ledger = with_web()
    made = ledger.assign(ledger.assignment("n1"))
    assert made.assigned == {WEB}
    assert ledger.state.assignments[WEB].host == ledger.id("n1")
    ledger.assign(ledger.assignment("n2"))
    assert ledger.state.assignments[WEB].host == ledger.id("n2")
    entry = AssignEntry(at=ledger.now_ms, stack="shop", revision=1, release=(Slot(service="web", slot=1),))
    assert ledger.propose(entry)[0].released == {WEB}
    assert not ledger.state.assignments


def test_the_stack_remembers_where_its_replicas_were_changed_last() -> None:
    ledger = with_web()
    applied = ledger.assign(ledger.assignment("n1"))
    assert ledger.state.stacks["shop"].moved_index == applied.index
    ledger.phase("main")
    assert ledger.state.stacks["shop"].moved_index == applied.index


@dataclass
class Case:
    change: dict[str, object]
    why: str


@pytest.mark.parametrize(
    "case",
    [
        Case({"service": "nope"}, "doesn't have"),
        Case({"slot": 2}, "beyond"),
        Case({"host": "a" * 26}, "isn't a member"),
        Case({"generation": 1}, "restarts"),
        Case({"instruction": InstructionRef(revision=1, digest="0" * 64)}, "isn't in force"),
        Case({"instruction": InstructionRef(revision=7, digest="0" * 64)}, "isn't in force"),
        Case({"ports": (AssignedPort(container_port=80, host_port=8443),)}, "ports"),
    ],
    ids=lambda case: case.why,
)
def test_a_pointer_to_nothing_signed_changes_nothing(case: Case) -> None:
    ledger = with_web()
    before = ledger.state
    ignored = ledger.assign(replace(ledger.assignment("n1"), **case.change))
    assert case.why in ignored.ignored
    assert ledger.state == replace(before, index=ledger.state.index, chain=ledger.state.chain, at=ledger.state.at)


def test_an_entry_with_one_bad_pointer_changes_nothing_at_all() -> None:
    ledger = with_web()
    good = ledger.assignment("n1")
    assert ledger.assign(good, replace(good, slot=2)).ignored
    assert not ledger.state.assignments


def test_a_plan_from_another_revision_is_ignored() -> None:
    ledger = with_web()
    ledger.scale(web=2)
    assert "which is at 2" in ledger.assign(ledger.assignment("n1"), revision=1).ignored
    assert ledger.phase("main", revision=1).ignored


def test_entries_for_a_stack_that_is_gone_are_ignored() -> None:
    ledger = with_web()
    ledger.remove()
    entry = AssignEntry(at=ledger.now_ms, stack="shop", revision=2)
    assert ledger.propose(entry, PhaseEntry(at=1, stack="shop", revision=2, phase="main"))[0].ignored


def test_pins_and_labels_bind_the_coordinator() -> None:
    pinned = with_web(host="n1")
    assert "pin or labels" in pinned.assign(pinned.assignment("n2")).ignored
    assert not pinned.assign(pinned.assignment("n1")).ignored
    labelled = with_web(labels={"disk": "ssd"})
    assert "pin or labels" in labelled.assign(labelled.assignment("n2")).ignored
    assert not labelled.assign(labelled.assignment("n1")).ignored


class TestPredecessors:
    @staticmethod
    def ledger(level: int = PREDECESSOR_LEVEL) -> Ledger:
        ledger = Ledger("n1", "n2", "n3")
        ledger.deploy(stack(web=service()))
        ledger.propose(LevelEntry(at=ledger.now_ms, level=level))
        ledger.assign(ledger.assignment("n1"))
        return ledger

    def after(self, ledger: Ledger, host: str, before: str) -> str:
        """Why a move to `host` from `before` is ignored."""
        predecessor = Predecessor(host=ledger.id(before))
        return ledger.assign(replace(ledger.assignment(host), predecessor=predecessor)).ignored

    def test_it_is_where_the_replica_was_or_came_from(self) -> None:
        ledger = self.ledger()
        assert not self.after(ledger, "n2", "n1")
        assert not self.after(ledger, "n3", "n1"), "which n2 wasn't ready to take over from"
        assert not self.after(ledger, "n1", "n3")
        assert not ledger.assign(ledger.assignment("n1")).ignored
        assert ledger.state.assignments[WEB].predecessor is None

    @pytest.mark.parametrize(("host", "before"), [("n2", "n3"), ("n1", "n1")])
    def test_no_other_host_is_made_to_keep_anything(self, host: str, before: str) -> None:
        assert "doesn't have" in self.after(self.ledger(), host, before)

    def test_its_ports_are_those_that_it_had(self) -> None:
        ledger = self.ledger()
        lie = Predecessor(host=ledger.id("n1"), ports=(AssignedPort(container_port=80, host_port=80),))
        assert "doesn't have" in ledger.assign(replace(ledger.assignment("n2"), predecessor=lie)).ignored

    def test_a_first_assignment_has_none(self) -> None:
        ledger = self.ledger()
        ledger.propose(AssignEntry(at=0, stack="shop", revision=1, release=(Slot(service="web", slot=1),)))
        assert "doesn't have" in self.after(ledger, "n2", "n1")

    def test_there_are_none_before_all_members_know_of_them(self) -> None:
        assert "not all members know" in self.after(self.ledger(level=1), "n2", "n1")

    def test_it_goes_with_its_host(self) -> None:
        ledger = self.ledger()
        self.after(ledger, "n2", "n1")
        ledger.instruct("expel", f"member:{ledger.id('n1')}", Expel())
        assert ledger.state.assignments[WEB] == ledger.assignment("n2")
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state

    def test_it_has_the_replica_again_when_the_next_host_is_expelled(self) -> None:
        ledger = self.ledger()
        self.after(ledger, "n2", "n1")
        ledger.instruct("expel", f"member:{ledger.id('n2')}", Expel())
        assert ledger.state.assignments[WEB] == ledger.assignment("n1")
        assert ledger.state.stacks["shop"].moved_index == ledger.state.index
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state

    @pytest.mark.parametrize(
        "other", [service(host="n2"), service(ports=(PortSpec(host_port=8443, container_port=8443),))]
    )
    def test_but_not_what_another_plan_forbids_there(self, other: Service) -> None:
        ledger = self.ledger()
        self.after(ledger, "n2", "n1")
        ledger.deploy(stack(web=other))
        ports = tuple(
            AssignedPort(container_port=port.container_port, host_port=port.host_port) for port in other.ports
        )
        before = Predecessor(host=ledger.id("n1"))
        changed = replace(ledger.assignment("n2"), ports=ports, predecessor=before)
        assert not ledger.assign(changed).ignored
        ledger.instruct("expel", f"member:{ledger.id('n2')}", Expel())
        assert not ledger.state.assignments

    def test_a_snapshot_with_one_is_read_and_a_lie_about_it_is_not(self) -> None:
        ledger = self.ledger()
        self.after(ledger, "n2", "n1")
        assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state
        for host in ("x" * 26, ledger.id("n2")):
            lie = replace(ledger.state.assignments[WEB], predecessor=Predecessor(host=host))
            with pytest.raises(SnapshotRefused):
                decode_snapshot(encode_snapshot(replace(ledger.state, assignments={WEB: lie})))


@pytest.mark.parametrize(("offset", "allowed"), [(-1, False), (0, True), (PORT_TRIES - 1, True), (PORT_TRIES, False)])
def test_ports_stay_within_preferred_to_preferred_plus_99(offset: int, allowed: bool) -> None:
    ledger = with_web(ports=(PortSpec(host_port=8443, container_port=80),))
    port = AssignedPort(container_port=80, host_port=8443 + offset)
    applied = ledger.assign(replace(ledger.assignment("n1"), ports=(port,)))
    assert bool(applied.ignored) is not allowed


def test_a_stack_that_is_removed_without_a_replica_stays_until_the_coordinator_ends_it() -> None:
    """From a level on: an agent of before forgets it at once."""
    ledger = with_web()
    ledger.remove()
    assert "shop" not in ledger.state.stacks
    ledger.propose(LevelEntry(at=ledger.now_ms, level=REMOVAL_LEVEL))
    ledger.deploy(stack())
    end = AssignEntry(at=ledger.now_ms, stack="shop", revision=3)
    assert ledger.propose(end)[0].ignored == "nothing about shop changes"
    ledger.remove()
    held = ledger.state.stacks["shop"]
    assert held.removing
    assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state
    assert ledger.propose(replace(end, revision=4))[0].stacks == {"shop"}
    assert "shop" not in ledger.state.stacks
    assert not ledger.state.signed


def test_an_entry_that_names_nothing_ends_no_stack_that_has_a_replica() -> None:
    ledger = with_web()
    ledger.propose(LevelEntry(at=ledger.now_ms, level=REMOVAL_LEVEL))
    ledger.assign(ledger.assignment("n1"))
    ledger.remove()
    end = AssignEntry(at=ledger.now_ms, stack="shop", revision=2)
    assert ledger.propose(end)[0].ignored == "nothing about shop changes"
    assert "shop" in ledger.state.stacks


def test_a_stack_being_removed_takes_releases_only() -> None:
    ledger = with_web()
    ledger.assign(ledger.assignment("n1"))
    ledger.remove()
    assert "being removed" in ledger.assign(ledger.assignment("n2")).ignored
    entry = AssignEntry(at=ledger.now_ms, stack="shop", revision=2, release=(Slot(service="web", slot=1),))
    applied = ledger.propose(entry)[0]
    assert applied.stacks == {"shop"}
    assert "shop" not in ledger.state.stacks
    assert not ledger.state.signed
    assert not [key for key in ledger.state.evidence if key.startswith("stack:shop/")]


def test_a_signed_deploy_stays_while_an_assignment_points_at_it() -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service(replicas=2)))
    ledger.assign(ledger.assignment("n1", slot=1), ledger.assignment("n2", slot=2))
    first = ledger.state.stacks["shop"].deployed.digest
    ledger.deploy(stack(web=service(replicas=2, command=("new",))))
    assert first in ledger.state.signed
    ledger.assign(ledger.assignment("n1", slot=1))
    assert first in ledger.state.signed
    ledger.assign(ledger.assignment("n2", slot=2))
    assert first not in ledger.state.signed


@pytest.mark.parametrize("to", PHASES)
@pytest.mark.parametrize("start", [phase for phase in PHASES if phase not in ("removing", "stopped")])
def test_every_phase_moves_as_the_table_says(start: Phase, to: Phase) -> None:
    ledger = with_web()
    if start != "preparing":
        assert not ledger.phase(start).ignored
    applied = ledger.phase(to)
    assert bool(applied.ignored) is (to not in MOVES[start])
    assert ledger.state.stacks["shop"].phase == (start if applied.ignored else to)


def test_the_table_names_every_phase_and_only_forward_moves() -> None:
    assert set(MOVES) == set(PHASES)
    assert not MOVES["removing"]
    assert not MOVES["healthy"]
    assert "preparing" not in set().union(*MOVES.values())


def test_after_a_return_only_an_instruction_moves_the_phase() -> None:
    ledger = with_web()
    ledger.phase("healthy")
    ledger.deploy(stack(web=service(command=("bad",))))
    ledger.phase("failed", reason="exit 1")
    assert ledger.phase("healthy").ignored
    assert ledger.state.stacks["shop"].reason == "exit 1"


def test_a_phase_stamps_ledger_time() -> None:
    ledger = with_web()
    ledger.now_ms += 5000
    ledger.phase("main")
    assert ledger.state.stacks["shop"].phase_since == ledger.now_ms


def test_unchanged_assignments_are_ignored() -> None:
    ledger = with_web()
    item: Assignment = ledger.assignment("n1")
    ledger.assign(item)
    before = ledger.state.stacks["shop"].moved_index
    assert ledger.assign(item).ignored
    assert ledger.state.stacks["shop"].moved_index == before
