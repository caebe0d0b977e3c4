"""ARCHITECTURE.md "Membership and links": never a change that loses the majority, and a working cluster down to two
hosts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control import AgentHealth, VoterChange, next_change, successor
from agent.control.autopilot import DEAD_S, HEALTHY_S
from agent.raft import Configuration

WELL = AgentHealth(active=True, active_s=100.0, caught_up=True)
DEAD = AgentHealth(active=False, silent_s=DEAD_S)
SILENT = AgentHealth(active=False, silent_s=DEAD_S - 1)
FRESH = AgentHealth(active=True, active_s=HEALTHY_S - 1, caught_up=True)
BEHIND = AgentHealth(active=True, active_s=100.0)


def change(
    voters: str, members: str, *, learners: str = "", coordinator: str = "", **health: AgentHealth
) -> VoterChange | None:
    return next_change(
        Configuration.of(list(voters), list(learners)),
        set(members),
        {member: health.get(member, WELL) for member in members},
        coordinator or voters[0],
    )


def configured(found: VoterChange | None) -> tuple[str, str] | None:
    if found is None:
        return None
    return "".join(found.configuration.voters), "".join(found.configuration.learners)


@pytest.mark.parametrize(
    ("voters", "members"), [("a", "a"), ("a", "ab"), ("abc", "abc"), ("abc", "abcd"), ("abcde", "abcdefg")]
)
def test_a_sound_set_stays(voters: str, members: str) -> None:
    assert change(voters, members) is None


def test_a_dead_voter_leaves_first() -> None:
    assert configured(change("abc", "abcd", c=DEAD)) == ("ab", "")


def test_a_silent_voter_has_thirty_seconds() -> None:
    assert change("abc", "abcd", c=SILENT) is None


def test_an_expelled_voter_leaves_at_once() -> None:
    assert configured(change("abc", "abd")) == ("ab", "")


def test_the_coordinator_never_removes_itself() -> None:
    assert change("abc", "bc", coordinator="a") is None


def test_nothing_is_removed_without_a_majority_of_what_is_left() -> None:
    assert change("abc", "abc", b=DEAD, c=DEAD) is None
    assert change("ab", "ab", b=SILENT) is None


def test_three_to_five_with_five_healthy() -> None:
    assert configured(change("abc", "abcde")) == ("abc", "d")
    assert configured(change("abc", "abcde", learners="d")) == ("abcd", "")
    assert configured(change("abcd", "abcde")) == ("abcd", "e")
    assert configured(change("abcd", "abcde", learners="e")) == ("abcde", "")
    assert change("abcde", "abcdef") is None


def test_one_to_three_starts_only_with_two_caught_up_observers() -> None:
    assert change("a", "ab") is None
    assert change("a", "abc", c=BEHIND) is None
    assert change("a", "abc", c=FRESH) is None
    assert configured(change("a", "abc")) == ("a", "b")


def test_an_even_set_needs_one_to_become_odd() -> None:
    assert configured(change("ab", "abc")) == ("ab", "c")


def test_a_learner_waits_until_it_is_caught_up() -> None:
    assert change("abcd", "abcde", learners="e", e=BEHIND) is None


def test_a_learner_that_goes_silent_is_dropped() -> None:
    assert configured(change("abcd", "abcde", learners="e", e=SILENT)) == ("abcd", "")


def test_nobody_is_promoted_while_a_voter_is_silent() -> None:
    assert change("abc", "abcde", c=SILENT) is None


def test_four_of_four_shrink_to_three() -> None:
    assert configured(change("abcd", "abcd")) == ("abc", "")
    assert configured(change("abcd", "abcd", coordinator="d")) == ("abd", "")


def test_a_blip_shrinks_nothing() -> None:
    assert change("abcde", "abcde", e=SILENT) is None


AGENTS = "abcdefgh"
HEALTH = st.builds(
    lambda active, for_s, caught_up: AgentHealth(
        active=active, active_s=for_s if active else 0.0, silent_s=0.0 if active else for_s, caught_up=caught_up
    ),
    st.booleans(),
    st.floats(0, 60),
    st.booleans(),
)


@settings(max_examples=500)
@given(
    st.sets(st.sampled_from(AGENTS), min_size=1, max_size=5),
    st.sets(st.sampled_from(AGENTS), max_size=2),
    st.sets(st.sampled_from(AGENTS)),
    st.dictionaries(st.sampled_from(AGENTS), HEALTH),
    st.data(),
)
def test_never_a_change_that_loses_the_majority(
    voters: set[str], learners: set[str], members: set[str], health: dict[str, AgentHealth], data: st.DataObject
) -> None:
    coordinator = data.draw(st.sampled_from(sorted(voters)))
    before = Configuration.of(sorted(voters), sorted(learners - voters))
    found = next_change(before, members, health, coordinator)
    if found is None:
        return
    after = found.configuration
    active = {agent for agent in AGENTS if agent == coordinator or (agent in health and health[agent].active)}
    assert len(active & set(after.voters)) > len(after.voters) // 2
    assert coordinator in after.voters
    moved = (set(before.voters) ^ set(after.voters)) | (set(before.learners) ^ set(after.learners))
    assert len(moved) == 1  # Raft §4.1: one member at a time
    for promoted in set(after.voters) - set(before.voters):
        known = health[promoted]
        assert known.active
        assert known.caught_up
        assert known.active_s >= HEALTHY_S
    for removed in set(before.voters) - set(after.voters):
        known = health.get(removed, AgentHealth(active=False))
        dead = not known.active and known.silent_s >= DEAD_S
        assert removed not in members or dead or len(before.voters) > 3
    assert len(after.voters) <= 5


@settings(max_examples=200)
@given(st.integers(2, 8), st.randoms(use_true_random=False))
def test_losing_hosts_one_after_another_leaves_a_working_cluster_down_to_two(count: int, random: object) -> None:
    """Each host dies after healing came to rest; the coordinator is always one that lives."""
    alive = list(AGENTS[:count])
    configuration = Configuration.of([*AGENTS[: 5 if count >= 5 else 3 if count >= 3 else 1]])
    configuration = _rest(configuration, alive)
    while len(alive) > 2:
        alive.remove(random.choice(alive))  # type: ignore[attr-defined]  # hypothesis' Random
        assert _works(configuration, alive)
        configuration = _rest(configuration, alive)
        assert _works(configuration, alive)


def _works(configuration: Configuration, alive: list[str]) -> bool:
    return len(set(configuration.voters) & set(alive)) > len(configuration.voters) // 2


def _rest(configuration: Configuration, alive: list[str]) -> Configuration:
    health = {agent: WELL if agent in alive else DEAD for agent in AGENTS}
    for _ in range(40):
        coordinator = next(voter for voter in configuration.voters if voter in alive)
        found = next_change(configuration, set(AGENTS), health, coordinator)
        if found is None:
            return configuration
        configuration = found.configuration
    raise AssertionError("never comes to rest")


@pytest.mark.parametrize(
    ("drained", "health", "to"),
    [
        ("", {}, None),
        ("b", {}, None),  # others' drains are none of its business
        ("a", {}, "b"),
        ("ab", {}, "c"),
        ("abc", {}, None),  # somebody has to
        ("a", {"b": DEAD}, "c"),
        ("a", {"b": BEHIND, "c": SILENT}, None),
    ],
)
def test_a_drained_coordinator_hands_over_to_a_voter_that_can_take_it(
    drained: str, health: dict[str, AgentHealth], to: str | None
) -> None:
    known = {member: health.get(member, WELL) for member in "abcd"}
    assert successor(Configuration.of(list("abc"), []), frozenset(drained), known, "a") == to
