"""Node cores joined by a perfect network in memory, with a clock that the test moves by hand.

    cluster = Cluster(3)
    cluster.until(lambda: cluster.coordinator)
    request = cluster.n("n2").deploy("shop")
    cluster.run(0.1)
    assert cluster.n("n2").answers[request].outcome == "applied"

Frames travel encoded and arrive at once, in order; disks write at once. What shall go wrong, the test says.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from agent.host import HostContext, HostObservation
from agent.instruction import encode_body, sign_instruction
from agent.model.cluster import Member
from agent.model.errand import ErrandFinding
from agent.model.events import Event
from agent.model.expulsion import Expulsion
from agent.model.fault import Fault
from agent.model.instruction import Act, Body, Drain, Enrol, Expel, InstructionResult
from agent.model.stack import Service, Stack
from agent.model.status import Status
from agent.model.types import AgentId
from agent.node.context import Peer
from agent.node.core import NodeCore, NodeSettings
from agent.node.effects import (
    Answer,
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
    Store,
    Unserve,
    Want,
)
from agent.node.instant import Instant
from agent.node.machine import Compaction
from agent.node.messages import Frame
from agent.raft import Entry, EntryKind, RaftTiming, Snapshot
from agent.swim import SwimConfig
from tests.support.hosts import all_right, running
from tests.support.ledger import CLUSTER, START_MS, genesis_entry, key_of_host, key_of_person, member
from tests.support.memory_disk import MemoryDisk
from tests.support.refusals import refuse
from tests.support.words import over_the_wire

MAX_SPINS = 20  # timers at one moment; more would burn a core in a real agent
OFTEN = Compaction(every_entries=3, kept_entries=0)  # a snapshot every few entries, nothing kept behind it
ONE_DEPLOY = Service(runtime="process", command=("serve",))


@dataclass(slots=True)
class Node:
    """One agent. What its core asked for is kept, by kind. `expelled`: on its disk."""

    cluster: Cluster
    member: Member
    disk: MemoryDisk
    core: NodeCore | None = None
    life: int = 0
    skew_ms: int = 0
    disk_works: bool = True
    obeys: bool = False
    waiting: deque[Store] = field(default_factory=deque)
    stores: list[Store] = field(default_factory=list)
    answers: dict[int, InstructionResult | Status | Fault] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    sent: list[Send] = field(default_factory=list)
    cuts: list[AgentId] = field(default_factory=list)
    wanted: frozenset[AgentId] = frozenset()
    seeds: frozenset[str] = frozenset()
    desired: list[Reconcile] = field(default_factory=list)
    findings: tuple[ErrandFinding, ...] = ()
    served: list[Serve | Unserve] = field(default_factory=list)
    expelled: Expulsion | None = None
    replied: list[Replied] = field(default_factory=list)
    _request: int = 0

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def id(self) -> AgentId:
        return self.member.id

    @property
    def up(self) -> NodeCore:
        """The core of an agent that runs."""
        assert self.core is not None, f"{self.name} is down"
        return self.core

    @property
    def when(self) -> Instant:
        return Instant(self.cluster.now, START_MS + int(self.cluster.now * 1000) + self.skew_ms)

    def forget(self) -> None:
        """Begin to watch anew."""
        self.events.clear()
        self.sent.clear()
        self.desired.clear()
        self.stores.clear()

    def with_findings(self) -> HostObservation:
        """What was observed last, with what was found since."""
        return replace(self.up.observation, findings=self.findings)

    def hand_over(self, to: Node) -> None:
        """The coordination, whole."""
        self.up.context.raft.transfer_leadership(to.id, self.cluster.now)
        self.up.on_deadline(self.when)
        self.cluster.settle()
        assert to.up.context.leads

    # What operators ask here

    def submit(self, token: str, body: bytes) -> int:
        self._request += 1
        self.up.submit(self._request, token, body, self.when)
        self.cluster.settle()
        return self._request

    def deploy(self, name: str = "shop", *, rev: int = 1, **how: Any) -> int:
        return self.submit(*self.cluster.signed("deploy", f"stack:{name}", stack(name), rev=rev, **how))

    def ask_status(self) -> int:
        self._request += 1
        self.up.ask_status(self._request, self.when)
        self.cluster.settle()
        return self._request

    def result(self, request: int) -> InstructionResult:
        answer = self.answers[request]
        assert isinstance(answer, InstructionResult), answer
        return answer

    def fault(self, request: int) -> Fault:
        answer = self.answers[request]
        assert isinstance(answer, Fault), answer
        return answer

    def status(self, request: int) -> Status:
        answer = self.answers[request]
        assert isinstance(answer, Status), answer
        return answer


def stack(name: str = "shop", **services: Service) -> Stack:
    return Stack(name=name, services=services or {"web": ONE_DEPLOY})


def voters_of(size: int) -> int:
    """What bootstrap chooses."""
    return 1 if size < 3 else 3 if size < 5 else 5


class Cluster:
    """`size` agents n1, n2, …, all started and linked where one of the two wants it."""

    def __init__(
        self, size: int, *, voters: int | None = None, seed: int = 1, compaction: Compaction | None = None
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.compaction = compaction or Compaction()
        self.lost: Callable[[str, str, Frame], bool] = lambda sender, to, frame: False
        self.udp_is_shut = False
        self._apart: set[frozenset[str]] = set()
        self._links: set[frozenset[str]] = set()
        self._queue: deque[tuple[Node, Callable[[], object]]] = deque()
        self._spins = 0
        members = tuple(member(f"n{number}") for number in range(1, size + 1))
        data = genesis_entry(members, voters or voters_of(size))
        self._genesis = Entry(index=1, term=0, kind=EntryKind.NORMAL, data=data)
        self.nodes: dict[str, Node] = {}
        for item in members:
            self.add(item)
        for name in self.nodes:
            self.start(name)

    def add(self, item: Member) -> Node:
        """A host with its keys and the genesis; not started."""
        node = self.nodes[item.name] = Node(self, item, MemoryDisk(self._genesis))
        return node

    def n(self, name: str) -> Node:
        return self.nodes[name]

    def by_id(self, agent: AgentId) -> Node:
        return next(node for node in self.nodes.values() if node.id == agent)

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.core is not None]

    @property
    def coordinator(self) -> Node | None:
        """The agent that leads and has its whole state (Raft §8); None while there is none or more than one."""
        leading = [node for node in self.alive if node.up.context.leads]
        return leading[0] if len(leading) == 1 else None

    @property
    def followers(self) -> list[Node]:
        return [node for node in self.alive if node is not self.coordinator]

    def elect(self) -> Node:
        """Run until somebody coordinates and everybody knows who."""

        def known() -> bool:
            lead = self.coordinator
            return lead is not None and all(node.up.context.leader == lead.id for node in self.alive)

        self.until(known)
        assert self.coordinator is not None
        return self.coordinator

    # Instructions

    def signed(
        self, act: Act, target: str, body: Body, *, rev: int = 1, by: str = "ann", **how: Any
    ) -> tuple[str, bytes]:
        """Token and body, signed now by a right clock unless `how` says another `now_s`."""
        raw = encode_body(body)
        options: dict[str, Any] = {"now_s": START_MS / 1000 + self.now, "epoch": 1, **how}
        token = sign_instruction(
            key_of_person(by),
            operator_name=by,
            cluster=CLUSTER,
            act=act,
            target=target,
            revision=rev,
            body_bytes=raw,
            **options,
        )
        return token, raw

    def instruct(self, act: Act, target: str, body: Body, *, at: str = "n1", **how: Any) -> InstructionResult:
        """Submitted at `at`, waited for."""
        node = self.n(at)
        request = node.submit(*self.signed(act, target, body, **how))
        self.until(lambda: request in node.answers)
        return node.result(request)

    def enrol(self, name: str) -> Node:
        """The ledger names it, and it is started."""
        item = member(name)
        node = self.add(item)
        assert self.instruct("enrol", f"member:{item.id}", Enrol(member=item)).outcome == "applied"
        self.start(name)
        return node

    def expel(self, name: str, *, at: str = "n1", rev: int = 1) -> InstructionResult:
        return self.instruct("expel", f"member:{self.n(name).id}", Expel(), at=at, rev=rev)

    def drain(self, name: str, *, at: str = "n1", rev: int = 1) -> InstructionResult:
        return self.instruct("drain", f"host:{self.n(name).id}", Drain(), at=at, rev=rev)

    # Life

    def start(self, name: str) -> Node:
        """From its disk, with nothing remembered."""
        node = self.n(name)
        node.life += 1
        node.disk.starts += 1
        node.waiting.clear()
        settings = NodeSettings(
            id=node.id,
            name=node.name,
            boot=node.disk.starts,
            genesis=self._genesis.data,
            host=HostContext(address=node.member.address),
            agent_version="0.1.0",
            timing=RaftTiming.lan(),
            swim=SwimConfig.lan(),
            sign=key_of_host(node.name).sign,
            compaction=self.compaction,
            expelled=node.expelled,
        )
        node.core = NodeCore(settings, node.disk.boot(), random.Random(self.rng.getrandbits(64)), node.when)
        self.settle()
        return node

    def crash(self, name: str) -> None:
        """No warning; what wasn't on the disk is gone. The others notice by their closed links."""
        node = self.n(name)
        node.core = None
        node.waiting.clear()
        for other in self.nodes:
            self._unlink(name, other)
        self.settle()

    def begin_epoch(self, node: Node, snapshot: Snapshot) -> None:
        """As the driver does: the disk first, then a start anew."""
        node.disk.begin_epoch(snapshot)
        node.core = None
        for other in self.nodes:
            self._unlink(node.name, other)
        self.start(node.name)

    def cut(self, *names: str) -> None:
        """`names` and the others are apart, and their links break."""
        for name in names:
            for other in self.nodes.keys() - set(names):
                self._apart.add(frozenset((name, other)))
                self._unlink(name, other)
        self.settle()

    def cut_pair(self, one: str, other: str) -> None:
        self._apart.add(frozenset((one, other)))
        self._unlink(one, other)
        self.settle()

    def mend(self) -> None:
        """Everybody can reach everybody."""
        self._apart.clear()
        self.settle()

    def linked(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._links

    def _unlink(self, one: str, other: str) -> None:
        if frozenset((one, other)) not in self._links:
            return
        self._links.discard(frozenset((one, other)))
        for node, peer in ((self.n(one), self.n(other)), (self.n(other), self.n(one))):
            if node.core is not None:
                node.core.link_down(peer.id, node.when)

    def _part(self, node: Node) -> None:
        """From members that neither wants any more; a real link stays for a moment longer (agent.net.links)."""
        for other in self.alive:
            if not self.linked(node.name, other.name) or other.id in node.wanted or node.id in other.wanted:
                continue
            members, seeds = node.up.context.state.members, (*node.seeds, *other.seeds)
            if other.id in members and other.name not in seeds and node.name not in seeds:
                self._unlink(node.name, other.name)

    def _link_up(self) -> bool:
        """Whoever one of the two wants, or is its seed, is linked, or told that it was expelled; whether any was."""
        before = len(self._links)
        for one in self.alive:
            for other in self.alive:
                pair = frozenset((one.name, other.name))
                if one is other or pair in self._links or pair in self._apart:
                    continue
                if other.id not in one.wanted and other.name not in one.seeds:
                    continue
                if one.id in other.up.context.state.expelled:
                    one.expelled = refuse(one.up, other.up, one.when) or one.expelled
                    continue
                if other.id in one.up.context.state.expelled:
                    continue
                self._links.add(pair)
                for node, peer in ((one, other), (other, one)):
                    known = peer.id in node.up.context.state.members
                    epoch, boot = peer.up.context.state.epoch, peer.disk.starts
                    told = Peer(id=peer.id, known=known, agent_version="0.1.0", epoch=epoch, boot=boot)
                    node.up.link_up(told, node.when)
        return len(self._links) > before

    # Time

    def settle(self) -> None:
        """Carry out all effects, deliver all that is sent, until nothing moves. No time passes."""
        for _ in range(100_000):
            if self._queue:
                node, arrive = self._queue.popleft()
                arrive()
                self._act(node)
            elif not self._link_up() and not self._act(*self.alive):
                return
        raise AssertionError("the agents never come to rest")

    def _act(self, *nodes: Node) -> bool:
        """Carry out the effects of those that run; whether there were any."""
        effects = [(node, effect) for node in nodes if node.core is not None for effect in node.core.take_effects()]
        for node, effect in effects:
            self._carry_out(node, effect)
        return bool(effects)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        self.settle()
        while (due := min((node.up.deadline() for node in self.alive), default=end)) < end:
            self._pass_to(max(due, self.now))
        self._pass_to(end)

    def until(self, condition: Callable[[], object], within_s: float = 20.0) -> None:
        """Let time pass until it is so."""
        end = self.now + within_s
        self.settle()
        while not condition():
            due = min((node.up.deadline() for node in self.alive), default=end)
            assert due < end, f"in vain for {within_s} s"
            self._pass_to(max(due, self.now))

    def _pass_to(self, moment: float) -> None:
        self._spins = self._spins + 1 if moment == self.now else 0
        assert self._spins < MAX_SPINS, f"a timer spins: {[node.up.deadlines() for node in self.alive]} at {self.now}"
        self.now = moment
        for node in self.alive:
            if node.up.deadline() <= moment:
                node.up.on_deadline(node.when)
        self.settle()

    def will_arrive(self, node: Node, arrive: Callable[[], object]) -> None:
        """`arrive` hands something to the node, behind all that is on its way."""
        self._queue.append((node, arrive))

    # Effects

    def _carry_out(self, node: Node, effect: Effect) -> None:
        match effect:
            case Send(to=to, frame=frame):
                node.sent.append(effect)
                self._send(node, self.by_id(to), frame)
            case Datagram(to=to, message=message):
                other, sender = self.by_id(to), node.id
                if not self.udp_is_shut and frozenset((node.name, other.name)) not in self._apart:
                    self._deliver(other, lambda core, when: core.datagram(sender, message, when))
            case Store():
                node.stores.append(effect)
                node.waiting.append(effect)
                if node.disk_works:
                    self.write(node)
            case Answer(request=request, answer=answer):
                assert request not in node.answers, "one answer to a request"
                node.answers[request] = answer
            case Publish(events=events):
                node.events.extend(events)
            case Replied():
                node.replied.append(effect)
            case _:
                self._note(node, effect)

    def _note(self, node: Node, effect: Effect) -> None:
        match effect:
            case Want(peers=peers):
                node.wanted = peers
                self._part(node)
                self._link_up()
            case Cut(peer=peer):
                node.cuts.append(peer)
                self._unlink(node.name, self.by_id(peer).name)
            case Reconcile():
                node.desired.append(effect)
                if node.obeys:
                    seen = running(effect, findings=node.findings)
                    self._deliver(node, lambda core, when: core.observed(seen, when))
            case Examine(tasks=tasks):
                node.findings = tuple(map(all_right, tasks))
                self._deliver(node, lambda core, when: core.observed(node.with_findings(), when))
            case Serve() | Unserve():
                node.served.append(effect)
            case BeginEpoch(snapshot=snapshot):
                self.will_arrive(node, lambda: self.begin_epoch(node, snapshot))

    def write(self, node: Node) -> None:
        """The disk has everything that waits."""
        while node.waiting:
            store = node.waiting.popleft()
            node.disk.write(store.persist, store.verified_through)
            if store.settles:
                self._deliver(node, lambda core, when: core.stored(when))

    def _send(self, sender: Node, receiver: Node, frame: Frame) -> None:
        if not self.linked(sender.name, receiver.name) or self.lost(sender.name, receiver.name, frame):
            return
        life, content = receiver.life, over_the_wire(frame)

        def arrive() -> None:
            if self.linked(sender.name, receiver.name) and receiver.life == life:
                receiver.up.frame(sender.id, content, receiver.when)

        self.will_arrive(receiver, arrive)

    def _deliver(self, node: Node, hand_in: Callable[[NodeCore, Instant], None]) -> None:
        life = node.life

        def arrive() -> None:
            if node.core is not None and node.life == life:
                hand_in(node.core, node.when)

        self.will_arrive(node, arrive)
