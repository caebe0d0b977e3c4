"""Instructions on their way into the ledger: from the API or a peer, to the coordinator, answered by `apply`.

An instruction is resent as often as it takes until its answer or its deadline: the ledger answers the same instruction
with the same result (ARCHITECTURE.md "The way of an instruction"), so trying again is always safe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct, field

from agent import errors
from agent.instruction import VerifiedInstruction, check_times, read_instruction
from agent.model.fault import Fault, fault_of
from agent.model.instruction import InstructionResult
from agent.model.ledger import InstructionEntry, encode_entry
from agent.model.types import AgentId, Millis
from agent.node.context import Context
from agent.node.effects import Answer
from agent.node.instant import Instant
from agent.node.messages import Failed, Reply, Submit, Submitted
from agent.node.sentences import start_again
from agent.node.subscriptions import SILENT_S
from agent.raft import NotLeader, ProposalDropped, ReadDropped, ReadState
from agent.raft.quorum import majority
from agent.state import apply, audience_of

ANSWER_DEADLINE_S = 10.0  # how long the API keeps a client waiting; several elections fit into it
NO_MAJORITY_AFTER_S = 2.0  # without a majority linked for this long, waiting on is no kindness
OWN_APPLY_WAIT_S = 1.0  # for our own ledger to have what the coordinator says it applied; a heartbeat brings it
RETRY_S = 0.05  # after a coordinator said it no longer is one, or had no room
MAX_PENDING = 1000  # instructions under way through one agent; a client above it hears 429
CLOCK_SKEW_S = 60  # an operator's clock may be this far from the coordinator's


class _Pending(Struct):
    """`origin`: a request of our own API, or (peer, call). `call` and `way`: how and to whom it was forwarded.

    `stays`: it was forwarded to us as who coordinates, so that nobody else gets it from us.
    `sent`: it left our hands once, so that it may happen whatever we hear. `current_from`: a state at this index or
    later has all that anybody was told before we asked. `told`: the coordinator's answer, which waits for our own
    apply: whoever changes something here reads it here afterwards.
    """

    origin: int | tuple[AgentId, int]
    verified: VerifiedInstruction
    token: str
    body: bytes
    since: float
    expires: float
    stays: bool = False
    state: Literal["waiting", "forwarded", "asking", "proposed"] = "waiting"
    call: int = 0
    way: AgentId | None = None
    term: int = 0
    sent: bool = False
    current_from: int | None = None
    told: InstructionResult | None = None
    retry_at: float = 0.0


class Submissions(Struct):
    """The pending instructions of one agent.

    Invariants: each gets exactly one answer, or its origin is gone. `_moving` holds at least those that something other
    than a change of coordinator or their end (`_ends_at`, or later) can move on.
    """

    context: Context
    _pending: dict[int, _Pending] = field(default_factory=dict)
    _next: int = 1
    _moving: set[int] = field(default_factory=set)
    _ends_at: float = float("inf")
    _post: tuple[bool, int, AgentId | None, AgentId | None] = (False, 0, None, None)
    _alone_since: float = float("-inf")  # without a majority; infinite while there is one
    _pumped_at: float = float("-inf")

    def submit(self, request: int, token: str, body: bytes, when: Instant) -> None:
        """An instruction from this agent's own API; answered by an `Answer` effect."""
        try:
            self._take(request, token, body, when)
        except errors.MusterError as error:
            self.context.emit(Answer(request=request, answer=fault_of(error)))

    def serve(self, peer: AgentId, call: int, request: Submit, when: Instant) -> None:
        """An instruction that a peer sends us because it believes that we coordinate, or for us to relay."""
        if not self.context.raft.is_leader and not request.pass_on:
            self.context.fail(peer, call, fault_of(self._no_coordinator()))
            return
        try:
            self._take((peer, call), request.token, request.body, when, stays=not request.pass_on)
        except errors.MusterError as error:
            self.context.fail(peer, call, fault_of(error))

    def cancelled(self, peer: AgentId, call: int) -> None:
        """The peer no longer waits. What was proposed may still apply."""
        self._forget(lambda pending: pending.origin == (peer, call))

    def peer_lost(self, peer: AgentId) -> None:
        """Nobody is left to answer."""
        self._forget(lambda pending: isinstance(pending.origin, tuple) and pending.origin[0] == peer)

    def applied(self, result: InstructionResult) -> None:
        """The ledger's answer to the instruction with this jti, digest and target."""
        asked = [number for number, pending in self._pending.items() if pending.verified.claims.jti == result.jti]
        for number in asked:
            claims = self._pending[number].verified.claims
            if (claims.bdg, claims.target) == (result.digest, result.target):
                self._answer(number, result)

    def confirmed(self, read: ReadState) -> None:
        """A majority followed us after we asked (Raft §6.4)."""
        number = int.from_bytes(read.context, "big")
        pending = self._pending.get(number)
        if pending is not None and pending.state == "asking":
            pending.state, pending.current_from = "waiting", read.index
            self._moving.add(number)

    def pump(self, when: Instant) -> None:
        """Move on everything that can move: after any change of coordinator, links or time."""
        self._pumped_at = when.mono
        if self._has_majority():
            self._alone_since = float("inf")
        elif self._alone_since == float("inf"):
            self._alone_since = when.mono
        if not self._pending:
            return
        clock_ms = self.context.clock_ms(when) if self.context.may_stamp(when) else None  # one answer for all that wait
        raft = self.context.raft
        post = raft.is_leader, raft.term, self.context.leader, self.context.way
        everybody = post != self._post or when.mono >= self._ends_at
        for number in list(self._pending) if everybody else sorted(self._moving):
            if (pending := self._pending.get(number)) is not None:
                self._advance(number, pending, when, clock_ms)
                if pending.state == "waiting" or pending.told is not None:
                    self._moving.add(number)
                else:
                    self._moving.discard(number)
        self._moving &= self._pending.keys()
        if everybody:
            self._post = post
            self._ends_at = min((pending.expires for pending in self._pending.values()), default=float("inf"))

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause: always later than the last one."""
        if not self._pending:
            return float("inf")
        moving = [self._pending[number] for number in self._moving if number in self._pending]
        moments = [self._ends_at, *(pending.retry_at for pending in moving)]
        moments += [self._gives_up_at(pending) for pending in moving if pending.state == "waiting"]
        return min((moment for moment in moments if moment > self._pumped_at), default=float("inf"))

    def _take(
        self, origin: int | tuple[AgentId, int], token: str, body: bytes, when: Instant, *, stays: bool = False
    ) -> None:
        state = self.context.state
        verified = read_instruction(token, body, state.operators, audience_of(state))
        known = state.targets.get(verified.claims.target)
        number = self._next
        self._next += 1
        pending = _Pending(origin, verified, token, body, when.mono, when.mono + ANSWER_DEADLINE_S, stays)
        if known is not None and known.jti == verified.claims.jti and known.digest == verified.claims.bdg:
            self._pending[number] = pending
            self._answer(number, repeated(known.result))
            return
        if len(self._pending) >= MAX_PENDING:
            raise errors.TooMany(f"{MAX_PENDING} instructions are under way here", fix="Try again in a second.")
        self._pending[number] = pending
        self._moving.add(number)
        self._ends_at = min(self._ends_at, pending.expires)

    def _advance(self, number: int, pending: _Pending, when: Instant, clock_ms: Millis | None) -> None:
        """`clock_ms`: the time for stamps; None while this agent may not stamp."""
        if pending.told is not None:
            if self.context.state.index >= pending.told.index or when.mono >= min(pending.retry_at, pending.expires):
                self._answer(number, pending.told)
            return
        if when.mono >= pending.expires:
            self._expire(number, pending)
        elif self._in_vain(pending):
            self._hang_up(pending)
            pending.state, pending.current_from = "waiting", None
        if number not in self._pending or pending.state != "waiting" or when.mono < pending.retry_at:
            return
        if self.context.leads:
            if clock_ms is not None:
                self._admit(number, pending, when, clock_ms)
        elif pending.stays:
            if not self.context.raft.is_leader:
                self._answer(number, fault_of(self._no_coordinator(pending)))
        elif (way := self.context.way) not in (None, self.context.id):
            self._forward(number, pending, way)
        elif when.mono >= self._gives_up_at(pending):
            self._answer(number, fault_of(self._no_coordinator(pending)))

    def _gives_up_at(self, pending: _Pending) -> float:
        """An observer must first leave a voter that names no coordinator, and ask another one."""
        asks_others_s = 0.0 if self.context.id in self.context.raft.configuration.voters else SILENT_S
        return max(pending.since, self._alone_since) + NO_MAJORITY_AFTER_S + asks_others_s

    def _in_vain(self, pending: _Pending) -> bool:
        """Whether the agent that has it may never answer: a proposal may be lost with its term, a coordinator with its
        post.
        """
        raft = self.context.raft
        if pending.state in ("proposed", "asking"):
            return not (raft.is_leader and raft.term == pending.term)
        return pending.state == "forwarded" and self.context.way not in (None, pending.way)

    def _hang_up(self, pending: _Pending) -> None:
        self.context.hang_up(pending.call)
        pending.call = 0

    def _admit(self, number: int, pending: _Pending, when: Instant, clock_ms: Millis) -> None:
        """Admission: the only place where `exp` counts. What `apply` would refuse now never enters the ledger.

        A refusal is only given from a state that is still current: a coordinator that was deposed without knowing it
        must not say that a revision isn't there which others have seen.
        """
        state = self.context.state
        at = self.context.ledger_ms(clock_ms)
        entry = InstructionEntry(at=at, token=pending.token, body=pending.body, via=self.context.id)
        data = encode_entry(entry)
        _, foretold = apply(state, state.index + 1, data)
        result = foretold.result
        if result is not None and (result.outcome != "applied" or result.repeated):
            if result.repeated or (pending.current_from is not None and state.index >= pending.current_from):
                self._answer(number, result)
            elif pending.current_from is None:
                self._ask_majority(number, pending, when)
            return
        try:
            check_times(pending.verified.claims, clock_ms // 1000, CLOCK_SKEW_S)
            self.context.raft.propose(data, when.mono)
        except errors.MusterError as error:
            self._answer(number, fault_of(error))
        except (NotLeader, ProposalDropped):
            pending.retry_at = when.mono + RETRY_S
        else:
            pending.state, pending.term, pending.sent = "proposed", self.context.raft.term, True

    def _ask_majority(self, number: int, pending: _Pending, when: Instant) -> None:
        try:
            self.context.raft.read_index(number.to_bytes(8, "big"), when.mono)
        except (NotLeader, ReadDropped):
            pending.retry_at = when.mono + RETRY_S
        else:
            pending.state, pending.term = "asking", self.context.raft.term

    def _forward(self, number: int, pending: _Pending, way: AgentId) -> None:
        def on_reply(reply: Reply | None, _end: bool, when: Instant) -> None:
            self._forwarded(number, reply, when)

        pending.state, pending.way, pending.sent = "forwarded", way, True
        pass_on = way != self.context.leader and isinstance(pending.origin, int)
        request = Submit(token=pending.token, body=pending.body, pass_on=pass_on)
        pending.call = self.context.call(way, request, on_reply)

    def _forwarded(self, number: int, reply: Reply | None, when: Instant) -> None:
        pending = self._pending.get(number)
        if pending is None:
            return
        self._moving.add(number)
        if isinstance(reply, Submitted) and reply.result.outcome == "applied":
            pending.told, pending.retry_at = reply.result, when.mono + OWN_APPLY_WAIT_S
        elif isinstance(reply, Submitted):
            self._answer(number, reply.result)
        elif isinstance(reply, Failed) and reply.fault.kind != errors.NoMajority.kind:
            self._answer(number, reply.fault)
        else:
            pending.state, pending.call, pending.retry_at = "waiting", 0, when.mono + RETRY_S

    def _expire(self, number: int, pending: _Pending) -> None:
        if pending.state == "waiting":
            self._answer(number, fault_of(self._no_coordinator(pending)))
            return
        claims = pending.verified.claims
        error = errors.TimedOut(
            f"{claims.act} {claims.target} revision {claims.rev} isn't confirmed after {ANSWER_DEADLINE_S:.0f} s",
            fix=_sentence(_open_end(pending)),
        )
        self._answer(number, fault_of(error))

    def _answer(self, number: int, answer: InstructionResult | Fault) -> None:
        pending = self._pending.pop(number)
        self._hang_up(pending)
        if isinstance(pending.origin, int):
            self.context.emit(Answer(request=pending.origin, answer=answer))
        elif isinstance(answer, Fault):
            self.context.fail(*pending.origin, answer)
        else:
            self.context.reply(*pending.origin, Submitted(result=answer))

    def _forget(self, gone: Callable[[_Pending], bool]) -> None:
        for number, pending in list(self._pending.items()):
            if gone(pending):
                del self._pending[number]
                self._hang_up(pending)

    def _has_majority(self) -> bool:
        """A voter: whether it is linked with a majority. Others are told of a coordinator, which has one."""
        me, peers, voters = self.context.id, self.context.peers, self.context.raft.configuration.voters
        if me not in voters:
            return self.context.leader is not None
        linked = 0
        for voter in voters:  # asked after every input
            if voter in peers or voter == me:
                linked += 1
        return linked > len(voters) // 2

    def _no_coordinator(self, pending: _Pending | None = None) -> errors.NoMajority:
        """Says which voters this agent can't reach, since somebody can fix that, and what became of the instruction."""
        sent = pending is not None and pending.sent
        fate = _open_end(pending) if pending is not None and sent else "nothing was changed"
        voters = self.context.raft.configuration.voters
        missing = sorted(self.context.name_of(voter) for voter in voters if not self.context.reaches(voter))
        if len(missing) < majority(len(voters)):
            what = "no coordinator just now: an election is under way"
            return errors.NoMajority(what, fix=_sentence(fate) if sent else "Try again in a second.")
        return errors.NoMajority(
            f"no majority: {', '.join(missing)} unreachable",
            where=self.context.own_name,
            fix=f"{start_again(missing)}; {fate}.",
        )


def _open_end(pending: _Pending) -> str:
    return f"it may still happen: send the same again, or ask for it by its jti {pending.verified.claims.jti}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def repeated(result: InstructionResult) -> InstructionResult:
    """The first answer again."""
    return msgspec.structs.replace(result, repeated=True)
