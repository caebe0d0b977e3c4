"""What isn't allowed, and what came too late, is said so by every agent; nothing changes."""

from __future__ import annotations

import time

import pytest

from agent.formats.plan import decode_plan
from agent.formats.resolve import resolve
from agent.instruction import new_key, sign_access
from agent.model.instruction import Remove
from agent.model.stack import Stack
from tests.loopback.world import EXAMPLE, coordinator_of, others
from tests.support.agents import AgentHttps, Desk, Reply

STATUS = "/api/v1/deployment/status"


def stack(name: str) -> Stack:
    """The example under another name, without replicas: signed and taken, but nothing has to start."""
    plan = EXAMPLE.read_bytes().replace(b'"stack": "web"', f'"stack": "{name}"'.encode())
    plan = plan.replace(b'"replicas": 3', b'"replicas": 0')
    return resolve(decode_plan(plan), stack_name=name, pin=lambda _: None)


def submit(desk: Desk, through: str, signed: tuple[str, bytes]) -> Reply:
    token, body = signed
    with AgentHttps(desk.cluster, through) as agent:
        return agent.ask("POST", "/api/v1/instructions", token=token, body=body)


def test_the_second_of_two_deploys_with_one_revision_learns_who_and_when(desk: Desk) -> None:
    first = submit(desk, "n1", desk.sign("deploy", "stack:twice", 1, stack("twice")))
    assert first.status == 200, first.body
    second = submit(desk, "n2", desk.sign("remove", "stack:twice", 1, Remove()))
    assert second.status == 409, second.body
    assert desk.home.operator.name in second.json["detail"]
    assert time.strftime("%Y-", time.gmtime()) in second.json["detail"]


def test_the_same_instruction_again_gets_the_first_answer(desk: Desk) -> None:
    signed = desk.sign("deploy", "stack:again", 1, stack("again"))
    answers = [submit(desk, name, signed) for name in desk.cluster.names]
    assert [reply.status for reply in answers] == [200, 200, 200]
    assert len({reply.json["index"] for reply in answers}) == 1


@pytest.mark.parametrize("which", ["coordinator", "another"])
def test_a_stranger_changes_and_reads_nothing(desk: Desk, which: str) -> None:
    coordinator = coordinator_of(desk.cluster)
    through = coordinator if which == "coordinator" else others(desk.cluster, coordinator)[0]
    home = desk.home
    _, body = desk.sign("deploy", "stack:forged", 1, stack("forged"))
    token = sign_access(new_key(), operator_name="local", cluster=home.cluster.id, epoch=1, now_s=time.time())
    assert submit(desk, through, (token, body)).status == 401
    with AgentHttps(desk.cluster, through) as agent:
        assert agent.ask("GET", STATUS, token=token).status == 401
        assert agent.ask("GET", STATUS).status == 401
        assert agent.ask("GET", STATUS, token="nonsense").status == 401
        assert agent.ask("GET", STATUS, token=desk.access_token(now_s=time.time() - 8000)).status == 401


def test_a_body_that_was_changed_on_the_way_is_refused(desk: Desk) -> None:
    token, body = desk.sign("deploy", "stack:changed", 1, stack("changed"))
    assert submit(desk, "n1", (token, body.replace(b"8080", b"8081"))).status == 401


def test_an_expired_instruction_is_refused(desk: Desk) -> None:
    signed = desk.sign("deploy", "stack:late", 1, stack("late"), now_s=time.time() - 1000)
    assert submit(desk, "n1", signed).status == 401


def test_an_access_token_changes_nothing(desk: Desk) -> None:
    _, body = desk.sign("deploy", "stack:read", 1, stack("read"))
    assert submit(desk, "n1", (desk.access_token(), body)).status == 401
