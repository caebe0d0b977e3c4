"""Whether other voters have the same snapshot: no signature shows what one leaves out (agent.state.proof).

All agents take their snapshots at the same entries, with the same bytes, so each has one name everywhere. An agent that
is offered one asks the voters that it knows what they have at that index, and believes it once enough of them have the
same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct, field

from agent.model.cluster import MAX_VOTERS
from agent.model.types import AgentId, Digest
from agent.node.chronicle import Chronicle
from agent.node.context import Context
from agent.node.instant import Instant
from agent.node.messages import Frame, GetSnapshotName, Reply, ReplyFrame, SnapshotNameIs
from agent.node.names import Name, Names
from agent.raft import Configuration, Snapshot
from agent.raft.quorum import blocking_of_others, majority_of_others
from agent.state import ClusterState, proven_expelled

ASK_AGAIN_S = 0.25  # a voter that hasn't got there yet has applied some entries more by then
ANSWER_S = 4 * ASK_AGAIN_S  # a question may be lost, e.g. where nobody knows us yet: then it is asked anew
SILENT_S = 2.0  # a voter that doesn't answer for so long is gone: a broken link is noticed within it (agent.net.links)

# Voters of a snapshot whose majority counts: of fewer, one that lies could be it.
LEAST_OFFERED = 3

Decided = Callable[[Snapshot, bool | None, Instant], None]
"""(snapshot, whether it is sound, when); None: it is judged no more, and may be offered again."""

Source = Literal["leader", "voter"]
"""Who sends it: a leader to who votes or learns, a voter to an observer."""


def name_of(index: int, term: int, configuration: Configuration, data_digest: Digest) -> Digest:
    """One name for a snapshot and everything that comes with it; `data_digest` is its data's sha256."""
    whole = msgspec.msgpack.encode((index, term, configuration.encode(), data_digest))
    return hashlib.sha256(whole).hexdigest()


def is_vouched_for(
    name: Digest,
    me: AgentId,
    voters: Collection[AgentId],
    offered: Collection[AgentId],
    told: Mapping[AgentId, Name],
    gone: Collection[AgentId],
) -> bool | None:
    """Whether a snapshot is the voters' own; None while that is open.

    `voters` are those that `me` knows, `offered` those of the snapshot. `told`: what each that answered has at its
    index, "" for nothing; not of voters only. `gone`: who is silent, or was expelled by what the snapshot proves,
    and whose word doesn't count.

    A majority that has it decides, and as many that have another one as leave none. Where nobody has, it is enough that
    one has it, and that this and those that are gone are so many that the others are no majority: else a cluster that
    lost some voters would lose the rest. Who is no voter, as far as we know, is enough only when all that we know are
    gone. As many of the snapshot's own voters, at least three, do too: those that we know may have been replaced, and
    be behind as we are.

    Who goes on to answer "" is never taken for gone: while the voters are there, a minority mustn't decide, and of one
    that lies at an entry where nobody takes snapshots all the others say that for ever. It is also never needed. A
    majority stored the snapshot's last entry, of its own voters or of one more or less, and remembers it once that is
    known to be committed; of four without one of them, these are half. Of voters that have got to different entries the
    one behind can come to lead, and what it offers all of them have had (`RaftTiming.unbelieved_s`).
    """
    others, wanted = set(voters) - {me}, majority_of_others(voters, me)
    same = {agent for agent, has in told.items() if has == name}
    another = {agent for agent, has in told.items() if has not in ("", name)}
    if len(same & others) >= wanted:
        return True
    if len(others - another) < wanted:
        return False
    if not same or another:
        return None
    lost = others & set(gone)
    may_have = same | lost if same & others or lost == others else same
    if len(others & may_have) >= blocking_of_others(voters, me):
        return True
    theirs = set(offered) - {me}
    return True if len(offered) >= LEAST_OFFERED and len(theirs & may_have) >= blocking_of_others(offered, me) else None


class _Question(NamedTuple):
    """An open call, and since when (monotonic)."""

    call: int
    asked_at: float


class _Case(Struct):
    """A snapshot that is judged, since the term `term`. `open`: voters that were asked and haven't answered.

    `expelled`: by the instructions in it. Their agents may not know, and have come no further for it.
    """

    snapshot: Snapshot
    name: Digest
    proven: bool
    expelled: Collection[AgentId]
    decided: Decided
    term: int
    ask_at: float
    told: dict[AgentId, Name] = field(default_factory=dict)
    open: dict[AgentId, _Question] = field(default_factory=dict)


class Vouching(Struct):
    """`proves`: a snapshot's state, if its signatures hold. Of each source one is judged, the one offered last.

    `names`: of our own newest snapshots. `_silent_since`: the voters that were asked and haven't answered since; a
    leader may have a newer snapshot before that wait is over, so it goes on from one to the next.
    """

    context: Context
    chronicle: Chronicle
    proves: Callable[[Snapshot], ClusterState | None]
    names: Names = field(default_factory=Names)
    _cases: dict[Source, _Case] = field(default_factory=dict)
    _silent_since: dict[AgentId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.context.raft.snapshot is not None:
            self.installed(self.context.raft.snapshot)

    def took(self, index: int, data_digest: Digest) -> None:
        """We have taken a snapshot, whether or not we keep it."""
        raft = self.context.raft
        term = raft.term_at(index)
        if term is not None:
            self.names.note(index, name_of(index, term, raft.configuration_at(index), data_digest))

    def installed(self, snapshot: Snapshot) -> None:
        """It is ours now."""
        self.names.note(snapshot.index, _name(snapshot))

    def serve(self, peer: AgentId, call: int, request: GetSnapshotName) -> None:
        """A peer asks what we have there. A fenced agent has forgotten that, and stays silent as if it were gone."""
        if not self.context.raft.fenced:
            self.context.reply(peer, call, SnapshotNameIs(name=self.names.at(request.index)))

    def hears(self, sender: AgentId, frame: Frame) -> bool:
        """Whether a frame of an agent that our ledger doesn't name (yet) is an answer that we asked for."""
        return isinstance(frame, ReplyFrame) and any(sender in case.open for case in self._cases.values())

    def link_up(self, peer: AgentId) -> None:
        """It can answer now, and what it was asked before is lost."""
        self._silent_since.pop(peer, None)
        for case in self._cases.values():
            self._give_up(case, peer)
            case.ask_at = float("-inf")

    def judge(self, source: Source, snapshot: Snapshot, decided: Decided, when: Instant) -> None:
        """Call `decided` with the snapshot once it is. One that this source offered before is
        dropped without a word.
        """
        self._close(source)
        raft, state = self.context.raft, self.proves(snapshot)
        proven, voters = state is not None, {*raft.configuration.voters, *snapshot.configuration.voters}
        expelled = proven_expelled(self.context.state, state, voters) if state is not None else ()
        self._cases[source] = _Case(snapshot, _name(snapshot), proven, expelled, decided, raft.term, when.mono)

    def forget(self, snapshot: Snapshot) -> None:
        """Nobody wants to know any more."""
        for source, case in tuple(self._cases.items()):
            if case.snapshot is snapshot:
                self._end(source)

    def pump(self, when: Instant) -> None:
        """Ask, and decide if that can be."""
        for source, case in tuple(self._cases.items()):
            if self._cases.get(source) is case:
                self._go_on(source, case, when)

    def _go_on(self, source: Source, case: _Case, when: Instant) -> None:
        raft = self.context.raft
        if source == "leader" and (raft.commit >= case.snapshot.index or raft.term != case.term):
            self._end(source)  # it is needed no more, or another leader has its own
            case.decided(case.snapshot, None, when)
            return
        voters = raft.configuration.voters
        if case.proven and when.mono >= case.ask_at:
            case.ask_at = when.mono + ASK_AGAIN_S
            self._ask_around(case, voters, when)
        silent = {voter for voter, since in self._silent_since.items() if when.mono >= since + SILENT_S}
        told = {agent: has for agent, has in case.told.items() if agent not in case.expelled}
        gone = silent.union(case.expelled)
        offered = case.snapshot.configuration.voters
        sound = case.proven and is_vouched_for(case.name, self.context.id, voters, offered, told, gone)
        if sound is not None:
            self._end(source)
            if case.proven and not sound:
                self._tell_unsound(case, when)
            case.decided(case.snapshot, sound, when)

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause."""
        return min([case.ask_at for case in self._cases.values()]) if self._cases else float("inf")

    def _ask_around(self, case: _Case, voters: Collection[AgentId], when: Instant) -> None:
        """Ask voters by our ledger, whose silence we count, and some by the snapshot's, which may be anybody."""
        known = set(voters) - {self.context.id}
        self._silent_since = {voter: since for voter, since in self._silent_since.items() if voter in known}
        linked = self.context.peers.keys()
        strangers = set(case.snapshot.configuration.voters) & linked - known - {self.context.id}
        for voter in (*sorted(known), *sorted(strangers)[:MAX_VOTERS]):
            if case.told.get(voter):
                continue
            if voter in known:
                self._silent_since.setdefault(voter, when.mono)
            if voter in linked:
                self._ask(case, voter, when)

    def _ask(self, case: _Case, voter: AgentId, when: Instant) -> None:
        question = case.open.get(voter)
        if question is not None and when.mono < question.asked_at + ANSWER_S:
            return
        self._give_up(case, voter)

        def on_reply(reply: Reply | None, _end: bool, _at: Instant) -> None:
            case.open.pop(voter, None)
            if isinstance(reply, SnapshotNameIs):
                case.told[voter] = reply.name
                self._silent_since.pop(voter, None)

        call = self.context.call(voter, GetSnapshotName(index=case.snapshot.index), on_reply)
        case.open[voter] = _Question(call, when.mono)

    def _give_up(self, case: _Case, voter: AgentId) -> None:
        """An answer that still comes finds nobody."""
        question = case.open.pop(voter, None)
        if question is not None:
            self.context.calls.close(question.call)

    def _end(self, source: Source) -> None:
        """The next snapshot comes at another time: who has a link can answer then."""
        self._close(source)
        if not self._cases:
            peers = self.context.peers
            self._silent_since = {voter: since for voter, since in self._silent_since.items() if voter not in peers}

    def _close(self, source: Source) -> None:
        case = self._cases.pop(source, None)
        if case is not None:
            for voter in tuple(case.open):
                self._give_up(case, voter)

    def _tell_unsound(self, case: _Case, when: Instant) -> None:
        named = self.context.name_of
        against = ", ".join(sorted(named(voter) for voter, has in case.told.items() if has not in ("", case.name)))
        here, what = named(self.context.id), f"a snapshot at entry {case.snapshot.index}"
        self.chronicle.tell(when, "member", f"{here} doesn't take {what}: {against} have another one", host=here)


def _name(snapshot: Snapshot) -> Digest:
    data_digest = hashlib.sha256(snapshot.data).hexdigest()
    return name_of(snapshot.index, snapshot.term, snapshot.configuration, data_digest)
