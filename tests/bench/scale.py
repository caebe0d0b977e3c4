"""Many hosts: the real cores under the simulator's clock, on a network that only delays, with nothing to do or little.

What links say to stay up (`agent.net.links`) is said here as well; TLS, TCP and the engines' own work aren't in it.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import msgspec

from agent.model.types import AgentId
from agent.net.frames import encode_frame
from agent.net.pulse import LinkTiming
from agent.node.core import NodeCore
from agent.node.messages import Alive, Frame
from agent.swim import SwimMessage
from tests.bench.figures import Figure
from tests.sim.network import Network
from tests.sim.weather import Weather
from tests.sim.world import SimAgent, World

SIZES = tuple(int(size) for size in os.environ.get("MUSTER_BENCH_HOSTS", "10,100,300").split(","))
SETTLES_S, SETTLES_S_PER_HOST = 10.0, 0.08  # virtual: formed, and the news of who is there told to everybody
WATCHED_S = 20.0  # virtual; four of each host's reports
REACHES_S = 10.0  # virtual, for an instruction
ENVELOPE_BYTES = 4 + 1 + 16 + 64  # of a datagram: about what agent.net.datagrams puts around a message
MAX_STREAMS = 250
_INPUTS = ("frame", "datagram", "on_deadline", "stored", "observed", "link_up", "link_down", "submit", "take_effects")
_ALIVE_EVERY_S = LinkTiming().alive_interval_s


class Fleet:
    """One cluster of `size` hosts, and what each of them sent, was sent, and cost while it was idle."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.messages: Counter[AgentId] = Counter()
        self.bytes: Counter[AgentId] = Counter()
        self.busy_s: dict[AgentId, float] = defaultdict(float)
        self.processor_share = 1.0
        self.kinds: Counter[str] = Counter()
        self.streams: Counter[AgentId] = Counter()
        self.reached_at: dict[AgentId, float] = {}
        self.sent_at = 0.0
        self.counting = False
        self._began = 0.0, 0.0
        self.voters: frozenset[AgentId] = frozenset()
        self._said_at: dict[tuple[AgentId, AgentId], float] = {}
        self._idle_from = SETTLES_S + size * SETTLES_S_PER_HOST
        until_s = self._idle_from + WATCHED_S + REACHES_S
        weather = replace(Weather.fair(), idle=True)
        self.world = World(size, size=size, until_s=until_s, given=weather, script=self._script)

    def run(self) -> Fleet:
        """The whole of it, watched."""
        with self._watched():
            self.world.run()
        return self

    def hosts(self, *, vote: bool) -> list[AgentId]:
        """Those that vote, or those that don't."""
        return [agent for agent in self.world.agents if (agent in self.voters) == vote]

    def _script(self, world: World) -> None:
        world.after(_ALIVE_EVERY_S, self._keep_alive)
        world.after(self._idle_from, self._begin)
        world.after(self._idle_from + WATCHED_S, self._instruct)

    def _begin(self) -> None:
        self.counting = True
        self._began = time.perf_counter(), time.process_time()

    def _instruct(self) -> None:
        """The idle time is over: one deploy goes through a host that doesn't vote, if there is one."""
        world = self.world
        self.counting = False
        # Others are at work on this machine as well: of the time that passed, so much was ours.
        self.processor_share = (time.process_time() - self._began[1]) / (time.perf_counter() - self._began[0])
        some = next(agent for agent in world.alive() if agent.core is not None)
        assert some.core is not None
        self.voters = frozenset(some.core.context.raft.configuration.voters)
        for pair in world.network.links:
            self.streams.update(pair)
        self.sent_at = world.now
        service = {"runtime": "process", "command": ["serve"], "replicas": "global"}
        sent = world.operators.sign("deploy", "stack:fleet", 1, {"name": "fleet", "services": {"web": service}})
        world.operators.send(sent, world.agents[(self.hosts(vote=False) or self.hosts(vote=True))[0]])

    def _keep_alive(self) -> None:
        world = self.world
        for pair in sorted(map(sorted, world.network.links)):
            for one, other in (pair, pair[::-1]):
                if world.now - self._said_at.get((one, other), 0.0) >= _ALIVE_EVERY_S:
                    world.network.send(world.agents[one], other, Alive())
        world.after(_ALIVE_EVERY_S / 2, self._keep_alive)

    def _count(self, sender: AgentId, to: AgentId, kind: str, size: int) -> None:
        if not self.counting:
            return
        self.messages.update((sender, to))
        self.bytes[sender] += size
        self.bytes[to] += size
        self.kinds[kind] += 1

    @contextmanager
    def _watched(self) -> Iterator[None]:
        send, datagram = Network.send, Network.datagram

        def counting_send(network: Network, sender: SimAgent, to: AgentId, frame: Frame) -> None:
            self._said_at[sender.id, to] = self.world.now
            kind = type(getattr(frame, "message", getattr(frame, "request", getattr(frame, "reply", frame)))).__name__
            self._count(sender.id, to, kind, len(encode_frame(frame)))
            send(network, sender, to, frame)

        def counting_datagram(network: Network, sender: SimAgent, to: AgentId, message: SwimMessage) -> None:
            self._count(sender.id, to, type(message).__name__, len(msgspec.msgpack.encode(message)) + ENVELOPE_BYTES)
            datagram(network, sender, to, message)

        with ExitStack() as patches:
            patches.enter_context(mock.patch.object(Network, "send", counting_send))
            patches.enter_context(mock.patch.object(Network, "datagram", counting_datagram))
            for name in _INPUTS:
                patches.enter_context(mock.patch.object(NodeCore, name, self._timed(getattr(NodeCore, name))))
            yield

    def _timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(core: NodeCore, *input: Any) -> Any:
            began = time.perf_counter()
            result = work(core, *input)
            me = core.context.id
            if self.counting:
                self.busy_s[me] += time.perf_counter() - began
            if self.sent_at and me not in self.reached_at and "stack:fleet" in core.context.state.targets:
                self.reached_at[me] = self.world.now
            return result

        return timed


def scale(_runs: int) -> list[Figure]:
    """10, 100 and 300 simulated hosts: messages, bytes, processor time, streams, and an instruction's way to all."""
    figures: list[Figure] = []
    for size in SIZES:
        figures += _figures(Fleet(size).run())
    return figures


def _figures(fleet: Fleet) -> list[Figure]:
    figures: list[Figure] = []
    for vote, who in ((False, "host"), (True, "voter")):
        hosts = fleet.hosts(vote=vote)
        if hosts:
            figures += [
                Figure(name=f"{fleet.size} hosts: {what} of a {who}", unit=unit, values=list(values))
                for what, unit, values in (
                    ("messages, idle", "/s", _each(fleet.messages, hosts, WATCHED_S)),
                    ("traffic, idle", "kB/s", _each(fleet.bytes, hosts, WATCHED_S * 1000)),
                    ("processor, idle", "ms/s", _each(fleet.busy_s, hosts, WATCHED_S / 1000 / fleet.processor_share)),
                )
            ]
    streams = max(fleet.streams[host] for host in fleet.hosts(vote=True))
    reached = max(fleet.reached_at.values()) - fleet.sent_at if len(fleet.reached_at) == fleet.size else float("inf")
    figures += [
        Figure(name=f"{fleet.size} hosts: most streams of a voter", unit="", values=[streams], target=MAX_STREAMS),
        Figure(name=f"{fleet.size} hosts: an instruction is with all after", unit="s", values=[reached], digits=3),
    ]
    return figures


def _each(counted: Mapping[AgentId, float], hosts: Iterable[AgentId], by: float) -> list[float]:
    return [counted.get(host, 0) / by for host in hosts]
