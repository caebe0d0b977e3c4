"""One member on the bench: the test plays everybody else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from agent.raft import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Message,
    Persist,
    Raft,
    RaftLimits,
    RaftTiming,
    ReadState,
    Ready,
    Role,
    Snapshot,
)
from agent.raft.messages import AppendResponse, PreVote, PreVoteResponse, Vote, VoteResponse

M = TypeVar("M")


def log_of(*terms: int, first: int = 1) -> tuple[Entry, ...]:
    """Entries of these terms; the data names index and term."""
    return tuple(
        Entry(first + position, term, EntryKind.NORMAL, b"%d.%d" % (first + position, term))
        for position, term in enumerate(terms)
    )


@dataclass
class Bench:
    """The member `a`, by default one of three voters, with only the genesis in its log.

    `sent`: everything that left, oldest first. `persisted`, `committed`, `reads`: what it handed out.
    """

    terms: tuple[int, ...] = (0,)
    term: int = 0
    vote: str | None = None
    commit: int = 1
    voters: tuple[str, ...] = ("a", "b", "c")
    learners: tuple[str, ...] = ()
    snapshot: Snapshot | None = None
    limits: RaftLimits | None = None
    verify_snapshots: bool = False
    seed: int = 1
    now: float = 100.0
    sent: list[tuple[str, Message]] = field(default_factory=list)
    persisted: list[Persist] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)
    restored: list[Snapshot] = field(default_factory=list)
    offered: list[Snapshot] = field(default_factory=list)

    def __post_init__(self) -> None:
        base = self.snapshot.index if self.snapshot else 0
        self.raft = Raft(
            id="a",
            timing=RaftTiming.lan(),
            rng=random.Random(self.seed),
            now=self.now,
            hard_state=HardState(max(self.term, *self.terms, 0) if self.terms else self.term, self.vote),
            log=log_of(*self.terms, first=base + 1),
            configuration=Configuration(self.voters, self.learners),
            snapshot=self.snapshot,
            commit=max(self.commit, base),
            applied=max(self.commit, base),
            limits=self.limits,
            verify_snapshots=self.verify_snapshots,
        )

    @property
    def log_terms(self) -> list[int | None]:
        return [self.raft.term_at(index) for index in range(self.raft.first_index, self.raft.last_index + 1)]

    def take(self) -> Ready:
        ready = self.raft.take_ready()
        assert ready is not None, "nothing to do"
        return ready

    def settle(self) -> list[tuple[str, Message]]:
        """Do what the driver does until nothing is left; returns what was sent."""
        before = len(self.sent)
        while (ready := self.raft.take_ready()) is not None:
            self.sent += [(envelope.to, envelope.message) for envelope in ready.send_now]
            if ready.persist is not None:
                self.persisted.append(ready.persist)
            self.sent += [(envelope.to, envelope.message) for envelope in ready.send_after_persist]
            if ready.restore is not None:
                self.restored.append(ready.restore)
            if ready.offered is not None:
                self.offered.append(ready.offered)
            self.committed += ready.committed
            self.reads += ready.reads
            self.raft.advance(ready, self.now)
        return self.sent[before:]

    def receive(self, sender: str, message: Message) -> list[tuple[str, Message]]:
        self.raft.receive(sender, message, self.now)
        return self.settle()

    def wait(self, seconds: float) -> list[tuple[str, Message]]:
        """Let time pass, with every deadline in it met on time."""
        end, before = self.now + seconds, len(self.sent)
        while self.raft.deadline() <= end:
            self.now = max(self.now, self.raft.deadline())
            self.raft.on_deadline(self.now)
            self.settle()
        self.now = end
        return self.sent[before:]

    def time_out(self) -> list[tuple[str, Message]]:
        """Up to the next deadline, and over it."""
        return self.wait(max(0.0, self.raft.deadline() - self.now))

    def others(self) -> Sequence[str]:
        return [voter for voter in self.raft.configuration.voters if voter != "a"]

    def stand(self) -> None:
        """Become a candidate: the election timer fires and all pre-votes are granted."""
        self.time_out()
        for voter in self.others():
            if self.raft.role is Role.PRE_CANDIDATE:
                self.receive(voter, PreVoteResponse(term=self.raft.term + 1, granted=True))
        assert self.raft.role in (Role.CANDIDATE, Role.LEADER)

    def stand_with(self, *granting: str) -> None:
        """As `stand`, when only these answer."""
        self.time_out()
        for voter in granting:
            self.receive(voter, PreVoteResponse(term=self.raft.term + 1, granted=True))
        assert self.raft.role is Role.CANDIDATE

    def lead(self, *, commit: bool = False) -> None:
        """Win an election with everybody's vote; `commit`: have the term's first entry committed by everybody."""
        self.stand()
        for voter in self.others():
            self.receive(voter, VoteResponse(term=self.raft.term, granted=True))
        assert self.raft.is_leader
        if commit:
            for voter in self.others():
                self.accept(voter)
            assert self.raft.commit == self.raft.last_index

    def accept(self, sender: str, index: int | None = None) -> list[tuple[str, Message]]:
        """`sender` has everything up to `index` (the last one) on disk."""
        last = self.raft.last_index if index is None else index
        return self.receive(sender, AppendResponse(term=self.raft.term, accepted=True, index=last))

    def propose(self, data: bytes) -> int:
        index = self.raft.propose(data, self.now)
        self.settle()
        return index

    def pre_vote_for(self, term: int, last_index: int = 1, last_term: int = 0, sender: str = "b") -> PreVoteResponse:
        sent = self.receive(sender, PreVote(term=term, last_index=last_index, last_term=last_term))
        return only(sent, PreVoteResponse)

    def vote_for(
        self, term: int, last_index: int = 1, last_term: int = 0, sender: str = "b", *, forced: bool = False
    ) -> VoteResponse:
        vote = Vote(term=term, last_index=last_index, last_term=last_term, forced=forced)
        return only(self.receive(sender, vote), VoteResponse)


def of(sent: Sequence[tuple[str, Message]], kind: type[M], to: str | None = None) -> list[M]:
    """The messages of one kind, to one member or to anyone."""
    return [message for receiver, message in sent if isinstance(message, kind) and to in (None, receiver)]


def only(sent: Sequence[tuple[str, Message]], kind: type[M], to: str | None = None) -> M:
    found = of(sent, kind, to)
    assert len(found) == 1, f"one {kind.__name__} wanted, {len(found)} found"
    return found[0]
