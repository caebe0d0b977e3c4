"""Answers of hosts to `agent doctor`: each counts as the word of the host that was asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agent.model.cluster import Member
from agent.model.doctor import Examination, HostAnswer
from agent.model.expulsion import Expulsion
from agent.model.types import AgentId
from agent.node.driver.doctor import DoctorService
from agent.node.messages import Examine, Examined, Reply
from tests.support.ledger import Ledger, member


@dataclass
class Peers:
    """The part of a driver that is asked, on n1; `answer` is what every peer says."""

    answer: HostAnswer
    state: object = field(default_factory=lambda: Ledger().state)
    peers: tuple[AgentId, ...] = ()
    keeps_out: Expulsion | None = None
    own_name: str = "n1"

    @property
    def core(self) -> Peers:
        return self

    @property
    def expelled(self) -> Peers:
        return self

    @property
    def visits(self) -> Peers:
        return self

    @property
    def requests(self) -> Peers:
        return self

    @property
    def context(self) -> Peers:
        return self

    @property
    def id(self) -> AgentId:
        return member("n1").id

    def name_of(self, agent: AgentId) -> str:
        return next(each.name for each in map(member, ("n1", "n2", "n3")) if each.id == agent)

    @asynccontextmanager
    async def linked(self, _peer: AgentId) -> AsyncIterator[None]:
        yield

    async def call(self, _peer: AgentId, _request: Examine) -> AsyncGenerator[Reply]:
        yield Examined(answer=self.answer)


async def test_a_host_cant_answer_as_another() -> None:
    other: Member = member("n3")
    lie = HostAnswer(id=other.id, host="n3", examination=Examination(id=other.id, name="n3", wall_ms=1))
    service = DoctorService(Peers(lie), None)  # type: ignore[arg-type]  # all of them that is used here
    (answer,) = [answer async for answer in service.ask(["n2"])]
    assert answer.examination is not None
    told = (answer.id, answer.host, answer.examination.id, answer.examination.name)
    assert told == (member("n2").id, "n2", member("n2").id, "n2")
    assert answer.offset_ms < 0


async def test_who_was_expelled_answers_for_itself_alone() -> None:
    class Look:
        async def examine(self, *, log: bool) -> Examination:
            return Examination(id=member("n1").id, name="n1")

    peers = Peers(HostAnswer(id=None, host="n2"), keeps_out=Expulsion(told_by=("n2",)))
    service = DoctorService(peers, Look())  # type: ignore[arg-type]  # all of them that is used here
    assert [answer.host async for answer in service.ask([])] == ["n1"]
