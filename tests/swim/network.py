"""An in-memory network in virtual time: seeded, with loss, delay, one-way cuts, crashes and links."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import msgspec

from agent.swim import MAX_MESSAGE_BYTES, MemberChanged, MemberState, Send, Swim, SwimConfig, SwimMessage


class Network:
    """Agents m00, m01, … of one ledger. Each event is one line of `log`, so two runs can be compared."""

    def __init__(self, size: int, *, seed: int, config: SwimConfig | None = None, loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.config = config or SwimConfig.lan()
        self.loss = loss
        self.now = 0.0
        self.ids = [f"m{index:02}" for index in range(size)]
        self.addresses = {member: f"{member}:9998" for member in self.ids}
        self.agents: dict[str, Swim] = {}
        self.cut: set[tuple[str, str]] = set()  # (from, to): datagrams vanish
        self.links: set[frozenset[str]] = set()  # pairs whose peer link is up and delivers a frame every 150 ms
        self.log: list[str] = []
        self.changes: list[tuple[str, MemberChanged]] = []
        self.sent = 0
        self._queue: list[tuple[float, int, str, str, SwimMessage | None]] = []
        self._serial = itertools.count()
        self._deadlines: dict[str, float] = {}
        for member in self.ids:
            self.start(member)

    def start(self, member: str) -> None:
        """(Re)start an agent: it remembers nothing."""
        swim = Swim(id=member, config=self.config, rng=random.Random(self.rng.getrandbits(64)), now=self.now)
        self.agents[member] = swim
        swim.set_members(self.addresses, self.now)
        self._drain(member)

    def crash(self, member: str) -> None:
        del self.agents[member], self._deadlines[member]

    def connect(self, one: str, other: str) -> None:
        self.links.add(frozenset((one, other)))
        self._push(self.now, one, other, None)

    def run_until(self, end: float) -> None:
        while True:
            timer, member = min(
                ((deadline, member) for member, deadline in self._deadlines.items()), default=(float("inf"), "")
            )
            arrival = self._queue[0][0] if self._queue else float("inf")
            if min(timer, arrival) > end:
                self.now = end
                return
            if arrival <= timer:
                self._deliver()
            else:
                self.now = max(self.now, timer)
                self.agents[member].on_deadline(self.now)
                self._drain(member)

    def run_for(self, seconds: float) -> None:
        self.run_until(self.now + seconds)

    def wait(self, condition: Callable[[], bool], within: float) -> float:
        """Run until `condition`; returns the virtual seconds it took. Fails after `within`."""
        start = self.now
        while not condition():
            assert self.now - start < within, f"not within {within} s:\n" + "\n".join(self.log[-40:])
            self.run_for(0.05)
        return self.now - start

    def state(self, viewer: str, member: str) -> MemberState:
        return self.agents[viewer].members()[member].state

    def all_see(self, member: str, state: MemberState) -> bool:
        return all(self.state(viewer, member) is state for viewer in self.agents if viewer != member)

    def all_alive(self) -> bool:
        return all(self.all_see(member, MemberState.ALIVE) for member in self.agents)

    def seen(self, state: MemberState) -> list[tuple[str, str]]:
        """(viewer, member) for every change to `state` so far."""
        return [(viewer, change.member) for viewer, change in self.changes if change.new is state]

    def _deliver(self) -> None:
        at, _, sender, to, message = heapq.heappop(self._queue)
        self.now = max(self.now, at)
        if message is None:
            self._link_frames(sender, to)
        elif to in self.agents:
            self.agents[to].receive(sender, message, self.now)
            self._drain(to)

    def _link_frames(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        if pair not in self.links or one not in self.agents or other not in self.agents:
            self.links.discard(pair)
            return
        self.agents[one].link_alive(other, self.now)
        self.agents[other].link_alive(one, self.now)
        self._drain(one)
        self._drain(other)
        self._push(self.now + 0.15, one, other, None)

    def _drain(self, member: str) -> None:
        swim = self.agents[member]
        self._deadlines[member] = swim.deadline()
        for output in swim.take_outputs():
            if isinstance(output, MemberChanged):
                self.changes.append((member, output))
                self.log.append(f"{output.at:.3f} {member}: {output.member} {output.old.value}->{output.new.value}")
            else:
                self._transmit(member, output)

    def _transmit(self, member: str, send: Send) -> None:
        assert send.address == self.addresses[send.to]
        self.sent += 1
        encoded = msgspec.msgpack.encode(send.message)
        assert len(encoded) <= MAX_MESSAGE_BYTES
        message = msgspec.msgpack.decode(encoded, type=SwimMessage)
        delay = 0.0005 + self.rng.random() * 0.005
        if (member, send.to) not in self.cut and self.rng.random() >= self.loss:
            self._push(self.now + delay, member, send.to, message)
        if send.over_link and frozenset((member, send.to)) in self.links:
            self._push(self.now + delay, member, send.to, message)

    def _push(self, at: float, sender: str, to: str, message: SwimMessage | None) -> None:
        heapq.heappush(self._queue, (at, next(self._serial), sender, to, message))
