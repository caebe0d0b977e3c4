"""The driver: feeds inputs to the node core, runs its effects in order, keeps its time. Callers that wait for an answer
of the core do so in `requests`, for a link with a member in `visits`.

Everything happens on the event loop's thread, except the disk's writer. A remote's fault is for the core to count;
anything unexpected here ends the process, and systemd starts it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from agent.host import HostObservation
from agent.model.events import Event
from agent.model.expulsion import Expulsion, back_or_away
from agent.model.instruction import InstructionResult
from agent.model.types import AgentId
from agent.node.context import Peer
from agent.node.core import NodeCore
from agent.node.driver.requests import Requests, stopping
from agent.node.driver.visits import Visits
from agent.node.effects import (
    Answer,
    Audit,
    BeginEpoch,
    Cut,
    Datagram,
    Effect,
    Examine,
    Publish,
    Reconcile,
    Replied,
    Send,
    Serve,
    Stir,
    Store,
    Unserve,
    Want,
)
from agent.node.instant import Instant
from agent.node.messages import Frame
from agent.raft import Persist, Snapshot
from agent.state import ClusterState
from agent.swim import SwimMessage

logger = logging.getLogger(__name__)

EPOCH_ANSWER_S = 0.2  # between an epoch's beginning and this agent's start anew, for the answer to the operator
SOON_S = 0.2  # a timer that near is put off as soon as there is nothing for it: longer than heartbeats are apart
LATE_S = 0.03  # a timer later than this means that the loop stood still: hear the sockets first


class Wire(Protocol):
    """The part of agent.node.driver.network.Network that the driver uses."""

    def want(self, peers: Iterable[AgentId]) -> None: ...

    def send(self, peer: AgentId, frame: Frame, *, hold: bool = False) -> bool: ...

    def flush(self) -> None: ...

    def send_datagram(self, to: AgentId, message: SwimMessage) -> None: ...

    def expel(self, peer: AgentId) -> None: ...

    def drain(self) -> None: ...


class Disk(Protocol):
    """agent.storage.ledger.Ledger, likewise."""

    def set_verified_through(self, index: int) -> None: ...

    def put(self, persist: Persist, told: Callable[[Exception | None], None]) -> None: ...

    async def begin_epoch(self, snapshot: Snapshot) -> None: ...


class Hands(Protocol):
    """agent.node.driver.hosting.Hosting, likewise."""

    def set_desired(self, wanted: Reconcile) -> None: ...

    def examine(self, wanted: Examine) -> None: ...


class EpochBegan(Exception):
    """Not an error: the ledger is of another epoch now, and the agent has to start again with it."""


def now() -> Instant:
    """Both clocks, read together."""
    return Instant(time.monotonic(), time.time_ns() // 1_000_000)


class Driver:
    """Owns one NodeCore. `failed` ends with the first error that this agent can't go on with."""

    def __init__(self, core: NodeCore, *, disk: Disk, wire: Wire, hands: Hands) -> None:
        self.core = core
        self._disk, self._wire, self._hands = disk, wire, hands
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._fatal = _Fatal(self.fail)
        self._timer: asyncio.TimerHandle | None = None
        self._flushing = False
        self._heard = Stir.NOTHING
        self._stopped = False
        self._leaving_epoch = False
        self._writes = 0  # that the disk hasn't told of yet
        self._epoch: asyncio.Task[None] | None = None
        self.requests = Requests(core, bring=self._bring, flush=self.flush, ended=lambda: self.ended, now=now)
        self.visits = Visits(core, self._want)
        self.on_audit: Callable[[Audit], None] = lambda _: None
        self.on_written: Callable[[float], None] = lambda _: None  # seconds that a write took, the queue before it too
        self.on_events: Callable[[tuple[Event, ...]], None] = lambda _: None
        self.on_expelled: Callable[[Expulsion], None] = lambda _: None
        self.on_serve: Callable[[Serve], None] = lambda _: None
        self.on_unserve: Callable[[Unserve], None] = lambda _: None

    @property
    def state(self) -> ClusterState:
        """The replicated state as applied here."""
        return self.core.context.state

    # Inputs from the network and the host

    def link_up(self, peer: Peer) -> None:
        """From the link table."""
        logger.info("linked with %s (%s)", self.core.context.name_of(peer.id), peer.id)
        self._bring(lambda: self.core.link_up(peer, now()))
        self.visits.link_up(peer.id)

    def link_down(self, peer: AgentId, reason: str) -> None:
        """From the link table."""
        logger.info("link with %s is gone: %s", self.core.context.name_of(peer), reason)
        self._bring(lambda: self.core.link_down(peer, now()))

    def expelled(self, by: AgentId, token: str, body: bytes) -> None:
        """From the link table: a peer refuses us as expelled, perhaps with the instruction."""
        self._bring(lambda: self._tell_expelled(self.core.refused(by, token, body, now())))

    def _tell_expelled(self, news: Expulsion | None) -> None:
        if news is None:
            return
        logger.warning("%s: %s", news.what, back_or_away(self.core.context.own_name))
        if news.is_known:
            self.on_expelled(news)

    def frame(self, sender: AgentId, frame: Frame) -> None:
        """From the link table; `frames_over` follows, behind all that came together."""
        if self.ended:
            return
        stir = Stir.NOTHING
        with self._fatal:
            stir = self.core.frame(sender, frame, now())
        if stir is Stir.ANSWER and not self._flushing:
            with self._fatal:
                self._carry_out()  # a heartbeat comes alone, all the time: answered without another turn of the loop
                self._set_timer()
        elif stir:
            self._heard = stir

    def frames_over(self) -> None:
        """From the link table. A coordinator judges together what many report; a follower is awaited, so it acts at
        once.
        """
        heard, self._heard = self._heard, Stir.NOTHING
        if heard and self.core.context.raft.is_leader:
            self.flush()
        elif heard and not self._flushing:
            self._flush()

    def datagram(self, sender: AgentId, message: SwimMessage) -> None:
        """From the datagram socket."""
        self._bring(lambda: self.core.datagram(sender, message, now()))

    def observed(self, observation: HostObservation) -> None:
        """From hosting."""
        self._bring(lambda: self.core.observed(observation, now()))

    def _bring(self, put_in: Callable[[], None]) -> None:
        """One input for the core; once this agent has ended, inputs are dropped."""
        if not self.ended:
            with self._fatal:
                put_in()
            self.flush()

    @property
    def ended(self) -> bool:
        """Whether this agent has stopped or failed: nothing more reaches its core, and nothing comes out of it."""
        return self._stopped or self._leaving_epoch or self.failed.done()

    async def recover(self, token: str, body: bytes) -> InstructionResult:
        """Begin the next epoch here, with this agent alone. On disk when this returns; the agent ends then.

        Raises the MusterError that the instruction is refused with, or Unreachable.
        """
        if self.ended:
            raise stopping(self.core)
        begun = self.core.epochs.begin(token, body, now())
        for entry in begun.past:
            self.on_audit(entry)
        what = f"epoch {self.state.epoch + 1} begins here, signed by {begun.result.by}"
        await self._leave_epoch(begun.snapshot, what)
        return begun.result

    def send(self, peer: AgentId, frame: Frame) -> bool:
        """A frame of the driver's own, e.g. a part of a served log. False: the link is gone, or its queue is full."""
        return not self.ended and self._wire.send(peer, frame)

    def listen(self, listening: bool) -> None:
        """Whether anybody listens to this agent's events."""
        self._bring(lambda: self.core.listen(listening))

    def _want(self, peers: Iterable[AgentId]) -> None:
        if not self.ended:
            self._wire.want(peers)

    # The loop

    def start(self) -> None:
        """Run what the core wants at the beginning, and set the first timer."""
        self.flush()

    async def stop(self, grace_s: float) -> None:
        """A clean end: hand over leadership, tell the others, finish the last writes. One that failed just ends."""
        if not self.ended and self.core.leave(now()):
            self._flush()
            raft = self.core.context.raft
            deadline = self._loop.time() + grace_s
            while raft.is_leader and self._loop.time() < deadline:  # noqa: ASYNC110 once
                await asyncio.sleep(0.005)
        self._flush()
        self._stopped = True
        self._end()
        deadline = self._loop.time() + grace_s
        while self._writes and self._loop.time() < deadline:  # noqa: ASYNC110 as above
            await asyncio.sleep(0.005)
        if self._epoch is not None:
            await asyncio.wait((self._epoch,), timeout=grace_s)

    def _end(self) -> None:
        """Answers everybody who still waits."""
        if self._timer is not None:
            self._timer.cancel()
        self.requests.end()

    def flush(self) -> None:
        """Run the core's effects, once per turn of the loop however many inputs there were."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.ended:
            return
        with self._fatal:
            self._carry_out()
            self._set_timer()

    def _carry_out(self) -> None:
        while effects := self.core.take_effects():
            for effect in effects:
                self._run(effect)
        self._wire.flush()

    def _run(self, effect: Effect) -> None:
        match effect:
            case Send(to=to, frame=frame):
                self._wire.send(to, frame, hold=True)
            case Datagram(to=to, message=message):
                self._wire.send_datagram(to, message)
            case Store():
                self._store(effect)
            case BeginEpoch(snapshot=snapshot, what=what):
                self._epoch = self._loop.create_task(self._leave_epoch(snapshot, what), name="epoch")
            case Want(peers=peers):
                self.visits.keep(peers)
            case Cut(peer=peer):
                self._wire.expel(peer)
            case _:
                self._run_here(effect)

    def _run_here(self, effect: Effect) -> None:
        """The effects that stay on this host."""
        match effect:
            case Answer(request=request, answer=answer):
                self.requests.answered(request, answer)
            case Replied(call=call, reply=reply, end=end):
                self.requests.replied(call, reply, end)
            case Reconcile():
                self._hands.set_desired(effect)
            case Examine():
                self._hands.examine(effect)
            case Audit():
                self.on_audit(effect)
            case Publish(events=events):
                self.on_events(events)
            case Serve():
                self.on_serve(effect)
            case Unserve():
                self.on_unserve(effect)

    def _store(self, store: Store) -> None:
        """The disk begins at once, after what is sent with it: the others have further to go."""
        if self.failed.done() or self._leaving_epoch:
            return
        self._wire.flush()
        self._disk.set_verified_through(store.verified_through)
        began = time.monotonic()
        self._disk.put(store.persist, lambda error: self._stored(store, error, began))
        self._writes += 1

    def _stored(self, store: Store, error: Exception | None, began: float) -> None:
        self._writes -= 1
        with self._fatal:
            if error is not None:
                raise error
            self.on_written(time.monotonic() - began)
            if store.settles and not self.ended:
                self.core.stored(now())
                self._flush()

    async def _leave_epoch(self, snapshot: Snapshot, what: str) -> None:
        """Nothing of the epoch before is written after the snapshot, since the core has ended by then."""
        logger.warning("%s", what)
        self._leaving_epoch = True
        with self._fatal:
            await self._disk.begin_epoch(snapshot)
            self._loop.call_later(EPOCH_ANSWER_S, self.fail, EpochBegan(what))

    def _set_timer(self) -> None:
        """Deadlines mostly move away, so the timer is set again only when it would soon wake this agent for nothing."""
        deadline = self.core.deadline()
        if self._timer is not None:
            due = self._timer.when()
            if due == deadline or (due < deadline and due - self._loop.time() >= SOON_S):
                return
            self._timer.cancel()
        self._timer = None if deadline == float("inf") else self._loop.call_at(deadline, self._on_timer, deadline)

    def _on_timer(self, deadline: float) -> None:
        self._timer = None
        if self._loop.time() - deadline > LATE_S:
            # asyncio runs due timers before what the sockets bring: go round twice, so that all of it is heard first
            self._loop.call_soon(self._loop.call_soon, self._on_time)
        else:
            self._on_time()

    def _on_time(self) -> None:
        if self.ended:
            return
        with self._fatal:
            if self._loop.time() < min(self.core.deadlines().values()):
                self._set_timer()
                return
            self._wire.drain()
            self.core.on_deadline(now())
        self._flush()

    def fail(self, error: BaseException) -> None:
        """A broken invariant anywhere in this agent ends it."""
        if not self.failed.done():
            self.failed.set_exception(error)
            self._end()


class _Fatal:
    """A block whose errors end the agent. Entered for every frame, where a generator would cost too much."""

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or isinstance(error, asyncio.CancelledError):
            return False
        self._fail(error)
        return True
