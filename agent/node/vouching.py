"""Whether other voters have the same snapshot: what one leaves out, no signature shows (agent.state.proof).

All agents take their snapshots at the same entries, with the same bytes, so each has one name everywhere. Whoever is
offered one asks the voters that it knows what they have there, and believes it once a majority has the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import msgspec
from msgspec import Struct, field

from agent.model.types import AgentId, Digest
from agent.node.chronicle import Chronicle
from agent.node.context import Context
from agent.node.instant import Instant
from agent.node.messages import CallFrame, Frame, GetSnapshotName, Reply, ReplyFrame, SnapshotNameIs
from agent.raft import Configuration, Snapshot
from agent.raft.quorum import majority

KEPT_NAMES = 16  # of the newest snapshots: one may be on its way for as long as it takes to make that many more
ASK_AGAIN_S = 0.25  # a voter that hasn't got there yet has applied some entries more by then
SILENT_S = 2.0  # a voter that doesn't answer for so long is gone: a broken link is noticed within it (agent.net.links)

# Voters of a snapshot whose majority counts: of fewer, one that lies could be it.
LEAST_OFFERED = 3

Name = Digest | Literal[""]
Decided = Callable[[Snapshot, bool, Instant], None]


def name_of(index: int, term: int, configuration: Configuration, data_digest: Digest) -> Digest:
    """One word for a snapshot and all that comes with it; `data_digest` is its data's sha256."""
    whole = msgspec.msgpack.encode((index, term, configuration.encode(), data_digest))
    return hashlib.sha256(whole).hexdigest()


def is_vouched_for(
    name: Digest,
    me: AgentId,
    voters: Collection[AgentId],
    offered: Collection[AgentId],
    told: Mapping[AgentId, Name],
    silent: Collection[AgentId],
) -> bool | None:
    """Whether a snapshot is the voters' own; None while that is open.

    `voters` are those that `me` knows, `offered` those of the snapshot. `told`: what each that answered has at its
    index, "" for nothing; not of voters only. `silent`: who is gone.

    A majority that has it decides, and one that has another one. Where the silent ones may be what is missing of a
    majority, it is enough that nobody has another one: else a cluster that lost some voters would lose the rest. So is
    a majority of the snapshot's own voters, at least three: those that we know may have been replaced since, and be
    behind as we are.
    """
    others, wanted = _others(me, voters)
    same = {agent for agent, has in told.items() if has == name}
    another = {agent for agent, has in told.items() if has not in ("", name)}
    if len(same & others) >= wanted:
        return True
    if len(others - another) < wanted:
        return False
    if not same or another:
        return None
    may_have = same | (set(silent) & others)
    if len(others & may_have) >= wanted:
        return True
    theirs, enough = _others(me, offered)
    return True if len(offered) >= LEAST_OFFERED and len(theirs & may_have) >= enough else None


def _others(me: AgentId, voters: Collection[AgentId]) -> tuple[set[AgentId], int]:
    """Who can say something, and how many must. Of two voters, of which we are one, the other's word is all there
    is."""
    others = set(voters) - {me}
    return others, max(1, min(majority(len(voters)), len(others)))


class _Case(Struct):
    """A snapshot that is judged. `calls`: open ones, by voter."""

    snapshot: Snapshot
    name: Digest
    proven: bool
    decided: Decided
    ask_at: float
    told: dict[AgentId, Name] = field(default_factory=dict)
    calls: dict[AgentId, int] = field(default_factory=dict)


class Vouching(Struct):
    """`proves`: whether a snapshot's signatures hold. One is judged at a time, the one offered last.

    `_names`: by index, of our own newest snapshots. `_silent_since`: who was asked and hasn't answered since; who has
    no link stays in it from one snapshot to the next, as a leader may have a newer one before the wait is over.
    """

    context: Context
    chronicle: Chronicle
    proves: Callable[[Snapshot], bool]
    _names: dict[int, Digest] = field(default_factory=dict)
    _case: _Case | None = None
    _silent_since: dict[AgentId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.context.raft.snapshot is not None:
            self.installed(self.context.raft.snapshot)

    def took(self, index: int, data_digest: Digest) -> None:
        """We have taken a snapshot, whether or not we keep it."""
        raft = self.context.raft
        term = raft.term_at(index)
        if term is not None:
            self._keep(index, name_of(index, term, raft.configuration_at(index), data_digest))

    def installed(self, snapshot: Snapshot) -> None:
        """It is ours now."""
        self._keep(snapshot.index, _name(snapshot))

    def _keep(self, index: int, name: Digest) -> None:
        self._names[index] = name
        for older in sorted(self._names)[:-KEPT_NAMES]:
            del self._names[older]

    def serve(self, peer: AgentId, call: int, request: GetSnapshotName) -> None:
        """A peer asks what we have there."""
        self.context.reply(peer, call, SnapshotNameIs(name=self._names.get(request.index, "")))

    def hears(self, sender: AgentId, frame: Frame) -> bool:
        """Whether a frame of somebody whom our ledger doesn't name (yet) is an answer that we asked for."""
        return isinstance(frame, ReplyFrame) and self._case is not None and sender in self._case.calls

    def link_up(self, peer: AgentId) -> None:
        """It can answer now."""
        self._silent_since.pop(peer, None)
        if self._case is not None:
            self._case.ask_at = float("-inf")

    def judge(self, snapshot: Snapshot, decided: Decided, when: Instant) -> None:
        """Tell `decided`, with the snapshot, once it is. Nothing is told of one that was offered before."""
        self._close()
        self._case = _Case(snapshot, _name(snapshot), self.proves(snapshot), decided, when.mono)

    def forget(self, snapshot: Snapshot) -> None:
        """Nobody wants to know any more."""
        if self._case is not None and self._case.snapshot is snapshot:
            self._close()

    def pump(self, when: Instant) -> None:
        """Ask, and decide if that can be."""
        case = self._case
        if case is None:
            return
        voters = self.context.raft.configuration.voters
        if case.proven and when.mono >= case.ask_at:
            case.ask_at = when.mono + ASK_AGAIN_S
            for voter in sorted({*voters, *case.snapshot.configuration.voters} - {self.context.id}):
                if not case.told.get(voter):
                    self._ask(case, voter, when)
        silent = {voter for voter, since in self._silent_since.items() if when.mono >= since + SILENT_S}
        sound = case.proven and is_vouched_for(
            case.name, self.context.id, voters, case.snapshot.configuration.voters, case.told, silent
        )
        if sound is not None:
            self._decide(case, sound, when)

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause."""
        return self._case.ask_at if self._case is not None else float("inf")

    def _ask(self, case: _Case, voter: AgentId, when: Instant) -> None:
        self._silent_since.setdefault(voter, when.mono)
        if voter not in self.context.peers or voter in case.calls:
            return

        def on_reply(reply: Reply | None, _end: bool, _at: Instant) -> None:
            case.calls.pop(voter, None)
            if isinstance(reply, SnapshotNameIs):
                case.told[voter] = reply.name
                self._silent_since.pop(voter, None)

        case.calls[voter] = self.context.calls.open(voter, on_reply)
        self.context.send(voter, CallFrame(id=case.calls[voter], request=GetSnapshotName(index=case.snapshot.index)))

    def _decide(self, case: _Case, sound: bool, when: Instant) -> None:
        self._close()
        self._silent_since = {
            voter: since for voter, since in self._silent_since.items() if voter not in self.context.peers
        }
        if case.proven and not sound:
            self._tell_unsound(case, when)
        case.decided(case.snapshot, sound, when)

    def _tell_unsound(self, case: _Case, when: Instant) -> None:
        named = self.context.name_of
        against = ", ".join(sorted(named(voter) for voter, has in case.told.items() if has not in ("", case.name)))
        here, what = named(self.context.id), f"a snapshot at entry {case.snapshot.index}"
        self.chronicle.tell(when, "member", f"{here} doesn't take {what}: {against} have another one", host=here)

    def _close(self) -> None:
        """An answer that comes all the same finds nobody."""
        case, self._case = self._case, None
        for call in case.calls.values() if case is not None else ():
            self.context.calls.close(call)


def _name(snapshot: Snapshot) -> Digest:
    data_digest = hashlib.sha256(snapshot.data).hexdigest()
    return name_of(snapshot.index, snapshot.term, snapshot.configuration, data_digest)
