"""What a restore would change, by what is deployed now."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.api.views import stack_view
from agent.cli.restoring import StackPlan, broken_off, left_to_people, plan_stacks, slots_of
from agent.cli.volumes import targets
from agent.errors import Conflict
from agent.formats.backup import Part
from agent.home import HalfRestored, half_restored, remember_half_restored
from agent.model.cluster import ApiKey
from agent.model.instruction import GrantKey, Services
from agent.model.spec import ReplicaKey
from agent.model.stack import Image, Service, Volume
from agent.state import ClusterState
from tests.support.fake_node import FakeCluster
from tests.support.ledger import Ledger, stack

DB = Service(image=Image(ref="db:1"), replicas=2, volumes=(Volume(source="data", container_path="/data"),))


def lived_in() -> Ledger:
    ledger = Ledger()
    ledger.deploy(stack(db=DB))
    ledger.assign(ledger.assignment("n1", "db", slot=1), ledger.assignment("n2", "db", slot=2))
    ledger.scale(db=3)
    return ledger


def volume(host: str, number: int = 0) -> Part:
    name = f"volumes/{number:04}.tar"
    return Part(name=name, kind="volume", size=9, sha256="0" * 64, host=host, stack="shop", volume="data")


def planned(state: ClusterState, now: ClusterState, *, over: bool = False) -> StackPlan:
    parts = [volume("n1"), volume("n2", 1)]
    found = plan_stacks(state, {"shop": stack_view(now, "shop")}, parts, over={"shop"} if over else ())
    assert len(found) == 1
    return found[0]


def test_what_is_deployed_as_it_was_stays() -> None:
    state = lived_in().state
    assert planned(state, state).changes == ()


def test_what_is_gone_is_deployed_with_its_volumes_and_scale() -> None:
    plan = planned(lived_in().state, Ledger().state)
    assert plan.deploys
    assert (plan.scale, len(plan.volumes)) == ({"db": 3}, 2)
    assert plan.changes[0] == "is deployed"


def test_what_differs_is_deployed_again_and_its_data_stays() -> None:
    ledger = lived_in()
    state = ledger.state
    ledger.deploy(stack(db=Service(image=Image(ref="db:2"), replicas=2, volumes=DB.volumes)))
    plan = planned(state, ledger.state)
    assert (plan.deploys, plan.volumes) == (True, ())
    assert planned(state, ledger.state, over=True).volumes


def test_what_was_stopped_is_stopped_again() -> None:
    ledger = lived_in()
    running = ledger.state
    ledger.stop("db")
    plan = planned(ledger.state, running)
    assert (plan.deploys, plan.stopped) == (False, ("db",))
    assert planned(ledger.state, ledger.state).changes == ()


def test_what_ran_and_is_stopped_now_is_started_with_the_data_that_it_has() -> None:
    ledger = lived_in()
    running = ledger.state
    ledger.stop("db")
    plan = planned(running, ledger.state)
    assert (plan.changes, plan.deploys, plan.volumes) == (("db is started",), False, ())


def test_what_was_placed_and_never_ran_gets_its_volumes_and_starts() -> None:
    running = lived_in().state
    ledger = Ledger()
    ledger.instruct("place", "stack:shop", stack(db=DB))
    for scaled in (False, True):
        if scaled:
            ledger.scale(db=3)
        plan = planned(running, ledger.state)
        assert (plan.deploys, len(plan.volumes), plan.changes[-1]) == (False, 2, "db is started")
        assert plan.placed == ledger.state.stacks["shop"].revision
        assert plan.scale == ({} if scaled else {"db": 3})


def test_data_of_a_life_before_is_not_written_over_unasked() -> None:
    ledger = lived_in()
    running = ledger.state
    ledger.stop("db")
    assert planned(running, ledger.state).volumes == ()
    assert planned(running, ledger.state, over=True).volumes


OURS, ANOTHERS = "a" * 64, "b" * 64


def half(backup: str, revision: int) -> dict[str, HalfRestored]:
    return {"shop": HalfRestored(backup=backup, made_at="2024-01-15T10:30:00Z", revision=revision)}


def test_what_a_restore_left_half_done_goes_on_with_its_volumes() -> None:
    ledger = lived_in()
    running = ledger.state
    revision = ledger.stop().revision
    present = {"shop": stack_view(ledger.state, "shop")}
    over, said = broken_off(half(OURS, revision), present, OURS)
    assert (over, said) == ({"shop"}, [])
    (plan,) = plan_stacks(running, present, [volume("n1"), volume("n2", 1)], over=over)
    assert len(plan.volumes) == 2
    assert plan.changes[-1] == "db is started"
    assert plan.placed == revision, "it isn't stopped again: whoever breaks off once more is known by that revision"


def test_what_was_changed_since_or_is_half_of_another_backup_is_told_and_not_written_over() -> None:
    ledger = lived_in()
    revision = ledger.stop().revision
    present = {"shop": stack_view(ledger.state, "shop")}
    over, said = broken_off(half(ANOTHERS, revision), present, OURS)
    assert (over, len(said)) == (set(), 1)
    assert "of two times; restore that one, or this one with --volumes" in said[0]
    ledger.instruct("start", "stack:shop", Services())
    over, said = broken_off(half(OURS, revision), {"shop": stack_view(ledger.state, "shop")}, OURS)
    assert (over, len(said)) == (set(), 1)
    assert "changed since; --volumes puts them all back" in said[0]


def test_what_is_gone_since_needs_no_word() -> None:
    assert broken_off(half(OURS, 3), {"shop": None}, OURS) == (set(), [])


def test_the_home_remembers_a_half_done_restore_until_it_is_done(tmp_path: Path) -> None:
    home = FakeCluster(tmp_path, "n1").home
    assert half_restored(home) == {}
    for name in ("shop", "web"):
        remember_half_restored(home, name, half(OURS, 3)["shop"])
    remember_half_restored(home, "web", None)
    assert half_restored(home) == half(OURS, 3)
    remember_half_restored(home, "shop", None)
    assert not (home.path / "restoring.json").exists()
    remember_half_restored(home, "shop", None)


def test_what_was_being_removed_is_not_restored() -> None:
    ledger = lived_in()
    ledger.remove()
    assert plan_stacks(ledger.state, {}, [], over=()) == []


def test_operators_keys_and_drains_are_named_and_not_restored() -> None:
    ledger = Ledger()
    ledger.instruct("grant-key", "key:board", GrantKey(key=ApiKey(name="board", sha256="0" * 64)))
    for host in ("n1", "n2", "n3"):
        ledger.drain(host)
    drained = {"n1": False, "n2": True}
    said = left_to_people(ledger.state, operators={"recovery"}, keys=set(), drained=drained)
    assert [sentence.partition(" isn't")[0].partition(" was")[0] for sentence in said] == [
        "operator ann",
        "API key board",
        "n1",
    ]
    assert not left_to_people(ledger.state, operators={"ann", "recovery"}, keys={"board"}, drained={"n1": True})


def key(slot: int) -> ReplicaKey:
    return ReplicaKey(stack="shop", service="db", slot=slot)


def test_a_volume_goes_to_where_the_replica_that_had_it_is_now() -> None:
    state = lived_in().state
    plan = planned(state, Ledger().state)
    assert slots_of(state, plan, plan.volumes[1]) == {key(2)}
    chosen = targets(state, plan, {key(1): "x", key(2): "y", key(3): "z"})
    assert [(part.host, host) for part, host in chosen] == [("n1", "x"), ("n2", "y")]


def test_two_volumes_never_meet_on_one_host() -> None:
    state = lived_in().state
    plan = planned(state, Ledger().state)
    with pytest.raises(Conflict, match="both go to x"):
        targets(state, plan, {key(1): "x", key(2): "x"})
