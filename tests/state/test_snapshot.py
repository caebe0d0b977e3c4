"""Snapshots keep what proves them: a round trip gives the same digest, a lie doesn't pass (ARCHITECTURE.md "Invariants,
and who checks them")."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.model.cluster import ApiKey
from agent.model.instruction import Enrol, Expel, Grant, GrantKey, Revoke
from agent.model.ledger import AssignEntry
from agent.model.stack import InstructionRef
from agent.state import ClusterState, SnapshotRefused, apply, decode_snapshot, encode_snapshot
from tests.support.ledger import Ledger, member, operator, service, stack


def lived_in() -> Ledger:
    """A state with everything in it that a snapshot has to prove."""
    ledger = Ledger()
    ledger.instruct("grant", "operator:bob", Grant(operator=operator("bob", "deploy")))
    ledger.instruct("grant", "operator:eve", Grant(operator=operator("eve", "admin")))
    new = member("n4")
    ledger.instruct("enrol", f"member:{new.id}", Enrol(member=new), by="eve")
    ledger.deploy(stack(web=service(replicas=3), db=service()), by="bob")
    ledger.assign(*(ledger.assignment(f"n{slot}", slot=slot) for slot in (1, 2, 3)))
    ledger.restart("web")
    ledger.phase("healthy")
    ledger.scale(web=2)
    ledger.stop("db")
    ledger.deploy(stack(web=service(replicas=4, command=("two",)), db=service()), by="eve")
    ledger.scale(web=3)
    ledger.assign(ledger.assignment("n4", slot=1))
    ledger.deploy(stack("other", job=service()))
    ledger.assign(ledger.assignment("n1", "job", name="other"))
    ledger.remove("other")
    ledger.instruct("revoke", "operator:bob", Revoke())
    ledger.instruct(
        "grant", "operator:eve", Grant(operator=operator("eve", "operate"), replaces=operator("eve", "admin"))
    )
    ledger.drain("n2")
    ledger.drain("n3")
    ledger.instruct("expel", f"member:{ledger.id('n3')}", Expel())
    ledger.remove("nope")
    return ledger


def test_a_round_trip_gives_the_same_state_and_bytes() -> None:
    state = lived_in().state
    data = encode_snapshot(state)
    again = decode_snapshot(data)
    assert again == state
    assert encode_snapshot(again) == data


def test_who_installs_a_snapshot_goes_on_like_everybody_else() -> None:
    ledger = lived_in()
    twin = decode_snapshot(encode_snapshot(ledger.state))
    ledger.deploy(stack(web=service()))
    twin, _ = apply(twin, twin.index + 1, ledger.entries[-1])
    assert encode_snapshot(twin) == encode_snapshot(ledger.state)


def test_every_field_is_in_the_bytes() -> None:
    state = lived_in().state
    others = [
        replace(state, index=state.index + 1),
        replace(state, assignments={}),
        replace(state, expelled=frozenset()),
        replace(state, drained=frozenset()),
        replace(state, targets={}),
        replace(state, evidence={}),
        replace(state, refusals={}),
    ]
    assert len({encode_snapshot(item) for item in (state, *others)}) == 1 + len(others)


def test_the_order_of_insertion_is_part_of_nothing() -> None:
    state = lived_in().state
    turned = replace(
        state,
        members=dict(reversed(state.members.items())),
        assignments=dict(reversed(state.assignments.items())),
        evidence=dict(reversed(state.evidence.items())),
        signed=dict(reversed(state.signed.items())),
    )
    assert encode_snapshot(turned) == encode_snapshot(state)


def _scaled(state: ClusterState) -> ClusterState:
    return replace(state, stacks={**state.stacks, "shop": replace(state.stacks["shop"], scale={"web": 99})})


def _restarted(state: ClusterState) -> ClusterState:
    return replace(state, stacks={**state.stacks, "shop": replace(state.stacks["shop"], generations={"web": 99})})


def _held(state: ClusterState) -> ClusterState:
    held = frozenset({"nothing-that-is-deployed"})
    return replace(state, stacks={**state.stacks, "shop": replace(state.stacks["shop"], held=held)})


def _stopped(state: ClusterState) -> ClusterState:
    return replace(state, stacks={**state.stacks, "shop": replace(state.stacks["shop"], stopped=frozenset({"web"}))})


def _removed(state: ClusterState) -> ClusterState:
    return replace(state, stacks={**state.stacks, "shop": replace(state.stacks["shop"], removing=True)})


def _redeployed(state: ClusterState) -> ClusterState:
    ref = InstructionRef(revision=9, digest="0" * 64)
    return replace(state, stacks={**state.stacks, "shop": replace(state.stacks["shop"], deployed=ref)})


def _later(state: ClusterState) -> ClusterState:
    """A signed deploy that claims a later revision than it was signed for."""
    key, item = next(iter(state.signed.items()))
    return replace(state, signed={**state.signed, key: replace(item, ref=replace(item.ref, revision=50))})


def _intruder(state: ClusterState) -> ClusterState:
    new = member("n9")
    return replace(state, members={**state.members, new.id: new})


def _relabelled(state: ClusterState) -> ClusterState:
    known = next(iter(state.members.values()))
    return replace(state, members={**state.members, known.id: replace(known, labels={"disk": "ssd"})})


def _usurper(state: ClusterState) -> ClusterState:
    return replace(state, operators={**state.operators, "mal": operator("mal")})


def _other_body(state: ClusterState) -> ClusterState:
    key, item = next(iter(state.signed.items()))
    body = item.body.replace(b"app:1", b"bad:1")
    return replace(state, signed={**state.signed, key: replace(item, body=body)})


def _drained(state: ClusterState) -> ClusterState:
    return replace(state, drained=state.drained | frozenset(list(state.members)[:1]))


def _drained_who_is_gone(state: ClusterState) -> ClusterState:
    return replace(state, drained=state.drained | state.expelled)


def _returned(state: ClusterState) -> ClusterState:
    return replace(state, expelled=frozenset(list(state.members)[:1]))


@pytest.mark.parametrize(
    "lie",
    [
        _drained,
        _drained_who_is_gone,
        _scaled,
        _restarted,
        _stopped,
        _held,
        _removed,
        _redeployed,
        _later,
        _intruder,
        _relabelled,
        _usurper,
        _other_body,
        _returned,
    ],
)
def test_what_no_operator_signed_is_refused(lie: Callable[[ClusterState], ClusterState]) -> None:
    with pytest.raises(SnapshotRefused):
        decode_snapshot(encode_snapshot(lie(lived_in().state)))


def test_a_grant_by_nobody_is_refused() -> None:
    state = lived_in().state
    mallory = Ledger()
    mallory.state = replace(mallory.state, operators={**mallory.state.operators, "mal": operator("mal")})
    mallory.instruct("grant", "operator:mal", Grant(operator=operator("mal")), by="mal")
    lie = replace(
        state,
        operators={**state.operators, "mal": operator("mal")},
        evidence={**state.evidence, **mallory.state.evidence},
    )
    with pytest.raises(SnapshotRefused):
        decode_snapshot(encode_snapshot(lie))


def test_a_snapshot_of_another_genesis_is_refused() -> None:
    ours, theirs = Ledger("n1"), Ledger("n1", "n2")
    assert decode_snapshot(encode_snapshot(ours.state), founded_as=Ledger("n1").state) == ours.state
    with pytest.raises(SnapshotRefused):
        decode_snapshot(encode_snapshot(theirs.state), founded_as=ours.state)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_rather_than_break(data: bytes) -> None:
    with pytest.raises(SnapshotRefused):
        decode_snapshot(data)


SHORT = encode_snapshot(Ledger("n1").state)


@settings(max_examples=60)
@given(st.integers(0, len(SHORT) - 1), st.integers(0, 255))
def test_a_flipped_byte_never_breaks_the_reader(at: int, value: int) -> None:
    data = SHORT[:at] + bytes([value]) + SHORT[at + 1 :]
    try:
        state = decode_snapshot(data)
    except SnapshotRefused:
        return
    assert state.members  # what passes is a state


ACTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "deploy",
                "again",
                "place",
                "scale",
                "restart",
                "stop",
                "start",
                "main",
                "healthy",
                "failed",
                "assign",
                "remove",
            ]
        ),
        st.sampled_from(["drain", "undrain", "relabel", "enrol"]),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@example(["deploy", "scale", "healthy", "deploy", "scale", "deploy"], 1)
@example(["deploy", "scale", "healthy", "deploy", "scale", "failed", "restart"], 1)
@example(["deploy", "place"], 1)
@example(["deploy", "scale", "place", "start", "deploy", "failed"], 1)
@example(["place", "start", "healthy", "place", "place", "stop", "failed"], 1)
@example(["deploy", "deploy", "restart", "healthy", "deploy", "restart"], 1)
@given(ACTS, st.integers(1, 4))
def test_every_reachable_state_proves_itself(acts: list[str], cut: int) -> None:
    """Whatever happened, the evidence that `apply` keeps is enough, and it doesn't grow with history."""
    ledger = Ledger()
    for number, act in enumerate(acts):
        _do(ledger, act, number)
    assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state
    kept = [key for key in ledger.state.evidence if key.startswith("stack:")]
    assert len(kept) <= 4 * 3  # per service: restart, and scale and run since either deploy
    # A replay from any point gives the same digest.
    state = Ledger().state
    for index, data in enumerate(ledger.entries[1:], start=2):
        state, _ = apply(state, index, data)
        if index % (cut + 1) == 0:
            state = decode_snapshot(encode_snapshot(state), verify=False)
    assert encode_snapshot(state) == encode_snapshot(ledger.state)


def _do(ledger: Ledger, act: str, number: int) -> None:
    match act:
        case "deploy":
            ledger.deploy(
                stack(web=service(replicas=2, command=(str(number),)), **({"db": service()} if number % 2 else {}))
            )
        case "again":
            ledger.deploy(stack(web=service(replicas=2)))
        case "place":
            ledger.place(stack(web=service(replicas=2), db=service()))
        case "scale":
            ledger.scale(web=number)
        case "stop":
            ledger.stop("web")
        case "restart" | "start" | "remove":
            getattr(ledger, act)()
        case "drain" | "undrain" | "relabel" | "enrol":
            _do_to_host(ledger, f"n{1 + number % 3}", act, number)
        case "assign" if "shop" in ledger.state.stacks:
            ledger.assign(ledger.assignment("n1"))
        case phase if "shop" in ledger.state.stacks and phase in ("main", "healthy", "failed"):
            ledger.phase(phase)  # type: ignore[arg-type]  # narrowed to these by the guard


def _do_to_host(ledger: Ledger, host: str, act: str, number: int) -> None:
    match act:
        case "drain":
            ledger.drain(host)
        case "undrain":
            ledger.undrain(host)
        case "relabel":
            ledger.relabel(host, zone=str(number))
        case "enrol":
            again = replace(member(host), address=f"192.0.2.{number}")
            ledger.instruct("enrol", f"member:{again.id}", Enrol(member=again))


def test_ten_thousand_assignments_stay_quick() -> None:
    """Bounds are far above what it takes, so that only another order of growth fails here."""
    ledger = Ledger()
    ledger.deploy(stack(web=service(replicas=10_000)))
    held = ledger.assignment("n1")
    everything = tuple(replace(held, slot=slot) for slot in range(1, 10_001))
    for at in range(0, 10_000, 1000):
        ledger.assign(*everything[at : at + 1000])
    begun = time.perf_counter()
    for slot in range(1, 51):
        ledger.propose(
            AssignEntry(
                at=ledger.now_ms,
                stack="shop",
                revision=1,
                assign=(replace(held, slot=slot, host=ledger.id("n2")),),
            )
        )
    each_ms = (time.perf_counter() - begun) / 50 * 1000
    begun = time.perf_counter()
    assert encode_snapshot(ledger.state)
    encoding_ms = (time.perf_counter() - begun) * 1000
    print(f"one assignment of 10,000: {each_ms:.2f} ms; the bytes {encoding_ms:.1f} ms")
    assert each_ms < 50
    assert encoding_ms < 1000


def test_an_api_key_is_proven_by_the_admin_who_granted_it() -> None:
    ledger = Ledger("n1")
    key = ApiKey(name="grafana", sha256="0" * 64)
    ledger.instruct("grant-key", "key:grafana", GrantKey(key=key))
    assert decode_snapshot(encode_snapshot(ledger.state)) == ledger.state
    forged = replace(ledger.state, api_keys={"other": replace(key, name="other")})
    with pytest.raises(SnapshotRefused, match="an API key that nobody granted"):
        decode_snapshot(encode_snapshot(forged))
