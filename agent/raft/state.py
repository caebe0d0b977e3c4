"""What all parts of one member's core share."""

from __future__ import annotations

import random
from collections import Counter

from agent.raft.config import RaftLimits, RaftTiming
from agent.raft.entry import Configuration, HardState, Snapshot
from agent.raft.log import RaftLog
from agent.raft.membership import Membership
from agent.raft.messages import Message
from agent.raft.quorum import majority
from agent.raft.ready import Envelope, ReadState, Role


class Outbox:
    """What goes into the next Ready. A message's list is its safety: see `Ready`."""

    def __init__(self) -> None:
        self.now: list[Envelope] = []
        self.after_persist: list[Envelope] = []
        self.reads: list[ReadState] = []
        self.offered: Snapshot | None = None
        self.restore: Snapshot | None = None
        self.snapshot: Snapshot | None = None
        self.compact_to: int | None = None

    def send_now(self, to: str, message: Message) -> None:
        """For what promises nothing that a crash could take back."""
        self.now.append(Envelope(to, message))

    def send_after_persist(self, to: str, message: Message) -> None:
        """For what promises a term, a vote or entries."""
        self.after_persist.append(Envelope(to, message))


class RaftState:
    """Persistent and volatile state (Raft fig. 3.1), without what only an election or a leader needs.

    `fenced_at`: see `fence`; None while this member may take part. `retired`: it never will again. `linked`: peers the
    shell has a link to. `persisted_hard_state`: what a restart would find. `dropped` counts messages that were thrown
    away, by reason. `snapshot`: the newest, for whoever is too far behind.
    """

    def __init__(
        self,
        *,
        id: str,
        timing: RaftTiming,
        limits: RaftLimits,
        rng: random.Random,
        hard_state: HardState,
        log: RaftLog,
        membership: Membership,
        snapshot: Snapshot | None,
    ) -> None:
        self.id = id
        self.timing = timing
        self.limits = limits
        self.rng = rng
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.persisted_hard_state = hard_state
        self.role = Role.FOLLOWER
        self.leader: str | None = None
        self.log = log
        self.membership = membership
        self.snapshot = snapshot
        self.fenced_at: int | None = None
        self.retired = False
        self.linked: set[str] = set()
        self.dropped: Counter[str] = Counter()
        self.outbox = Outbox()

    @property
    def configuration(self) -> Configuration:
        return self.membership.current

    @property
    def is_voter(self) -> bool:
        """Whether this member may campaign and lead: until its removal is committed it may be the only one who can
        commit it (thesis §4.2.2)."""
        membership, commit = self.membership, self.log.commit
        return self.id in membership.current.voters or (
            membership.index > commit and self.id in membership.at(commit).voters
        )

    def knows(self, id: str) -> bool:
        """Whether `id` is in the configuration in force, or in the one that is committed: a voter or a learner."""
        membership = self.membership
        return id in membership.current.members or (
            membership.index > self.log.commit and id in membership.at(self.log.commit).members
        )

    @property
    def knows_leader(self) -> bool:
        """Whether a member of ours leads, and not a stranger that claims to."""
        return self.leader is not None and self.knows(self.leader)

    @property
    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote)

    def follow(self, term: int, leader: str | None) -> None:
        """Be a follower in `term` (>= own). A vote belongs to one term only (Raft §5.2)."""
        assert term >= self.term, "terms only grow"
        if term > self.term:
            self.term, self.vote = term, None
        self.role, self.leader = Role.FOLLOWER, leader

    def fence(self, index: int) -> None:
        """This member had entries up to `index` on its disk, and the log here ends before: the disk went back to an
        earlier state, and with it what this member promised (Raft fig. 3.1).

        It neither votes nor acknowledges until it has left the configuration; then it may come back as a new one.
        """
        self.fenced_at = max(index, self.fenced_at or 0)
        self.role, self.leader = Role.FOLLOWER, None

    def retire(self) -> None:
        """This member was expelled: it takes no part any more."""
        self.retired = True
        self.role, self.leader = Role.FOLLOWER, None

    @property
    def stands_aside(self) -> bool:
        """Whether it neither votes nor leads, and hears nobody."""
        return self.retired or self.fenced_at is not None

    def lift_fence(self) -> None:
        """The log is caught up again, and says that this member doesn't count any more."""
        if self.fenced_at is not None and self.log.commit >= self.fenced_at and not self.knows(self.id):
            self.fenced_at = None

    def compact(self, index: int, data: bytes, keep_entries: int) -> None:
        """See `Raft.compact`."""
        log, term = self.log, self.log.term_at(index)
        if term is None or index > log.applied or (self.snapshot is not None and index <= self.snapshot.index):
            raise ValueError(f"can't compact at {index}: applied {log.applied}, first entry {log.base_index + 1}")
        self.snapshot = self.outbox.snapshot = Snapshot(
            index=index, term=term, configuration=self.membership.at(index), data=data
        )
        log.compact(index - keep_entries)
        self.membership.compact(index)
        self.outbox.compact_to = log.base_index

    def drop(self, reason: str) -> None:
        """A remote's fault, or bad luck of the network: counted, nothing else."""
        self.dropped[reason] += 1

    def linked_to_majority(self) -> bool:
        """Whether this member and the voters it is linked to are a majority."""
        voters = self.configuration.voters
        return sum(voter == self.id or voter in self.linked for voter in voters) >= majority(len(voters))
