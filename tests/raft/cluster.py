"""A cluster in memory: simulated time, disks that can lose power, a network that loses, delays, repeats and reorders.

Every step is checked against Raft's properties (Raft fig. 3.2); a broken one raises AssertionError.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from agent.raft import (
    Configuration,
    Entry,
    EntryKind,
    Envelope,
    HardState,
    Message,
    Persist,
    Raft,
    RaftLimits,
    RaftTiming,
    Ready,
    Snapshot,
)
from tests.raft.wire import decode_message, encode_message

GENESIS = Entry(1, 0, EntryKind.CONFIG, b"genesis")


@dataclass
class Disk:
    """What survives a power cut: exactly what was persisted."""

    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=lambda: [GENESIS])
    snapshot: Snapshot | None = None
    commit: int = 1

    def write(self, persist: Persist) -> None:
        if persist.hard_state is not None:
            assert persist.hard_state.term >= self.hard_state.term, "a stored term never goes back"
            self.hard_state = persist.hard_state
        if persist.truncate_from is not None:
            self.entries = [entry for entry in self.entries if entry.index < persist.truncate_from]
        self.entries.extend(persist.entries)
        if persist.snapshot is not None:
            self.snapshot = persist.snapshot
        if persist.compact_to is not None:
            self.entries = [entry for entry in self.entries if entry.index > persist.compact_to]
        if persist.commit is not None:
            self.commit = persist.commit


class Machine:
    """A state machine whose state is everything ever applied, in order."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def apply(self, entry: Entry) -> None:
        self.data += b"%d:%d:%s;" % (entry.index, entry.term, entry.data if entry.kind is EntryKind.NORMAL else b"-")


class Member:
    """One agent: its disk, its machine and, while it runs, its core."""

    def __init__(self, id: str, configuration: Configuration) -> None:
        self.id = id
        self.genesis = configuration
        self.disk = Disk()
        self.stalls_s = 0.0
        self.machine = Machine()
        self.raft: Raft | None = None
        self.flight: Ready | None = None
        self.reads: dict[bytes, int] = {}

    @property
    def running(self) -> Raft:
        assert self.raft is not None, f"{self.id} is down"
        return self.raft

    def start(self, timing: RaftTiming, limits: RaftLimits, rng: random.Random, now: float) -> None:
        snapshot = self.disk.snapshot
        self.machine = Machine(snapshot.data if snapshot is not None else b"")
        self.raft = Raft(
            id=self.id,
            timing=timing,
            limits=limits,
            rng=rng,
            now=now,
            hard_state=self.disk.hard_state,
            log=tuple(self.disk.entries),
            snapshot=snapshot,
            configuration=self.genesis,
            commit=self.disk.commit,
            applied=snapshot.index if snapshot is not None else 0,
        )


@dataclass
class Network:
    """Probabilities per message; delays in seconds."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_s: tuple[float, float] = (0.0005, 0.001)
    fsync_s: tuple[float, float] = (0.0005, 0.002)


Event = tuple[float, int, Callable[[], None]]


class Cluster:
    """Members named a, b, c, …; the first `voters` of them vote (all, unless said), the rest are unknown to Raft."""

    def __init__(
        self,
        size: int,
        *,
        seed: int = 0,
        voters: int | None = None,
        network: Network | None = None,
        timing: RaftTiming | None = None,
        limits: RaftLimits | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.network = network or Network()
        self.timing = timing or RaftTiming.lan()
        self.limits = limits or RaftLimits()
        self.now = 0.0
        self.ids = [chr(ord("a") + number) for number in range(size)]
        configuration = Configuration.of(self.ids[: voters or size])
        self.members = {id: Member(id, configuration) for id in self.ids}
        self.blocked: set[tuple[str, str]] = set()
        self.committed: dict[int, Entry] = {1: GENESIS}
        self.leader_of_term: dict[int, str] = {}
        self.messages = 0
        self._events: list[Event] = []
        self._order = 0
        self._timers: dict[str, float] = {}

    # --- running -----------------------------------------------------------------------------------------------------

    def start(self, *ids: str) -> None:
        """Start members (all, unless named) and link them with those that run."""
        for id in ids or tuple(self.ids):
            self.members[id].start(self.timing, self.limits, random.Random(self.rng.random()), self.now)
            for other in self.running():
                if other != id and not self.cut(id, other):
                    self.members[other].running.peer_linked(id, self.now)
                    self.members[id].running.peer_linked(other, self.now)
        for id in self.running():
            self._work(id)

    def running(self) -> list[str]:
        return [id for id, member in self.members.items() if member.raft is not None]

    def raft(self, id: str) -> Raft:
        return self.members[id].running

    def crash(self, id: str, *, links_close: bool = True) -> None:
        """Cut the power: what wasn't persisted is gone. `links_close`: the others notice (a process died)."""
        member = self.members[id]
        member.raft, member.flight = None, None
        self._timers.pop(id, None)
        if links_close:
            for other in self.running():
                self.raft(other).peer_unlinked(id, self.now)
                self._work(other)

    def partition(self, *groups: Iterable[str]) -> None:
        """Only members of one group reach each other; silently, as a pulled cable."""
        group_of = {id: number for number, group in enumerate(groups) for id in group}
        self.blocked = {
            (one, two) for one in self.ids for two in self.ids if group_of.get(one, -1) != group_of.get(two, -2)
        }

    def heal(self) -> None:
        self.blocked = set()

    def stall(self, id: str, *, for_s: float = 1e9) -> None:
        """The member's next write takes so long."""
        self.members[id].stalls_s = for_s

    def cut(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) in self.blocked

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + delay, self._order, action))

    def step(self) -> None:
        """The next event."""
        when, _, action = heapq.heappop(self._events)
        self.now = max(self.now, when)
        action()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.step()
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, within_s: float = 10.0) -> float:
        """Returns how many (simulated) seconds it took; AssertionError when it took too long."""
        start = self.now
        while not condition():
            assert self._events, "nothing will ever happen again"
            assert self.now - start <= within_s, f"not within {within_s} s"
            self.step()
        return self.now - start

    # --- what a driver does ------------------------------------------------------------------------------------------

    def work(self) -> None:
        """After calling a core directly: let everybody's driver look."""
        for id in self.running():
            self._work(id)

    def _work(self, id: str) -> None:
        member = self.members[id]
        raft = member.running
        self._check_leader(raft)
        if member.flight is None and (ready := raft.take_ready()) is not None:
            member.flight = ready
            self._send(id, ready.send_now)
            delay = 0.0
            if ready.persist is not None:
                delay = self.rng.uniform(*self.network.fsync_s) + member.stalls_s
                member.stalls_s = 0.0
            self.at(delay, lambda: self._finish(id, ready))
        deadline = raft.deadline()
        if deadline != float("inf") and self._timers.get(id) != deadline:
            self._timers[id] = deadline
            self.at(max(0.0, deadline - self.now), lambda: self._tick(id, deadline))

    def _tick(self, id: str, deadline: float) -> None:
        if self._timers.get(id) == deadline and self.members[id].raft is not None:
            del self._timers[id]
            self.raft(id).on_deadline(self.now)
            self._work(id)

    def _finish(self, id: str, ready: Ready) -> None:
        member = self.members[id]
        if member.flight is not ready:
            return  # the power went while the disk was writing
        if ready.persist is not None:
            member.disk.write(ready.persist)
        self._send(id, ready.send_after_persist)
        if ready.restore is not None:
            member.machine = Machine(ready.restore.data)
        on_disk = {entry.index: entry for entry in member.disk.entries}
        for entry in ready.committed:
            assert on_disk[entry.index] == entry, "only what is on the own disk is applied"
            assert self.committed.setdefault(entry.index, entry) == entry, "state machine safety (Raft fig. 3.2)"
            member.machine.apply(entry)
        for read in ready.reads:
            member.reads[read.context] = read.index
        member.flight = None
        member.running.advance(ready, self.now)
        self._work(id)

    def _send(self, sender: str, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            data = encode_message(envelope.message)
            self.messages += 1
            for _ in range(2 if self.rng.random() < self.network.repeat else 1):
                if self.rng.random() >= self.network.loss:
                    message = decode_message(data)
                    delay = self.rng.uniform(*self.network.delay_s)
                    self.at(delay, partial(self._deliver, sender, envelope.to, message))

    def _deliver(self, sender: str, to: str, message: Message) -> None:
        if not self.cut(sender, to) and self.members[to].raft is not None:
            self.raft(to).receive(sender, message, self.now)
            self._work(to)

    # --- what is asked of it -----------------------------------------------------------------------------------------

    def leader(self) -> str | None:
        """The leader of the latest term, if it has a majority behind it."""
        leaders = [id for id in self.running() if self.raft(id).quorum_active(self.now)]
        return max(leaders, key=lambda id: self.raft(id).term, default=None)

    def elect(self) -> str:
        """Run until there is a leader."""
        self.run_until(lambda: self.leader() is not None)
        leader = self.leader()
        assert leader is not None
        return leader

    def elect_and_settle(self) -> str:
        """Start everybody; the leader's first entry is with everyone."""
        self.start()
        self.replicate(b"first")
        self.run(1.0)
        return self.elect()

    def propose(self, data: bytes, *, to: str | None = None) -> int:
        leader = to or self.elect()
        index = self.raft(leader).propose(data, self.now)
        self._work(leader)
        return index

    def replicate(self, data: bytes) -> int:
        """Propose, and run until every running member applied it."""
        index = self.propose(data)
        self.run_until(lambda: all(self.raft(id).applied >= index for id in self.running()))
        return index

    def _check_leader(self, raft: Raft) -> None:
        if not raft.is_leader:
            return
        if raft.term not in self.leader_of_term:
            for index, entry in self.committed.items():
                if index >= raft.first_index:
                    assert raft.term_at(index) == entry.term, "leader completeness (Raft §5.4.3)"
        assert self.leader_of_term.setdefault(raft.term, raft.id) == raft.id, "election safety (Raft §5.2)"

    def check_logs(self) -> None:
        """Log matching (Raft §5.3): same index and term means the same entry, and the same entries before."""
        for one in self.ids:
            for two in self.ids:
                first = {entry.index: entry for entry in self.members[one].disk.entries}
                second = {entry.index: entry for entry in self.members[two].disk.entries}
                common = sorted(set(first) & set(second))
                agreed = [index for index in common if first[index].term == second[index].term]
                upto = max(agreed, default=0)
                assert all(first[index] == second[index] for index in common if index <= upto), "log matching"
