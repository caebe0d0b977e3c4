"""`Raft`: one member's consensus, driven from outside."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from agent.raft.config import RaftLimits, RaftTiming
from agent.raft.entry import Configuration, Entry, HardState, Snapshot
from agent.raft.messages import Message
from agent.raft.ready import Ready, Role


class FollowerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a leader knows of one other member. `heard_s_ago`: seconds since its last answer."""

    id: str
    voter: bool
    match: int
    state: str
    heard_s_ago: float


class Raft:
    """See the package's docstring."""

    def __init__(
        self,
        *,
        id: str,
        timing: RaftTiming,
        rng: random.Random,
        now: float,
        hard_state: HardState,
        log: Sequence[Entry],
        configuration: Configuration,
        commit: int,
        applied: int,
        snapshot: Snapshot | None = None,
        limits: RaftLimits | None = None,
        verify_snapshots: bool = False,
    ) -> None:
        raise NotImplementedError

    def receive(self, sender: str, message: Message, now: float) -> None:
        raise NotImplementedError

    def propose(self, data: bytes, now: float) -> int:
        raise NotImplementedError

    def propose_configuration(self, configuration: Configuration, now: float) -> int:
        raise NotImplementedError

    def read_index(self, context: bytes, now: float) -> None:
        raise NotImplementedError

    def transfer_leadership(self, to: str | None, now: float) -> str:
        raise NotImplementedError

    def peer_linked(self, id: str, now: float) -> None:
        raise NotImplementedError

    def peer_unlinked(self, id: str, now: float) -> None:
        raise NotImplementedError

    def observe(self, entries: Sequence[Entry], commit: int, now: float) -> None:
        raise NotImplementedError

    def observe_snapshot(self, snapshot: Snapshot, now: float) -> None:
        raise NotImplementedError

    def accept_snapshot(self, snapshot: Snapshot, now: float) -> None:
        raise NotImplementedError

    def refuse_snapshot(self, snapshot: Snapshot, now: float) -> None:
        raise NotImplementedError

    def compact(self, index: int, data: bytes, keep_entries: int) -> None:
        raise NotImplementedError

    def deadline(self) -> float:
        raise NotImplementedError

    def on_deadline(self, now: float) -> None:
        raise NotImplementedError

    def has_ready(self) -> bool:
        raise NotImplementedError

    def take_ready(self) -> Ready | None:
        raise NotImplementedError

    def advance(self, ready: Ready, now: float) -> None:
        raise NotImplementedError

    @property
    def id(self) -> str:
        raise NotImplementedError

    @property
    def term(self) -> int:
        raise NotImplementedError

    @property
    def role(self) -> Role:
        raise NotImplementedError

    @property
    def leader(self) -> str | None:
        raise NotImplementedError

    @property
    def is_leader(self) -> bool:
        raise NotImplementedError

    @property
    def leader_since(self) -> float | None:
        raise NotImplementedError

    @property
    def commit(self) -> int:
        raise NotImplementedError

    @property
    def applied(self) -> int:
        raise NotImplementedError

    @property
    def first_index(self) -> int:
        raise NotImplementedError

    @property
    def last_index(self) -> int:
        raise NotImplementedError

    @property
    def configuration(self) -> Configuration:
        raise NotImplementedError

    @property
    def snapshot(self) -> Snapshot | None:
        raise NotImplementedError

    def term_at(self, index: int) -> int | None:
        raise NotImplementedError

    def entries_between(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        raise NotImplementedError

    def quorum_active(self, now: float) -> bool:
        raise NotImplementedError

    def active_members(self, now: float) -> tuple[str, ...]:
        raise NotImplementedError

    def followers(self, now: float) -> tuple[FollowerStatus, ...]:
        raise NotImplementedError
