"""Health checks as a state machine over answers and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.host.checks import START_PERIOD_S, CheckPlan, CheckState, answered, begin, check_plan
from agent.model.stack import HealthCommand, HealthProbe
from tests.support.replicas import process_spec, spec

PLAN = CheckPlan(interval_s=2.0, timeout_s=1.0, retries=3)


def after(answers: str, *, every: float = 1.0, plan: CheckPlan = PLAN) -> CheckState:
    """`+` and `-` answers, one each `every` seconds."""
    state, now = begin(0.0), 0.0
    for answer in answers:
        now += every
        state = answered(plan, state, answer == "+", "" if answer == "+" else "refused", now)
    return state


@pytest.mark.parametrize(
    ("answers", "health"),
    [
        ("", "starting"),
        ("+", "healthy"),
        ("-----+", "healthy"),
        ("+--", "healthy"),
        ("+---", "unhealthy"),
        ("+---+", "healthy"),
    ],
)
def test_retries_bad_answers_in_a_row_make_it_unhealthy(answers: str, health: str) -> None:
    assert after(answers).health == health


def test_bad_answers_while_it_starts_do_not_count() -> None:
    assert after("-" * 29).health == "starting"
    assert after("-" * (int(START_PERIOD_S) + 2)).health == "unhealthy"


def test_it_is_asked_often_at_first_and_at_the_interval_then() -> None:
    first = answered(PLAN, begin(0.0), False, "refused", 0.05)
    assert first.due - 0.05 < 0.2
    assert after("+", every=5.0).due == 7.0


def test_the_reason_is_the_last_bad_answers_and_bounded() -> None:
    assert after("+-").reason == "refused"
    assert after("-+").reason == ""
    assert len(answered(PLAN, begin(0.0), False, "x" * 9999, 1.0).reason) == 200


@given(st.text("+-", max_size=60), st.floats(0.01, 10), st.integers(1, 5))
def test_unhealthy_needs_as_many_failures_as_retries_and_one_good_answer_ends_it(
    answers: str, every: float, retries: int
) -> None:
    plan = CheckPlan(interval_s=2.0, timeout_s=1.0, retries=retries)
    state = after(answers, every=every, plan=plan)
    if state.health == "unhealthy":
        assert answers.endswith("-" * retries)
        assert state.failures == retries
    else:
        assert state.failures < retries
    if "+" in answers:
        assert state.health != "starting"
    assert state.due >= len(answers) * every


def test_dockers_own_check_is_dockers_and_a_process_command_is_ours() -> None:
    command = HealthCommand(test=("CMD", "true"), interval_ms=500, start_period_ms=4000)
    assert check_plan(spec(health_check=command)) is None
    assert check_plan(process_spec("web", "sleep")) is None
    assert check_plan(process_spec("web", "sleep", health_check=HealthCommand(test=("NONE",)))) is None
    ours = check_plan(process_spec("web", "sleep", health_check=command))
    assert ours is not None
    assert (ours.interval_s, ours.start_s) == (0.5, 4.0)
    probe = check_plan(spec(health=HealthProbe(kind="tcp", container_port=80, retries=7)))
    assert probe is not None
    assert probe.retries == 7
