"""The driver: the node core's hands. Brings inputs in, runs its effects in order, keeps its time.

Everything happens on the event loop's thread; only the disk's writer is another one. A fault of a remote is the core's
to count; anything unexpected here ends the process, and systemd starts it again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from loguru import logger

from agent import errors
from agent.host import HostObservation
from agent.model.events import Event
from agent.model.fault import Fault, error_of
from agent.model.instruction import InstructionResult
from agent.model.status import Status
from agent.model.types import AgentId
from agent.node.context import Peer
from agent.node.core import NodeCore
from agent.node.effects import (
    Answer,
    Cut,
    Datagram,
    Effect,
    Publish,
    Reconcile,
    Replied,
    Send,
    Serve,
    Store,
    Unserve,
    Want,
)
from agent.node.instant import Instant
from agent.node.messages import Failed, Frame, Reply, Request
from agent.raft import Persist
from agent.state import ClusterState
from agent.swim import SwimMessage

LINK_WAIT_S = 3.0  # for a link to a member that we don't always keep one with; a dial takes a few round trips
LINK_POLL_S = 0.02
LATE_S = 0.03  # a timer later than this means that the loop stood still: hear the sockets first


class Wire(Protocol):
    """agent.node.driver.network.Network, as far as the driver needs it."""

    def want(self, peers: Iterable[AgentId]) -> None: ...

    def send(self, peer: AgentId, frame: Frame) -> bool: ...

    def send_datagram(self, to: AgentId, message: SwimMessage) -> None: ...

    def expel(self, peer: AgentId) -> None: ...

    def drain(self) -> None: ...


class Disk(Protocol):
    """agent.storage.ledger.Ledger, likewise."""

    def set_verified_through(self, index: int) -> None: ...

    async def write(self, persist: Persist) -> None: ...


class Hands(Protocol):
    """agent.node.driver.hosting.Hosting, likewise."""

    def set_desired(self, wanted: Reconcile) -> None: ...


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
        self._timer: asyncio.TimerHandle | None = None
        self._flushing = False
        self._stopped = False
        self._writes: set[asyncio.Task[None]] = set()
        self._answers: dict[int, asyncio.Future[InstructionResult | Status]] = {}
        self._replies: dict[int, asyncio.Queue[tuple[Reply | None, bool]]] = {}
        self._next_request = 1
        self._wanted: frozenset[AgentId] = frozenset()
        self._visited: Counter[AgentId] = Counter()
        self.on_events: Callable[[tuple[Event, ...]], None] = lambda _: None
        self.on_serve: Callable[[Serve], None] = lambda _: None
        self.on_unserve: Callable[[Unserve], None] = lambda _: None

    @property
    def state(self) -> ClusterState:
        """The replicated state as applied here."""
        return self.core.context.state

    # Inputs from the network and the host

    def link_up(self, peer: Peer) -> None:
        """From the link table."""
        logger.info("linked with {} ({})", self.core.context.name_of(peer.id), peer.id)
        self.core.link_up(peer, now())
        self.flush()

    def link_down(self, peer: AgentId, reason: str) -> None:
        """From the link table."""
        logger.info("link with {} is gone: {}", self.core.context.name_of(peer), reason)
        self.core.link_down(peer, now())
        self.flush()

    def frame(self, sender: AgentId, frame: Frame) -> None:
        """From the link table."""
        self.core.frame(sender, frame, now())
        self.flush()

    def datagram(self, sender: AgentId, message: SwimMessage) -> None:
        """From the datagram socket."""
        self.core.datagram(sender, message, now())
        self.flush()

    def observed(self, observation: HostObservation) -> None:
        """From hosting."""
        self.core.observed(observation, now())
        self.flush()

    # Requests of this agent's own API

    async def submit(self, token: str, body: bytes) -> InstructionResult:
        """Raises the MusterError that the instruction met."""
        answer = await self._ask(lambda number: self.core.submit(number, token, body, now()))
        assert isinstance(answer, InstructionResult)
        return answer

    async def status(self) -> Status:
        """The coordinator's view, or this agent's own."""
        answer = await self._ask(lambda number: self.core.ask_status(number, now()))
        assert isinstance(answer, Status)
        return answer

    async def _ask(self, ask: Callable[[int], None]) -> InstructionResult | Status:
        number = self._next_request
        self._next_request += 1
        future: asyncio.Future[InstructionResult | Status] = self._loop.create_future()
        self._answers[number] = future
        try:
            ask(number)
            self.flush()
            return await future
        finally:
            self._answers.pop(number, None)

    async def call(self, peer: AgentId, request: Request) -> AsyncGenerator[Reply]:
        """The replies to a call to a linked peer, until its end; leaving the iterator cancels it.

        Raises Unreachable when the link isn't there or goes, and the MusterError the peer answers with.
        """
        if peer not in self.core.context.peers:
            raise self._unlinked(peer)
        replies: asyncio.Queue[tuple[Reply | None, bool]] = asyncio.Queue()
        number = self.core.call(peer, request, now())
        self._replies[number] = replies
        self.flush()
        try:
            while True:
                reply, end = await replies.get()
                if reply is None:
                    raise self._unlinked(peer)
                if isinstance(reply, Failed):
                    raise error_of(reply.fault)
                yield reply
                if end:
                    return
        finally:
            del self._replies[number]
            self.core.cancel(number)
            self.flush()

    def send(self, peer: AgentId, frame: Frame) -> None:
        """A frame of the driver's own, e.g. a part of a served log."""
        self._wire.send(peer, frame)

    def listen(self, listening: bool) -> None:
        """Whether anybody listens to this agent's events."""
        self.core.listen(listening)
        self.flush()

    @asynccontextmanager
    async def linked(self, peer: AgentId) -> AsyncGenerator[None]:
        """Have a link with a member, also one that consensus doesn't need. Raises Unreachable."""
        self._visited[peer] += 1
        self._wire.want(self._wanted | self._visited.keys())
        try:
            deadline = self._loop.time() + LINK_WAIT_S
            while peer not in self.core.context.peers and self._loop.time() < deadline:  # noqa: ASYNC110 rare
                await asyncio.sleep(LINK_POLL_S)
            if peer not in self.core.context.peers:
                raise self._unlinked(peer)
            yield
        finally:
            self._visited[peer] -= 1
            if not self._visited[peer]:
                del self._visited[peer]
            self._wire.want(self._wanted | self._visited.keys())

    def _unlinked(self, peer: AgentId) -> errors.Unreachable:
        here = self.core.context.name_of(self.core.context.id)
        return errors.Unreachable(
            f"{here} has no link with {self.core.context.name_of(peer)}", fix="ask another agent, or try again soon"
        )

    # The loop

    def start(self) -> None:
        """Run what the core wanted at its birth, and set the first timer."""
        self.flush()

    async def stop(self, grace_s: float) -> None:
        """A clean end: leadership handed over, everything told, the last writes done."""
        handing_over = self.core.leave(now())
        self._flush()
        raft = self.core.context.raft
        deadline = self._loop.time() + (grace_s if handing_over else 0.0)
        while raft.is_leader and self._loop.time() < deadline:  # noqa: ASYNC110 once
            await asyncio.sleep(0.005)
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._writes:
            await asyncio.wait(self._writes, timeout=grace_s)

    def flush(self) -> None:
        """Run the core's effects, once per turn of the loop however many inputs there were."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._stopped or self.failed.done():
            return
        with self._fatal():
            while effects := self.core.take_effects():
                for effect in effects:
                    self._run(effect)
            self._set_timer()

    def _run(self, effect: Effect) -> None:
        match effect:
            case Send(to=to, frame=frame):
                self._wire.send(to, frame)
            case Datagram(to=to, message=message):
                self._wire.send_datagram(to, message)
            case Store():
                task = self._loop.create_task(self._store(effect), name="store")
                self._writes.add(task)
                task.add_done_callback(self._writes.discard)
            case Want(peers=peers):
                self._wanted = peers
                self._wire.want(peers | self._visited.keys())
            case Cut(peer=peer):
                self._wire.expel(peer)
            case _:
                self._run_here(effect)

    def _run_here(self, effect: Effect) -> None:
        """The effects that stay on this host."""
        match effect:
            case Answer(request=request, answer=answer):
                self._answer(request, answer)
            case Replied(call=call, reply=reply, end=end):
                if call in self._replies:
                    self._replies[call].put_nowait((reply, end))
            case Reconcile():
                self._hands.set_desired(effect)
            case Publish(events=events):
                self.on_events(events)
            case Serve():
                self.on_serve(effect)
            case Unserve():
                self.on_unserve(effect)

    async def _store(self, store: Store) -> None:
        with self._fatal():
            self._disk.set_verified_through(store.verified_through)
            await self._disk.write(store.persist)
            if store.settles:
                self.core.stored(now())
                self._flush()

    def _answer(self, request: int, answer: InstructionResult | Status | Fault) -> None:
        future = self._answers.get(request)
        if future is None or future.done():
            return
        if isinstance(answer, Fault):
            future.set_exception(error_of(answer))
        else:
            future.set_result(answer)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.core.deadline()
        self._timer = None if deadline == float("inf") else self._loop.call_at(deadline, self._on_timer, deadline)

    def _on_timer(self, deadline: float) -> None:
        self._timer = None
        if self._loop.time() - deadline > LATE_S:
            # asyncio runs due timers before what the sockets bring: go round twice, so that all of it is heard first
            self._loop.call_soon(self._loop.call_soon, self._on_time)
        else:
            self._on_time()

    def _on_time(self) -> None:
        if self._stopped or self.failed.done():
            return
        with self._fatal():
            self._wire.drain()
            self.core.on_deadline(now())
        self._flush()

    def fail(self, error: BaseException) -> None:
        """A broken invariant anywhere in this agent ends it."""
        if not self.failed.done():
            self.failed.set_exception(error)

    @contextmanager
    def _fatal(self) -> Iterator[None]:
        """What goes wrong inside, this agent can't go on with."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                raise
            self.fail(error)
