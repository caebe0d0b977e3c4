"""Epochs on an agent: beginning another one when the majority is lost for good, and following into it.

Peers of another epoch are linked, but only this counts between them: the one that is behind asks for the snapshot that
the later epoch began with or has now, verifies it (agent.state.epochs), and starts again from it.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct, field

from agent import errors, raft
from agent.instruction import check_times, unverified_claims
from agent.model.api import Recovery
from agent.model.instruction import InstructionResult
from agent.model.ledger import InstructionEntry, encode_entry
from agent.model.status import AgentRef
from agent.model.types import AgentId
from agent.node.auditing import audit_of
from agent.node.context import Context, Peer
from agent.node.effects import Audit, BeginEpoch
from agent.node.followers import Parts
from agent.node.instant import Instant
from agent.node.machine import Machine
from agent.node.messages import CallFrame, FetchEpoch, Frame, Ledger, Reply, ReplyFrame, SnapshotPart
from agent.node.subscriptions import Arriving
from agent.state import ClusterState, SnapshotRefused, begin_epoch, check_crossing, decode_snapshot, encode_snapshot

# Without a coordinator for so long: an election takes a second or two, and a restart of all agents some more.
LOST_AFTER_S = 10.0


class Beginning(NamedTuple):
    """The next epoch's first snapshot, the operator's answer, and the entries up to it that nobody has applied yet."""

    snapshot: raft.Snapshot
    result: InstructionResult
    past: tuple[Audit, ...]


class Epochs(Struct):
    """`others`: linked peers of another epoch. `refused`: why a later epoch's proof was invalid, by the peer that
    offered it.

    `_asked`: what each of them asks here, until it is answered.
    """

    context: Context
    machine: Machine
    max_snapshot_bytes: int
    others: dict[AgentId, Peer] = field(default_factory=dict)
    refused: dict[AgentId, str] = field(default_factory=dict)
    _arriving: dict[AgentId, Arriving] = field(default_factory=dict)
    _asked: dict[AgentId, tuple[int, FetchEpoch]] = field(default_factory=dict)
    _parts: Parts = field(default_factory=Parts)
    _leaderless_since: float | None = None
    _left: bool = False

    # Peers of another epoch

    def link_up(self, peer: Peer) -> bool:
        """Whether the peer is of another epoch, so that it is told nothing but that."""
        if peer.epoch == self.context.state.epoch:
            return False
        self.others[peer.id] = peer
        if peer.epoch > self.context.state.epoch:
            self._arriving.pop(peer.id, None)
            self._ask(peer, FetchEpoch())
        return True

    def _ask(self, peer: Peer, request: FetchEpoch) -> None:
        def on_reply(reply: Reply | None, _end: bool, _at: Instant) -> None:
            if isinstance(reply, Ledger) and reply.snapshot is not None:
                self._take(peer, reply.snapshot)

        self.context.call(peer.id, request, on_reply)

    def _take(self, peer: Peer, part: SnapshotPart) -> None:
        """Take a part, and ask for the next; a peer whose parts don't fit together isn't asked any more."""
        arriving = self._arriving.setdefault(peer.id, Arriving())
        try:
            snapshot = arriving.add(part, self.max_snapshot_bytes)
        except raft.ObservationRefused as error:
            self.refused[peer.id] = f"epoch {peer.epoch}, and not all of its proof: {error}"
            return
        if snapshot is None:
            self._ask(peer, FetchEpoch(index=part.index, offset=part.offset + len(part.data)))
        else:
            self._offered(peer, snapshot)

    def link_down(self, peer: AgentId, when: Instant) -> bool:
        """Likewise, when its link is gone."""
        if self.others.pop(peer, None) is None:
            return False
        self._arriving.pop(peer, None)
        self._asked.pop(peer, None)
        self.context.calls.peer_lost(peer, when)
        return True

    def frame(self, sender: AgentId, frame: Frame, when: Instant) -> bool:
        """Whether the frame is of a peer of another epoch; everything but the one question and its
        answer is dropped.
        """
        if sender not in self.others:
            return False
        match frame:
            case CallFrame(id=call, request=FetchEpoch() as asked):
                self._asked[sender] = call, asked
                self._answer()
            case ReplyFrame(id=call, reply=reply, end=end):
                self.context.calls.replied(sender, call, reply, end, when)
        return True

    def _answer(self) -> None:
        """For members only. A new host may ask before the ledger here names it, and doesn't ask again."""
        snapshot = self.context.raft.snapshot  # since this epoch began there always is one, and it is of it
        if snapshot is None:
            return
        for peer in sorted(self._asked.keys() & self.context.state.members.keys()):
            call, asked = self._asked.pop(peer)
            start = asked.offset if asked.index == snapshot.index else 0
            self.context.reply(peer, call, Ledger(snapshot=self._parts.at(snapshot, start)))

    def _offered(self, peer: Peer, snapshot: raft.Snapshot) -> None:
        if self._left:
            return
        ours = self.context.state
        try:
            offered = decode_snapshot(snapshot.data, verify=True, founded_as=ours)
            if peer.id not in offered.members or offered.index != snapshot.index:
                raise SnapshotRefused("it doesn't fit who offers it")
            check_crossing(ours, offered)
        except SnapshotRefused as error:
            self.refused[peer.id] = f"epoch {peer.epoch}, which nothing proves: {error}"
            return
        self._left = True
        what = f"epoch {offered.epoch} began on {self.context.name_of(peer.id)} or is followed there; this agent joins"
        lost = f"; what it knew of epoch {ours.epoch} up to entry {ours.index} ends here"
        self.context.emit(BeginEpoch(snapshot=snapshot, what=what + lost))

    # Beginning one

    def pump(self, when: Instant) -> None:
        """Answer peers that have become members; notice for how long nobody has coordinated."""
        if self._asked:
            self._answer()
        if self.context.leader is not None:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = when.mono

    def look(self, when: Instant) -> Recovery:
        """What an operator has to know and to sign."""
        context, (head, _) = self.context, self._head()
        voters = sorted(context.raft.configuration.voters, key=context.name_of)
        lost = [voter for voter in voters if not context.reaches(voter)]
        index = context.raft.last_index if self._is_loading else head.index  # it may know most
        return Recovery(
            survivor=self._ref(context.id),
            epoch=context.state.epoch,
            revision=head.targets["cluster"].revision if "cluster" in head.targets else 0,
            term=context.raft.term_at(index) or 0,
            index=index,
            chain=head.chain,
            committed=context.raft.commit,
            voters=tuple(self._ref(voter) for voter in voters),
            lost=tuple(self._ref(voter) for voter in lost),
            unfit=self._unfit(head, when),
        )

    def begin(self, token: str, body: bytes, when: Instant) -> Beginning:
        """What to begin the next epoch with. Nothing has changed by then.

        Raises the MusterError that the instruction is refused with; Conflict while a majority may be there.
        """
        head, past = self._head()
        if unfit := self._unfit(head, when):
            raise errors.Conflict(unfit, where="cluster", fix="Sign changes as always, e.g. `agent status` first.")
        claims = unverified_claims(token)
        if claims.act != "recover":
            raise errors.InputError(f"{claims.act} begins no epoch", where="act")
        check_times(claims, when.wall_ms / 1000)
        entry = InstructionEntry(at=when.wall_ms, token=token, body=body, via=self.context.id)
        state, result = begin_epoch(head, entry)
        past.append(audit_of(state.index, encode_entry(entry), head.chain, state.at, result))
        self._left = True
        configuration = raft.Configuration(voters=(self.context.id,))
        term = self.context.raft.term + 1
        data = encode_snapshot(state)
        snapshot = raft.Snapshot(index=state.index, term=term, configuration=configuration, data=data)
        return Beginning(snapshot, result, tuple(past))

    def _head(self) -> tuple[ClusterState, list[Audit]]:
        """Our state with everything after it in the log. Acknowledged entries may be among those without our knowing
        it.
        """
        index = self.context.state.index
        return self.machine.ahead(() if self._is_loading else self.context.raft.entries_behind(index))

    @property
    def _is_loading(self) -> bool:
        """Whether the log begins after a snapshot that isn't in our state yet: the disk has it first."""
        return self.context.raft.first_index > self.context.state.index + 1

    def _unfit(self, head: ClusterState, when: Instant) -> str:
        if self._left:
            return "another epoch is beginning here already"
        if self._is_loading:
            return "a snapshot is being loaded here: look again in a moment"
        if self.context.id not in head.members:
            return f"{self.context.own_name} isn't a member, as far as its own ledger goes"
        leader, since = self.context.leader, self._leaderless_since
        if leader is not None:
            return f"the majority is there: {self.context.name_of(leader)} coordinates"
        if since is None or when.mono < since + LOST_AFTER_S:
            return f"nobody coordinates since less than {LOST_AFTER_S:.0f} s: there may be an election"
        return ""

    def _ref(self, agent: AgentId) -> AgentRef:
        return AgentRef(id=agent, name=self.context.name_of(agent))
