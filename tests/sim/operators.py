"""Operators in a world: they sign instructions, send them to any agent, and send again what wasn't answered.

Two operators share a stack, so that they race for its revisions. What they are told is checked for linearizability.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from agent.instruction import sign_instruction
from agent.model.fault import Fault
from agent.model.instruction import Act, Enrol, InstructionResult, Relabel
from agent.model.status import Status
from agent.model.types import AgentId
from agent.node.submissions import ANSWER_DEADLINE_S
from agent.state import ClusterState
from tests.sim.checks import Violated
from tests.sim.cluster import OPERATOR
from tests.sim.linear import Operation, linearizable, smallest_wrong

if TYPE_CHECKING:
    from tests.sim.world import SimAgent, World

DESKS = ("stack:shop", "stack:shop", "stack:blog")  # what each operator works on
QUIET_S = 4.0  # at the end nothing is asked for, so that all can agree
PATIENCE_S = 3.0  # then the same instruction goes to somebody else
GIVES_UP_AFTER = 6  # sendings; the instruction stays open for ever
GRACE_S = 0.5  # between an answer's deadline and the answer


@dataclass(slots=True, eq=False)
class Sent:
    """One instruction, whoever it was sent to so far. `done` is set with its answer, `given_up` if nobody waits for it.

    `desk`: whoever sent it goes on with the next one. `epoch`: the one it was signed for.
    """

    target: str
    operation: Operation
    token: str
    body: bytes
    epoch: int
    times: int = 0
    done: bool = False
    given_up: bool = False
    desk: bool = False


@dataclass(slots=True)
class Operators:
    """Each has one instruction open at a time; the next revision follows what the last answer, or a look, said.

    `history` is by epoch and target: what is taken in one epoch may be lost in the next (docs/operations.md).
    """

    world: World
    epoch: int = 1
    answers: int = 0
    applied_at: float = 0.0
    history: dict[tuple[int, str], list[Operation]] = field(default_factory=lambda: defaultdict(list))
    _begun: dict[tuple[int, str], int] = field(default_factory=dict)
    _revision: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _requests: dict[int, tuple[Sent, AgentId, int]] = field(default_factory=dict)
    _next: int = 1

    def follow(self, state: ClusterState) -> None:
        """Another epoch began with `state`: from now on they sign for it. What they signed before stays open."""
        self.epoch = state.epoch
        self._revision.clear()
        for target, record in state.targets.items():
            self._begun[state.epoch, target] = self._revision[target] = record.revision

    def begin(self) -> None:
        """Everyone sits down to work."""
        for target in DESKS:
            self._later(self.world.rng.random(), target, None)

    def _later(self, delay_s: float, target: str, sent: Sent | None) -> None:
        self.world.after(delay_s, lambda: self._work(target, sent))

    def _work(self, target: str, sent: Sent | None) -> None:
        world = self.world
        if world.now > world.until_s - QUIET_S:
            return
        if sent is not None and sent.done:
            return
        if sent is not None and (sent.times >= GIVES_UP_AFTER or sent.epoch < self.epoch):
            sent.given_up, sent = True, None
        if sent is None:
            sent = self._sign(target)
            sent.desk = True
        self.send(sent)
        self._later(world.rng.random() * PATIENCE_S, target, sent)

    def send(self, sent: Sent, to: SimAgent | None = None) -> None:
        """To any agent that is up, unless somebody says to which one.

        Once faults are over, who asks again asks one that can answer, so that no luck is needed to get through in time.
        """
        agents = [agent for agent in self.world.alive() if not agent.paused]
        if self.world.calm() and sent.times:
            able = [agent for agent in agents if agent.id not in self.world.left_out and agent.disk.epoch == self.epoch]
            agents = able or agents
        if not agents:
            return
        agent = to or self.world.rng.choice(agents)
        request, self._next = self._next, self._next + 1
        sent.times += 1
        self._requests[request] = sent, agent.id, agent.life
        self.world.after(ANSWER_DEADLINE_S + GRACE_S, lambda: self._must_be_answered(request))
        self.world.hand_in(agent, lambda core, when: core.submit(request, sent.token, sent.body, when))

    def _must_be_answered(self, request: int) -> None:
        waiting = self._requests.get(request)
        if waiting is None:
            return
        world = self.world
        agent = world.agents[waiting[1]]
        if agent.core is not None and agent.life == waiting[2] and world.now > agent.stalled_until:
            raise Violated(f"{agent.id} never answered an instruction that it took {ANSWER_DEADLINE_S:.0f} s ago")

    def answered(self, agent: SimAgent, request: int, answer: InstructionResult | Status | Fault) -> None:
        """An agent answers, once. A fault is no answer: the same is sent again."""
        if request not in self._requests:
            raise Violated(f"{agent.id} answers a request twice, or one that nobody made")
        sent, _, _ = self._requests.pop(request)
        if not isinstance(answer, InstructionResult):
            return
        operation = sent.operation
        if sent.epoch != agent.disk.epoch:
            raise Violated(f"{agent.id} takes an instruction for epoch {sent.epoch} in epoch {agent.disk.epoch}")
        if answer.outcome == "applied":
            self.world.say(f"operator: {answer.target} revision {answer.revision} applied at {answer.index}")
            self.world.judge(agent).acknowledge(answer)
            if sent.epoch == self.epoch:
                self.applied_at = self.world.now
                self._revision[sent.target] = max(self._revision[sent.target], answer.revision)
        elif answer.outcome == "conflict":
            self._look(agent, sent.target)
        if not sent.done:
            sent.done = True
            if sent.desk and not sent.given_up:
                self._later(self.world.rng.random() * self.world.weather.pace_s, sent.target, None)
            self.answers += 1
            # What is refused once, because its host hasn't joined yet, say, stays open: it was sent more than once.
            if answer.outcome != "refused":
                operation.returned, operation.outcome = self.world.now, answer.outcome
            if answer.outcome == "applied" and self.world.disaster is not None:
                self.world.disaster.answered()

    def _look(self, agent: SimAgent, target: str) -> None:
        """Somebody else was faster, or something old was answered: what does this agent know?"""
        if agent.disk.epoch < self.epoch:
            return
        assert agent.core is not None
        record = agent.core.context.state.targets.get(target)
        self._revision[target] = max(self._revision[target], record.revision if record is not None else 0)

    def must_be_linearizable(self) -> None:
        """Every target's answers, in some order that respects real time."""
        for (epoch, target), operations in self.history.items():
            begin = self._begun.get((epoch, target), 0)
            if not linearizable(operations, begin):
                wrong = smallest_wrong(operations, begin)
                raise Violated(f"the answers about {target} in epoch {epoch} aren't linearizable: {wrong}")

    # Instructions

    def _sign(self, target: str) -> Sent:
        rng, revision = self.world.rng, self._revision[target] + 1
        replicas = rng.randint(0, 4)
        if revision == 1 or rng.random() < 0.3:
            service = {"runtime": "process", "command": ["serve", str(revision)], "replicas": replicas}
            service |= {"labels": wanted} if (wanted := self._labels()) else {}
            ports = [{"host_port": 8080, "container_port": 80}]
            name = target.partition(":")[2]
            return self.sign(
                "deploy", target, revision, {"name": name, "services": {"web": service | {"ports": ports}}}
            )
        if rng.random() < 0.2:
            acts: tuple[Act, ...] = ("stop", "start", "restart")
            return self.sign(rng.choice(acts), target, revision, {})
        return self.sign("scale", target, revision, {"services": {"web": replicas}})

    def sign(self, act: Act, target: str, revision: int, content: object) -> Sent:
        """An instruction that will be in the history of its target."""
        world, body = self.world, msgspec.json.encode(content)
        token = sign_instruction(
            world.cast.operator_key,
            operator_name=OPERATOR,
            cluster=world.cast.genesis.cluster,
            epoch=self.epoch,
            act=act,
            target=target,
            revision=revision,
            body_bytes=body,
            now_s=world.wall_ms / 1000,
            jti=world.rng.randbytes(16).hex(),
        )
        history = self.history[self.epoch, target]
        operation = Operation(revision, f"{hashlib.sha256(body).hexdigest()} {len(history)}", world.now)
        history.append(operation)
        return Sent(target, operation, token, body, self.epoch)

    # Membership

    def enrol(self) -> AgentId:
        """A host joins: it starts with the genesis, and an instruction enters it."""
        world = self.world
        member = world.cast.draw_member(world.rng, f"n{len(world.agents) + 1}")
        world.add(member.id)
        self._insist(self.sign("enrol", f"member:{member.id}", 1, Enrol(member=member)))
        return member.id

    def join(self, hosts: int) -> None:
        """Several hosts join at once."""
        for _ in range(hosts):
            self.enrol()

    def expel(self, agent: AgentId) -> None:
        """A host has to go."""
        revision = 2 if self.world.cast.names[agent] not in self.world.founders else 1
        self._insist(self.sign("expel", f"member:{agent}", revision, {}))

    def drain(self, agent: AgentId) -> None:
        """A host is drained, or used again. Who is expelled meanwhile is refused; then nobody insists any more."""
        target = f"host:{agent}"
        acts: tuple[Act, ...] = ("drain", "drain", "undrain")
        self._insist(self.sign(self.world.rng.choice(acts), target, self._revision[target] + 1, {}))

    def try_again(self) -> None:
        """With the faults over, one instruction on a target that nobody else works on."""
        self.insist("cancel", "stack:calm", {})

    def insist(self, act: Act, target: str, content: object) -> None:
        """Until it is answered, unless it is refused; a target's first instruction."""
        self._insist(self.sign(act, target, 1, content))

    def relabel(self, agent: AgentId) -> None:
        """A host gets other labels, or loses them: replicas that want what it has no more leave it."""
        target = f"host:{agent}"
        self._insist(self.sign("relabel", target, self._revision[target] + 1, Relabel(labels=self._labels())))

    def _labels(self) -> dict[str, str]:
        """One, or none; always none where nobody labels hosts."""
        labels = self.world.labels
        return {"disk": labels.choice(("ssd", "hdd"))} if labels is not None and labels.random() < 0.5 else {}

    def _insist(self, sent: Sent) -> None:
        if sent.done or sent.epoch < self.epoch or self.world.now > self.world.until_s - QUIET_S:
            return
        self.send(sent)
        self.world.after(self.world.rng.random() * PATIENCE_S, lambda: self._insist(sent))
