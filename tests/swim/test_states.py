"""The transition table, walked in full (SWIM §4.2)."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.swim.states import CLAIM_OF, PROBED_STATES, TRANSITIONS, Age, Claim, MemberState, Timer, age_of, next_state

EVERY_KEY = list(itertools.product(MemberState, [*Claim, *Timer], Age))
STRENGTH = {
    MemberState.UNKNOWN: 0,
    MemberState.ALIVE: 1,
    MemberState.SUSPECT: 2,
    MemberState.DEAD: 3,
    MemberState.LEFT: 4,
}


def expected(state: MemberState, event: Claim | Timer, age: Age) -> MemberState | None:
    """The rules in words, as code of another shape than the table."""
    if isinstance(event, Timer):
        return MemberState.DEAD if state is MemberState.SUSPECT and age is Age.SAME else None
    if age is Age.OLDER:
        return None
    gone = state in (MemberState.DEAD, MemberState.LEFT)
    if age is Age.SAME:
        repeats = state is MemberState.SUSPECT and event in (Claim.SUSPECT, Claim.DEAD)
        if event <= STRENGTH[state] and not repeats:
            return None
    if event is Claim.DEAD:
        return MemberState.DEAD if gone else MemberState.SUSPECT
    return {claim: state for state, claim in CLAIM_OF.items()}[event]


def test_every_key_follows_the_rules() -> None:
    for key in EVERY_KEY:
        assert next_state(*key) is expected(*key), key


def test_an_older_claim_never_moves_anybody() -> None:
    assert not any(age is Age.OLDER for _, _, age in TRANSITIONS)


def test_only_the_own_timer_kills_the_living() -> None:
    killers = {
        event for (state, event, _), new in TRANSITIONS.items() if new is MemberState.DEAD and state in PROBED_STATES
    }
    assert killers == {Timer.EXPIRED}


def test_nobody_becomes_unknown_again() -> None:
    assert MemberState.UNKNOWN not in TRANSITIONS.values()


def test_a_newer_alive_moves_every_state_to_alive() -> None:
    assert all(next_state(state, Claim.ALIVE, Age.NEWER) is MemberState.ALIVE for state in MemberState)


def test_every_state_is_reached_from_unknown_and_can_be_left() -> None:
    reached = {MemberState.UNKNOWN}
    while more := {new for (state, _, _), new in TRANSITIONS.items() if state in reached} - reached:
        reached |= more
    assert reached == set(MemberState)
    assert {state for (state, _, _), new in TRANSITIONS.items() if new is not state} == set(MemberState)


@given(st.lists(st.tuples(st.sampled_from(Claim), st.integers(0, 3)), max_size=8), st.randoms())
def test_agents_that_hear_the_same_claims_in_any_order_agree(claims: list[tuple[Claim, int]], rng: object) -> None:
    def settle(order: list[tuple[Claim, int]]) -> tuple[MemberState, int]:
        state, known = MemberState.UNKNOWN, 0
        for claim, incarnation in order:
            new = next_state(state, claim, age_of(incarnation, known))
            if new is not None:
                state, known = new, incarnation
        if state is MemberState.SUSPECT and (Claim.DEAD, known) in claims:
            state = MemberState.DEAD  # the shortened suspicion runs out
        return state, known

    shuffled = claims.copy()
    rng.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types its randoms as object
    assert settle(shuffled) == settle(claims)
