"""The network of a world: links that break, messages lost, repeated or late, paths that work in one direction only."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from agent.model.types import AgentId
from agent.net.links import LINGER_S
from agent.node.context import Peer
from agent.node.core import NodeCore
from agent.node.effects import Stir
from agent.node.instant import Instant
from agent.node.messages import CallFrame, CancelFrame, Frame, RaftFrame, ReplyFrame, TakenFrame
from agent.node.versions import FRAME_VERSION
from agent.raft.messages import Append, AppendResponse, HeartbeatResponse, Vote, VoteResponse
from agent.swim import SwimMessage
from tests.support.refusals import refuse

if TYPE_CHECKING:
    from tests.sim.world import SimAgent, World

LINK_BACK_S = 0.3  # two agents that can hear each other are linked again within this
MAX_DELAYS = 8  # times the mean: a message that takes longer is a straggler
STRAGGLES_S = 3.0  # at most this late; elections happen meanwhile
KEPT_MESSAGES = 64  # to an agent, that may come again much later
IN_ORDER = (CallFrame, ReplyFrame, CancelFrame, TakenFrame)
HAUNTING = (Append, AppendResponse, HeartbeatResponse, Vote, VoteResponse)

Input = Callable[[NodeCore, Instant], object]
Path = tuple[AgentId, AgentId]


class Network:
    """`blocked` counts the faults that hold each direction shut; a link needs both directions to come up.

    `links`: each one's number, which no other has. `_told`: the number of the link that the first knows of with the
    second; who was paused may answer over one that is gone.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.blocked: Counter[Path] = Counter()
        self.links: dict[frozenset[AgentId], int] = {}
        self._told: dict[Path, int] = {}
        self._linked = 0
        self._wanted: dict[AgentId, frozenset[AgentId]] = {}
        self._ordered_at: dict[Path, float] = {}
        self._past: dict[AgentId, deque[tuple[int, Input]]] = defaultdict(lambda: deque(maxlen=KEPT_MESSAGES))
        self._storm = 0

    def want(self, agent: SimAgent, peers: frozenset[AgentId]) -> None:
        """As the driver does: links are kept with these, and taken from whoever wants us."""
        self._wanted[agent.id] = peers
        for peer in sorted(peers):
            if peer in self._world.agents and frozenset((agent.id, peer)) not in self.links:
                self._dial(agent.id, peer)
        # Sorted: the order of a set of ids is another in each process, and a seed is one history.
        for pair in sorted(sorted(pair) for pair in self.links if agent.id in pair and self._is_over(pair)):
            self._world.after(LINGER_S, partial(self._close, frozenset(pair)))

    def _is_over(self, pair: frozenset[AgentId]) -> bool:
        one, other = sorted(pair)
        return other not in self._wanted.get(one, ()) and one not in self._wanted.get(other, ())

    def _close(self, pair: frozenset[AgentId]) -> None:
        """As whoever dialled does, unless it is wanted again by now."""
        if pair in self.links and self._is_over(pair):
            self.unlink(*sorted(pair))

    def started(self, agent: SimAgent) -> None:
        """Everybody who wants it or is wanted by it dials."""
        for other in self._world.agents.values():
            if other is not agent:
                self._dial(agent.id, other.id)

    def _dial(self, one: AgentId, other: AgentId) -> None:
        delay = self._world.rng.random() * self._world.rng.choice([0.01, LINK_BACK_S])
        self._world.after(delay, lambda: self.link(one, other))

    def link(self, one: AgentId, other: AgentId) -> None:
        """Both up, not cut apart, and neither knows the other as expelled: a link, and both are told."""
        a, b = self._world.agents[one], self._world.agents[other]
        pair = frozenset((one, other))
        if (
            a.core is None
            or b.core is None
            or pair in self.links
            or self.blocked[one, other]
            or self.blocked[other, one]
        ):
            return
        if self._is_over(pair):
            return
        if other in a.core.context.state.expelled or one in b.core.context.state.expelled:
            self._refuse(a, b)
            self._refuse(b, a)
            return
        self._linked += 1
        number = self.links[pair] = self._linked
        for agent, peer in ((a, b), (b, a)):
            if pair in self.links:  # the first may have broken it already
                self._world.hand_in(agent, self._up(agent.id, peer, self._frames(a, b), number))

    def _refuse(self, agent: SimAgent, other: SimAgent) -> None:
        """Who knows `agent` as expelled tells it so, with the instruction if it has that; the disk keeps the proof."""
        by = other.core
        if by is None or agent.id not in by.context.state.expelled:
            return

        def refused(core: NodeCore, when: Instant) -> None:
            agent.expelled = refuse(core, by, when) or agent.expelled

        self._world.hand_in(agent, refused)

    def _frames(self, one: SimAgent, other: SimAgent) -> int:
        versions = self._world.versions
        return versions.frames(one.id, other.id) if versions is not None else FRAME_VERSION

    def unlink(self, one: AgentId, other: AgentId) -> None:
        """The connection breaks; whoever lives notices at once, and dials again."""
        pair = frozenset((one, other))
        if pair not in self.links:
            return
        del self.links[pair]
        for agent, peer in ((self._world.agents[one], other), (self._world.agents[other], one)):
            if agent.core is not None:
                self._world.hand_in(agent, self._down(agent.id, peer))
        self._dial(one, other)

    def _up(self, agent: AgentId, peer: SimAgent, frames: int, number: int) -> Input:
        boot, epoch = peer.disk.starts, peer.disk.epoch

        def up(core: NodeCore, when: Instant) -> None:
            self._told[agent, peer.id] = number
            known = peer.id in core.context.state.members
            told = Peer(id=peer.id, known=known, agent_version="sim", boot=boot, epoch=epoch, frames=frames)
            core.link_up(told, when)

        return up

    def _down(self, agent: AgentId, peer: AgentId) -> Input:
        def down(core: NodeCore, when: Instant) -> None:
            self._told.pop((agent, peer), None)
            core.link_down(peer, when)

        return down

    def block(self, paths: Iterable[Path], for_s: float, notice_s: float | None) -> None:
        """Nothing gets through on `paths` for a while (inf: to the end). Links break after `notice_s`, or never."""
        held = list(paths)
        self.blocked.update(held)
        if notice_s is not None:
            self._world.after(notice_s, lambda: self._notice(held))
        if for_s < float("inf"):
            storm = self._storm
            self._world.after(for_s, lambda: self._open(held) if storm == self._storm else None)

    def _notice(self, paths: list[Path]) -> None:
        for one, other in paths:
            if self.blocked[one, other]:
                self.unlink(one, other)

    def _open(self, paths: list[Path]) -> None:
        self.blocked.subtract(paths)
        self._world.say("mended")
        for one, other in paths:
            self._dial(one, other)

    def open_all(self) -> None:
        """Every path works again."""
        paths = [path for path, count in self.blocked.items() if count > 0]
        self._storm += 1
        self.blocked.clear()
        for one, other in paths:
            self._dial(one, other)

    def send(self, sender: SimAgent, to: AgentId, frame: Frame) -> None:
        """Over the link. Calls go in order and are lost only with the link; the rest fares as datagrams do."""
        world, me = self._world, sender.id
        receiver, number = world.agents[to], self.links.get(frozenset((me, to)))
        if number is None or number != self._told.get((me, to)):
            return
        if world.versions is not None:
            frame = world.versions.on_the_wire(me, to, frame)
        if isinstance(frame, IN_ORDER):
            self._in_order(sender, receiver, frame, number)
            return

        def arrive(core: NodeCore, when: Instant) -> Stir:
            world.judge(receiver).heard[to, me] = world.now
            return core.frame(me, frame, when)

        if world.weather.ghosts and isinstance(frame, RaftFrame) and isinstance(frame.message, HAUNTING):
            self._past[to].append((receiver.life, arrive))
        self._deliver(sender, receiver, arrive, frame)

    def datagram(self, sender: SimAgent, to: AgentId, message: SwimMessage) -> None:
        """Over UDP. Its proof holds in one epoch (agent.net.datagrams)."""
        receiver = self._world.agents[to]
        if receiver.disk.epoch != sender.disk.epoch:
            return
        self._deliver(sender, receiver, lambda core, at: core.datagram(sender.id, message, at), message)

    def haunt(self, agent: SimAgent, messages: int) -> None:
        """Some of what it was told in this life comes again: a network may keep a message for as long as it likes."""
        past = [handing for life, handing in self._past[agent.id] if life == agent.life]
        for handing in self._world.rng.sample(past, min(messages, len(past))):
            self._world.after(self._world.rng.random() * 0.1, partial(self._world.hand_in, agent, handing))

    def _delay(self) -> float:
        mean = self._world.weather.delay_s
        if self._world.weather.steady:
            return mean
        return min(self._world.rng.expovariate(1 / mean), MAX_DELAYS * mean)

    def _in_order(self, sender: SimAgent, receiver: SimAgent, frame: Frame, number: int) -> None:
        world, path = self._world, (sender.id, receiver.id)
        at = max(world.now + self._delay(), self._ordered_at.get(path, 0.0) + 1e-6)
        self._ordered_at[path] = at

        def arrive() -> None:
            if self.links.get(frozenset(path)) != number:
                return
            if self.blocked[path]:
                self.unlink(*path)
            else:
                world.hand_in(receiver, lambda core, when: core.frame(sender.id, frame, when))

        world.after(at - world.now, arrive)

    def _deliver(self, sender: SimAgent, receiver: SimAgent, hand_in: Input, what: object) -> None:
        world, path, life = self._world, (sender.id, receiver.id), receiver.life

        def arrive() -> None:
            if receiver.life == life and receiver.core is not None:
                if world.trace is not None:
                    told = getattr(what, "message", type(what).__name__)
                    world.say(f"{world.cast.name(path[0])} → {world.cast.name(path[1])}  {told}"[:170])
                world.hand_in(receiver, hand_in)

        weather, luck, foul = world.weather, world.rng.random, not world.calm()
        for _ in range(1 + (foul and luck() < weather.duplication)):
            if (foul and luck() < weather.loss) or self.blocked.get(path, 0) > 0:
                world.lost += 1
                continue
            delay = self._delay()
            if foul and luck() < weather.straggling:
                delay += luck() * STRAGGLES_S
            world.after(delay, arrive)
