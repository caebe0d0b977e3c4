"""An agent's end and its next beginning: what the disk must hold, what is believed of it, and clean stops."""

from __future__ import annotations

import importlib
import random

import pytest
from msgspec.structs import replace

from agent import errors
from agent.host import HostContext
from agent.model.instruction import Drain, Grant, Relabel, Revoke, Scale
from agent.model.ledger import InstructionEntry, PhaseEntry, encode_entry
from agent.node.core import NodeCore, NodeSettings
from agent.node.disk import SETTLES_S
from agent.node.effects import Reconcile, Store
from agent.node.machine import Compaction, Machine
from agent.raft import Boot, Entry, EntryKind, HardState, Raft, RaftTiming, Snapshot
from agent.state import EXPULSION_LEVEL, decode_snapshot, encode_snapshot
from agent.swim import SwimConfig
from tests.node.cluster import OFTEN, Cluster, Node, stack
from tests.support.hosts import running
from tests.support.ledger import jti_of, operator
from tests.support.words import signing_as


@pytest.fixture
def alone() -> Node:
    cluster = Cluster(1)
    return cluster.elect()


def test_a_single_host_is_a_cluster(alone: Node) -> None:
    alone.obeys = True
    alone.up.observed(running(alone.desired[-1]), alone.when)
    assert alone.result(alone.deploy()).outcome == "applied"
    alone.cluster.until(lambda: alone.up.context.state.stacks["shop"].phase == "healthy")
    status = alone.status(alone.ask_status())
    assert (status.quorum.voters, status.quorum.reachable, status.quorum.tolerates) == (1, 1, 0)
    alone.cluster.crash("n1")
    alone.cluster.start("n1")
    alone.cluster.elect()
    assert alone.up.context.state.stacks["shop"].phase == "healthy"


# The disk


def test_nothing_that_promises_anything_leaves_before_the_disk(alone: Node) -> None:
    alone.disk_works = False
    request = alone.deploy()
    alone.cluster.run(0.3)
    assert request not in alone.answers
    assert "shop" not in alone.up.context.state.stacks
    alone.cluster.write(alone)
    alone.cluster.settle()
    assert alone.result(request).outcome == "applied"


def test_at_most_one_store_that_settles_is_open(alone: Node) -> None:
    alone.disk_works = False
    alone.forget()
    for name in ("one", "two", "three"):
        alone.deploy(name)
    alone.cluster.run(SETTLES_S * 2)
    assert [store.settles for store in alone.stores] == [True]
    alone.disk_works = True
    alone.cluster.write(alone)
    alone.cluster.run(0.1)
    assert {"one", "two", "three"} <= alone.up.context.state.stacks.keys()


def test_stored_without_a_store_is_a_broken_invariant(alone: Node) -> None:
    with pytest.raises(errors.InvariantBroken):
        alone.up.stored(alone.when)


def test_a_commit_index_is_kept_though_nothing_else_is_written() -> None:
    """A host that wakes alone must know its last assignments."""
    cluster = Cluster(3)
    coordinator = cluster.elect()
    cluster.run(SETTLES_S + 0.1)
    follower = cluster.followers[0]
    coordinator.deploy()
    cluster.run(0.2)
    committed = follower.up.context.raft.commit
    assert follower.disk.commit < committed
    follower.forget()
    cluster.run(SETTLES_S)
    assert follower.disk.commit >= committed
    assert [store.settles for store in follower.stores] == [False]
    cluster.cut(follower.name)
    cluster.crash(follower.name)
    follower.desired.clear()
    cluster.start(follower.name)
    assert "shop" in follower.up.context.state.stacks
    assert follower.desired[-1].applied == follower.up.context.state.index


def test_a_commit_index_waits_for_a_disk_that_is_busy() -> None:
    cluster = Cluster(3)
    cluster.elect()
    follower = cluster.followers[0]
    follower.disk_works = False
    cluster.elect().deploy()
    cluster.run(SETTLES_S * 3)  # `Cluster` refuses timers that spin
    assert sum(store.settles is False for store in follower.waiting) == 0


# Believing again


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the signature was looked at, of each instruction applied."""
    seen: list[bool] = []
    module = importlib.import_module("agent.state.apply")
    real = module.read_instruction

    def read(*arguments: object, verify: bool = True) -> object:
        seen.append(verify)
        return real(*arguments, verify=verify)

    monkeypatch.setattr(module, "read_instruction", read)
    return seen


def test_signatures_seen_to_hold_before_arent_checked_again_at_a_start(alone: Node, checks: list[bool]) -> None:
    alone.deploy("one")
    alone.deploy("two")
    alone.cluster.run(1.0)
    alone.cluster.crash("n1")
    checks.clear()
    alone.cluster.start("n1")
    assert checks == [False, False]
    assert alone.up.context.state.stacks.keys() == {"one", "two"}


def test_beyond_what_was_verified_they_are(alone: Node, checks: list[bool]) -> None:
    alone.deploy("one")
    alone.deploy("two")
    alone.cluster.run(1.0)
    alone.cluster.crash("n1")
    alone.disk.verified_through = 4  # genesis, the election, the level, the first of the two
    checks.clear()
    alone.cluster.start("n1")
    assert checks == [False, True]


def forged(cluster: Cluster, name: str) -> bytes:
    """An entry that only a taken coordinator would propose: everything but the signature is in order."""
    token, body = cluster.signed("deploy", f"stack:{name}", stack(name))
    head, claims, _ = token.split(".")
    wrong = "A" * 86
    return encode_entry(InstructionEntry(at=0, token=f"{head}.{claims}.{wrong}", body=body, via=cluster.n("n1").id))


def test_a_forged_entry_is_refused_by_everybody_and_again_at_each_start() -> None:
    cluster = Cluster(3)
    coordinator = cluster.elect()
    coordinator.up.context.raft.propose(forged(cluster, "evil"), cluster.now)
    coordinator.deploy("good")
    cluster.run(2.0)
    assert {frozenset(node.up.context.state.stacks) for node in cluster.alive} == {frozenset({"good"})}
    follower = cluster.followers[0]
    for _ in range(2):
        cluster.crash(follower.name)
        cluster.start(follower.name)
        cluster.run(2.0)
        assert follower.up.context.state.stacks.keys() == {"good"}
        assert follower.up.context.state.chain == coordinator.up.context.state.chain


def test_a_coordinators_entry_for_nothing_signed_changes_nothing(alone: Node) -> None:
    phase = PhaseEntry(at=0, stack="nothing", revision=1, phase="healthy")
    alone.up.context.raft.propose(encode_entry(phase), alone.cluster.now)
    alone.deploy()
    alone.cluster.run(0.5)
    assert alone.up.context.state.stacks.keys() == {"shop"}


# Snapshots


def settings(node: Node) -> NodeSettings:
    return NodeSettings(
        id=node.id,
        name=node.name,
        boot=9,
        genesis=node.disk.genesis.data,
        host=HostContext(address="192.0.2.1"),
        agent_version="0.1.0",
        timing=RaftTiming.lan(),
        swim=SwimConfig.lan(),
        sign=signing_as(node.id),
    )


def snapshot_of(node: Node, **changes: object) -> Snapshot:
    """What `node`'s state is, told by somebody who may change it."""
    state = replace(node.up.context.state, **changes)
    raft = node.up.context.raft
    return Snapshot(index=state.index, term=raft.term, configuration=raft.configuration, data=encode_snapshot(state))


def machine_of(node: Node) -> Machine:
    return Machine(node.up.context.state, node.up.context.raft.configuration, node.up.context.state.index, Compaction())


def test_an_honest_snapshot_of_a_later_state_is_vouched_for(alone: Node) -> None:
    alone.deploy()
    before = machine_of(alone)
    alone.deploy("blog")
    assert before.proven(snapshot_of(alone))


def test_a_snapshot_with_an_operator_nobody_granted_isnt(alone: Node) -> None:
    operators = {**alone.up.context.state.operators, "eve": operator("eve")}
    assert not machine_of(alone).proven(snapshot_of(alone, operators=operators))


def test_a_snapshot_that_brings_a_revoked_operator_back_isnt(alone: Node) -> None:
    """Its grant stays signed for ever, so only who saw the revocation can tell."""
    granted = alone.cluster.signed("grant", "operator:eve", Grant(operator=operator("eve")), rev=1)
    assert alone.result(alone.submit(*granted)).outcome == "applied"
    eve = alone.up.context.state.operators["eve"]
    revoked = alone.cluster.signed("revoke", "operator:eve", Revoke(), rev=2)
    assert alone.result(alone.submit(*revoked)).outcome == "applied"
    assert machine_of(alone).proven(snapshot_of(alone))
    operators = {**alone.up.context.state.operators, "eve": eve}
    assert not machine_of(alone).proven(snapshot_of(alone, operators=operators))


def test_a_snapshot_that_takes_a_revision_back_isnt(alone: Node) -> None:
    alone.deploy()
    old = snapshot_of(alone)
    scale = alone.cluster.signed("scale", "stack:shop", Scale(services={"web": 2}), rev=2)
    assert alone.result(alone.submit(*scale)).outcome == "applied"
    later = replace(decode_snapshot(old.data), index=alone.up.context.state.index + 1)
    offered = Snapshot(index=later.index, term=old.term, configuration=old.configuration, data=encode_snapshot(later))
    assert not machine_of(alone).proven(offered)


def test_a_snapshot_that_lets_the_expelled_back_in_isnt() -> None:
    """A founder is proven by genesis: only the ledger's own memory says that it went."""
    cluster = Cluster(3)
    node = cluster.elect()
    victim = cluster.followers[0]
    members = node.up.context.state.members
    assert cluster.expel(victim.name, at=node.name).outcome == "applied"
    offered = snapshot_of(node, members=members, expelled=frozenset(), evidence={})
    decode_snapshot(offered.data)  # every signature in it holds
    assert not machine_of(node).proven(offered)


def test_a_snapshot_that_expels_somebody_without_the_instruction_isnt() -> None:
    cluster = Cluster(3)
    node = cluster.elect()
    cluster.until(lambda: node.up.context.state.level >= EXPULSION_LEVEL)
    before = machine_of(node)
    assert cluster.expel(cluster.followers[0].name, at=node.name).outcome == "applied"
    offered = snapshot_of(node, evidence={})
    decode_snapshot(offered.data)
    assert before.proven(offered) is None
    assert before.proven(snapshot_of(node)) is not None


def test_a_snapshot_that_forgets_a_drain_isnt(alone: Node) -> None:
    drain = alone.cluster.signed("drain", f"host:{alone.id}", Drain(), rev=1)
    assert alone.result(alone.submit(*drain)).outcome == "applied"
    assert machine_of(alone).proven(snapshot_of(alone))
    assert not machine_of(alone).proven(snapshot_of(alone, drained=frozenset()))


def test_a_snapshot_that_brings_back_labels_isnt(alone: Node) -> None:
    relabel = alone.cluster.signed("relabel", f"host:{alone.id}", Relabel(labels={"zone": "b"}), rev=1)
    before = machine_of(alone)
    known = alone.up.context.state.members[alone.id]
    assert alone.result(alone.submit(*relabel)).outcome == "applied"
    offered = snapshot_of(alone)
    assert before.proven(offered)
    assert machine_of(alone).proven(offered)
    assert not machine_of(alone).proven(snapshot_of(alone, members={alone.id: known}))


def test_a_drain_ends_with_its_member() -> None:
    cluster = Cluster(3)
    node = cluster.elect()
    victim = cluster.followers[0]
    assert cluster.drain(victim.name, at=node.name).outcome == "applied"
    before = machine_of(node)
    assert cluster.expel(victim.name, at=node.name).outcome == "applied"
    assert before.proven(snapshot_of(node))


@pytest.mark.parametrize("change", [{"epoch": 2}, {"cluster": "bcdefghijklmnopa"}])
def test_a_snapshot_of_another_cluster_or_epoch_isnt(alone: Node, change: dict[str, object]) -> None:
    assert not machine_of(alone).proven(snapshot_of(alone, **change))


def test_a_snapshot_whose_state_is_of_another_index_isnt(alone: Node) -> None:
    offered = snapshot_of(alone)
    assert not machine_of(alone).proven(replace(offered, index=offered.index + 5))


def test_a_voter_that_was_away_for_long_takes_a_snapshot_it_can_vouch_for() -> None:
    cluster = Cluster(3, compaction=OFTEN)
    cluster.elect()
    lost = cluster.followers[0]
    cluster.crash(lost.name)
    node = cluster.elect()
    for number in range(8):
        assert node.result(node.deploy(f"s{number}")).outcome == "applied"
    assert node.up.context.raft.first_index > 5
    cluster.start(lost.name)
    cluster.run(2.0)
    assert lost.up.context.state.chain == node.up.context.state.chain
    assert lost.disk.snapshot is not None
    assert lost.up.drops == {}


def test_no_snapshot_is_taken_of_a_state_that_the_log_has_left_behind(alone: Node) -> None:
    """A peer's snapshot took the log's place, while older entries were on their way to the disk: they apply first."""
    state, configuration = alone.up.context.state, alone.up.context.raft.configuration
    machine = Machine(state, configuration, state.index, Compaction(every_entries=0))
    newer = Snapshot(index=state.index + 5, term=1, configuration=configuration, data=b"")
    core = Raft(
        id="n2",
        timing=RaftTiming.lan(),
        rng=random.Random(1),
        now=0.0,
        hard_state=HardState(term=1),
        log=(),
        snapshot=newer,
        configuration=configuration,
        commit=newer.index,
        applied=newer.index,
    )
    machine.compact(core)
    assert core.snapshot == newer


def test_the_log_weighs_no_more_than_the_state_behind_it() -> None:
    """Few entries or many: the disk holds a small multiple of what is alive."""
    cluster = Cluster(3, compaction=Compaction(every_entries=10_000, step_entries=1, least_bytes=4_000))
    cluster.elect()
    node = cluster.followers[0]
    for revision in range(1, 40):
        assert node.result(node.deploy(rev=revision, jti=jti_of(str(revision)))).outcome == "applied"
    cluster.run(1.0)
    taken = set()
    for each in cluster.alive:
        raft = each.up.context.raft
        assert raft.snapshot is not None
        taken.add(raft.snapshot.index)
        kept = sum(len(entry.data) for entry in raft.entries_between(raft.first_index, raft.commit, 1 << 30))
        assert kept <= 1.5 * max(len(raft.snapshot.data), 4_000)
    assert len(taken) == 1, "all have the same one, so that a transfer goes on anywhere"


def test_a_voter_refuses_a_forged_snapshot_and_takes_the_next_sound_one() -> None:
    cluster = Cluster(3, compaction=OFTEN)
    cluster.elect()
    lost = cluster.followers[0]
    cluster.crash(lost.name)
    node = cluster.elect()
    for number in range(8):
        node.deploy(f"s{number}")
    raft = node.up.context.raft
    assert raft.snapshot is not None
    sound = decode_snapshot(raft.snapshot.data)
    forged = replace(sound, operators={**sound.operators, "eve": operator("eve")})
    raft._state.snapshot = replace(raft.snapshot, data=encode_snapshot(forged))  # this coordinator was taken
    cluster.start(lost.name)
    cluster.run(3.0)
    assert lost.up.drops["snapshot"] == 1
    assert "eve" not in lost.up.context.state.operators
    for number in range(8, 12):
        node.deploy(f"s{number}")
    cluster.run(5.0)
    assert lost.up.context.state.chain == node.up.context.state.chain


def test_a_stored_snapshot_that_nobody_vouches_for_stops_the_agent(alone: Node) -> None:
    data = snapshot_of(alone, operators={**alone.up.context.state.operators, "eve": operator("eve")}).data
    stored = replace(snapshot_of(alone), data=data)
    boot = Boot(hard_state=HardState(), entries=(), snapshot=stored, commit=stored.index, verified_through=1, starts=1)
    with pytest.raises(errors.NeedsRepair):
        NodeCore(settings(alone), boot, random.Random(1), alone.when)


def test_entry_one_must_be_a_genesis(alone: Node) -> None:
    data = encode_entry(PhaseEntry(at=0, stack="shop", revision=1, phase="healthy"))
    entry = Entry(index=1, term=0, kind=EntryKind.NORMAL, data=data)
    boot = Boot(hard_state=HardState(), entries=(entry,), snapshot=None, commit=1, verified_through=1, starts=1)
    wrong = replace_settings(settings(alone), data)
    with pytest.raises(errors.NeedsRepair):
        NodeCore(wrong, boot, random.Random(1), alone.when)


def replace_settings(given: NodeSettings, genesis: bytes) -> NodeSettings:
    return NodeSettings(
        id=given.id,
        name=given.name,
        boot=given.boot,
        genesis=genesis,
        host=given.host,
        agent_version=given.agent_version,
        timing=given.timing,
        swim=given.swim,
        sign=given.sign,
    )


def test_a_core_asks_its_host_for_the_last_state_before_anything_happens(alone: Node) -> None:
    alone.deploy()
    alone.cluster.run(1.0)
    core = NodeCore(settings(alone), alone.disk.boot(), random.Random(1), alone.when)
    wanted = [effect for effect in core.take_effects() if isinstance(effect, Reconcile)]
    assert [effect.applied for effect in wanted] == [core.context.state.index]
    assert not [effect for effect in core.take_effects() if isinstance(effect, Store)]


# Leaving


def test_a_coordinator_that_stops_hands_over_first() -> None:
    cluster = Cluster(3)
    leaving = cluster.elect()
    began = cluster.now
    assert leaving.up.leave(leaving.when)
    cluster.settle()
    cluster.until(lambda: not leaving.up.context.raft.is_leader, within_s=1.0)
    cluster.crash(leaving.name)
    cluster.elect()
    assert cluster.now - began < 0.5, "no election timeout is waited for"


def test_whoever_doesnt_lead_has_nothing_to_hand_over() -> None:
    cluster = Cluster(3)
    cluster.elect()
    follower = cluster.followers[0]
    assert not follower.up.leave(follower.when)


def test_a_single_host_doesnt_wait_for_a_successor(alone: Node) -> None:
    assert not alone.up.leave(alone.when)
