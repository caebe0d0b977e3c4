"""Bringing an instruction in: answered, refused, resent, asked for by its jti (ARCHITECTURE.md "The way of an
instruction")."""

from __future__ import annotations

import asyncio

import pytest

from agent.client import Client, instructions
from agent.client.http import TransportError
from agent.errors import Conflict, MusterError, NoMajority, NotAllowed, NotAuthenticated, TimedOut
from agent.instruction import new_key, unverified_claims
from agent.model.instruction import Scale, Services
from tests.support.fake_node import FakeCluster
from tests.support.shop import instruct, open_shop, shop


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "RETRY_S", 0.01)


def taken(cluster: FakeCluster) -> list[str]:
    """The jtis that reached any member, in order."""
    return [unverified_claims(token).jti for node in cluster.nodes.values() for token, _ in node.node.submitted]


async def test_a_change_takes_the_next_revision(client: Client, running: FakeCluster) -> None:
    assert (await client.submit("deploy", "stack:shop", shop())).revision == 1
    assert (await client.submit("scale", "stack:shop", Scale(services={"web": 3}))).revision == 2
    state = running.ledger.state.stacks["shop"]
    assert (state.revision, state.scale) == (2, {"web": 3})
    assert state.changed_by == "ann"


async def test_a_cluster_whose_hosts_were_all_put_back_is_told_of(
    client: Client, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No host can know: each remembers what all the others do."""
    told: list[str] = []
    monkeypatch.setattr(client, "notice", told.append)
    await client.submit("deploy", "stack:shop", shop())
    older = running.ledger.state
    for replicas in (2, 3):
        await client.submit("scale", "stack:shop", Scale(services={"web": replicas}))
    assert not told
    running.ledger.state = older
    await client.submit("scale", "stack:shop", Scale(services={"web": 4}))
    assert len(told) == 1
    assert told[0].startswith("the cluster went back")
    await client.submit("scale", "stack:shop", Scale(services={"web": 5}))
    assert len(told) == 1


async def test_a_change_that_somebody_else_was_first_with_is_a_conflict_that_names_them(
    client: Client, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_shop(running)
    stale = await client.target("stack:shop")
    instruct(running, "scale", "stack:shop", Scale(services={"web": 2}))

    async def old(_target: str) -> object:
        return stale

    monkeypatch.setattr(client, "target", old)
    with pytest.raises(Conflict, match=r"revision 2 \(scale by ann\).* at \d{4}-"):
        await client.submit("scale", "stack:shop", Scale(services={"web": 3}))
    assert len(taken(running)) == 1


async def test_after_a_lost_answer_the_same_token_is_sent_to_another_member(
    client: Client, running: FakeCluster
) -> None:
    for node in running.nodes.values():
        node.node.submit_errors = [TimedOut("isn't confirmed after 10 s")]
    result = await client.submit("deploy", "stack:shop", shop())
    assert result.outcome == "applied"
    assert len(set(taken(running))) == 1
    assert len(taken(running)) == 2


async def test_an_instruction_that_was_applied_before_its_answer_was_lost_gets_the_first_answer(
    client: Client, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Client.call
    lost = [True]

    async def losing(self: Client, endpoint: object, request: object, type_: object) -> object:
        answer: object = await real(self, endpoint, request, type_)  # type: ignore[arg-type]  # passed through
        if getattr(request, "method", "") == "POST" and lost.pop():
            lost.append(False)
            raise TransportError("no answer in time")
        return answer

    monkeypatch.setattr(Client, "call", losing)
    result = await client.submit("deploy", "stack:shop", shop())
    assert result.repeated
    assert result.revision == 1
    assert running.ledger.state.stacks["shop"].revision == 1


async def test_who_stops_waiting_is_told_that_it_may_be_taken_all_the_same(
    client: Client, running: FakeCluster, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = asyncio.Event()

    async def never(self: Client, endpoint: object, request: object, type_: object) -> object:
        if getattr(request, "method", "") != "POST":
            return await real(self, endpoint, request, type_)  # type: ignore[arg-type]  # passed through
        sent.set()
        return await asyncio.Future()

    real = Client.call
    monkeypatch.setattr(Client, "call", never)
    waiting = asyncio.create_task(client.submit("deploy", "stack:shop", shop()))
    await sent.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    [told] = notices
    assert told.startswith("deploy stack:shop was sent, and may be taken all the same. Look at `agent status`")
    assert "`agent cancel stack:shop --jti " in told


async def test_a_member_that_is_gone_is_passed_over(client: Client, running: FakeCluster) -> None:
    endpoint = await client.connect()
    await running.nodes.pop(endpoint.label).server.close()
    assert (await client.submit("deploy", "stack:shop", shop())).revision == 1


async def test_without_a_majority_it_gives_up_soon_because_nothing_was_changed(
    client: Client, running: FakeCluster, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instructions, "PATIENCE_S", 0.0)
    for node in running.nodes.values():
        node.node.submit_errors = [NoMajority("no majority: n2 unreachable", fix="Start it.")] * 9
    with pytest.raises(NoMajority) as error:
        await client.submit("deploy", "stack:shop", shop())
    assert error.value.fix == "Start it."


async def test_a_majority_that_comes_back_is_waited_for(
    client: Client, running: FakeCluster, notices: list[str]
) -> None:
    for node in running.nodes.values():
        node.node.submit_errors = [NoMajority("no majority: n2 unreachable")]
    assert (await client.submit("deploy", "stack:shop", shop())).revision == 1
    assert notices
    assert all("trying again" in each for each in notices)


async def test_an_unknown_outcome_is_asked_for_by_its_jti_once_the_token_has_expired(
    client: Client, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = instructions.Submission.sign(client, "deploy", "stack:shop", 1, shop())
    submission.expires_s = 0
    with pytest.raises(TimedOut) as error:
        await submission.bring_in()
    assert submission.jti in error.value.where
    assert "revision is 1" in error.value.fix
    running.nodes["n1"].node.submitted.clear()
    submission.expires_s = submission.began_s + 300
    first = await submission.bring_in()
    submission.expires_s = 0
    assert (await submission.bring_in()).index == first.index


async def test_a_conflict_after_an_unknown_outcome_is_resolved_by_jti(client: Client, running: FakeCluster) -> None:
    submission = instructions.Submission.sign(client, "deploy", "stack:shop", 1, shop())
    await submission.bring_in()
    instruct(running, "restart", "stack:shop", Services())  # another is the newest now
    submission.uncertain = True
    with pytest.raises((TimedOut, MusterError)):
        await submission.bring_in()


async def test_what_the_ledger_refuses_is_raised_as_what_it_is(client: Client, running: FakeCluster) -> None:
    with pytest.raises(MusterError) as error:
        await client.submit("restart", "stack:none", Services())
    assert 400 <= error.value.status < 500
    assert len(taken(running)) == 1


async def test_a_key_that_the_cluster_does_not_know_is_not_allowed(
    client: Client, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_key", new_key())
    stranger = instructions.Submission.sign(client, "deploy", "stack:shop", 1, shop())
    with pytest.raises(NotAuthenticated) as error:
        await stranger.bring_in()
    assert error.value.exit_code == NotAllowed.exit_code


async def test_once_it_may_have_been_taken_it_is_not_given_up_for_a_missing_majority(
    client: Client, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instructions, "PATIENCE_S", 0.0)
    errors: list[Exception] = [TimedOut("isn't confirmed after 10 s"), NoMajority("no majority: n2 unreachable")]
    for node in running.nodes.values():
        node.node.submit_errors = errors  # one list: whichever member is asked next
    assert (await client.submit("deploy", "stack:shop", shop())).outcome == "applied"
    assert len(set(taken(running))) == 1
    assert len(taken(running)) == 3
