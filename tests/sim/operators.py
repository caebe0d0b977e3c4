"""Operators in a world: they sign instructions, send them to any agent, and send again what wasn't answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from agent.instruction import sign_instruction
from agent.model.fault import Fault
from agent.model.instruction import InstructionResult
from agent.model.status import Status
from tests.sim.cluster import OPERATOR

if TYPE_CHECKING:
    from tests.sim.world import World

STACKS = ("shop", "blog")
EVERY_S = 0.4
QUIET_S = 4.0  # at the end nothing is asked for, so that all can agree
PATIENCE_S = 3.0  # then the same instruction goes to somebody else


@dataclass(slots=True)
class _Sent:
    stack: str
    revision: int
    token: str
    body: bytes
    request: int


@dataclass(slots=True)
class Operators:
    """One operator per stack, each with one instruction open at a time; the next revision follows the last answer."""

    world: World
    _revision: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STACKS, 0))
    _open: dict[str, _Sent | None] = field(default_factory=lambda: dict.fromkeys(STACKS))
    _requests: dict[int, _Sent] = field(default_factory=dict)
    _next: int = 1
    applied_after_calm: int = 0

    def begin(self) -> None:
        """Everyone sits down to work."""
        for stack in STACKS:
            self.world.after(self.world.rng.random(), lambda stack=stack: self._work(stack), "")

    def answered(self, request: int, answer: InstructionResult | Status | Fault) -> None:
        """An agent answers. A fault is no answer: the same is sent again."""
        sent = self._requests.pop(request, None)
        if sent is None or not isinstance(answer, InstructionResult):
            return
        if answer.outcome == "applied":
            self.world.say(f"operator: {answer.target} revision {answer.revision} applied at {answer.index}")
            self.world.checks.acknowledge(answer)
            self.applied_after_calm += self.world.calm()
        if self._open[sent.stack] is sent:
            self._open[sent.stack] = None
            self._revision[sent.stack] = max(self._revision[sent.stack], answer.revision)

    def must_have_progressed(self) -> None:
        """With the faults over and a majority up, instructions apply again."""
        assert self.applied_after_calm > 0, f"seed {self.world.seed}: nothing applied after the faults stopped"

    def _work(self, stack: str) -> None:
        if self.world.now > self.world.until_s - QUIET_S:
            return
        sent = self._open[stack]
        if sent is None:
            sent = self._open[stack] = self._sign(stack)
        alive = [agent for agent in self.world.agents.values() if agent.core is not None]
        if alive:
            agent = self.world.rng.choice(alive)
            sent.request, self._next = self._next, self._next + 1
            self._requests[sent.request] = sent
            assert agent.core is not None
            agent.core.submit(sent.request, sent.token, sent.body, self.world.instant(agent))
            self.world.settle(agent)
        waiting = PATIENCE_S if self._open[stack] is sent else EVERY_S
        self.world.after(self.world.rng.random() * waiting, lambda: self._work(stack), "")

    def _sign(self, stack: str) -> _Sent:
        world, revision = self.world, self._revision[stack] + 1
        replicas = world.rng.randint(0, 4)
        if revision == 1 or world.rng.random() < 0.3:
            act = "deploy"
            service = {"runtime": "process", "command": ["serve", str(revision)], "replicas": replicas}
            ports = [{"host_port": 8080, "container_port": 80}]
            body = msgspec.json.encode({"name": stack, "services": {"web": service | {"ports": ports}}})
        elif world.rng.random() < 0.2:
            act, body = world.rng.choice(["stop", "start", "restart"]), b"{}"
        else:
            act, body = "scale", msgspec.json.encode({"services": {"web": replicas}})
        token = sign_instruction(
            world.cast.operator_key,
            operator_name=OPERATOR,
            cluster=world.cast.genesis.cluster,
            epoch=1,
            act=act,
            target=f"stack:{stack}",
            revision=revision,
            body_bytes=body,
            now_s=(1_800_000_000_000 + world.now * 1000) / 1000,
            jti=world.rng.randbytes(16).hex(),
        )
        return _Sent(stack, revision, token, body, 0)
