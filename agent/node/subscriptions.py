"""The observer's side of a subscription: agents that don't vote follow one voter's committed entries
(ARCHITECTURE.md "Membership and links").

An observer is linked with the voter that it follows (agent.node.choosing), and with all only while it has none or asks
them about a snapshot. What it took it tells, so that the voter sends on; a snapshot's parts are kept over a change of
voters. What comes behind a snapshot waits until that is vouched for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection

from msgspec import Struct, field

from agent.model.types import AgentId
from agent.node.choosing import links_for, voter_for
from agent.node.chronicle import Chronicle
from agent.node.context import Context, Lead
from agent.node.effects import Want
from agent.node.followers import WINDOW_PARTS
from agent.node.instant import Instant
from agent.node.machine import are_readable
from agent.node.messages import (
    Failed,
    FollowLedger,
    Frame,
    Ledger,
    Reply,
    ReplyFrame,
    SnapshotPart,
    TakenFrame,
    Unheard,
)
from agent.node.vouching import Vouching
from agent.raft import ObservationRefused, Snapshot
from agent.swim import MemberState

TAKEN_EVERY_PARTS = 2  # half of the voter's window: it never runs dry, and a part in two costs an answer
RETRY_S = 0.5  # after a voter ended the stream, or said what can't be; another one is picked then, if there is one
LEADERLESS_S = 2.0  # a voter without a leader for so long may have been removed while it was away: it asks others

# A link takes some round trips. Who has nobody to follow for so long tries all voters at once, and takes the first.
ALONE_S = 0.5

# A voter that names no coordinator for so long may be cut off itself; one that doesn't know us as a member yet says
# nothing at all. Another one is asked.
SILENT_S = 2.0

# A snapshot that nobody could decide on for so long (agent.node.vouching): another voter may have one that is.
UNDECIDED_S = 5.0

# A voter that was no good is tried again after so long: it may only have been cut off, and who follows it otherwise
# stays with another one for good. One that still is none costs `SILENT_S` then.
AVOIDED_S = 300.0

# A voter that is followed for less isn't blamed for what the coordinator didn't hear: this host was away itself.
BLAMELESS_S = 10.0

COMPARES_CHAINS = 2  # the version of frames (agent.node.versions) since which a voter compares `FollowLedger.chain`

# Between two looks at which members are reached through no voter: one that was away through several changes of voters
# knows nobody whom to dial, and a voter may not pass on what others report, or the ledger to them. The coordinator
# dials them.
SEEK_S = 10.0


class Arriving(Struct):
    """A snapshot on its way, as far as it is here. It is the same on every voter that names it so."""

    index: int = 0
    digest: str = ""
    data: bytearray = field(default_factory=bytearray)

    def add(self, part: SnapshotPart, max_bytes: int) -> Snapshot | None:
        """The snapshot, once all of it is here. Raises ObservationRefused for a part that doesn't continue it."""
        if (part.index, part.digest) != (self.index, self.digest):
            self.forget()
            self.index, self.digest = part.index, part.digest
        end = part.offset + len(part.data)
        if (
            part.offset != len(self.data)
            or end > part.total
            or part.total > max_bytes
            or (end < part.total and not part.data)
        ):
            self.forget()
            raise ObservationRefused(f"a part of a snapshot from {part.offset} on doesn't continue what is here")
        self.data += part.data
        if len(self.data) < part.total:
            return None
        data, digest = bytes(self.data), self.digest
        self.forget()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ObservationRefused("a snapshot isn't what its digest says")
        return Snapshot(index=part.index, term=part.term, configuration=part.configuration, data=data)

    def forget(self) -> None:
        self.index, self.digest = 0, ""
        self.data.clear()


class Following(Struct):
    """Idle on a voter that has a leader. `max_snapshot_bytes`: no larger snapshot is gathered. `reached`: who has
    a link with a voter, is heard through it and kept up with the ledger, as the coordinator knows.

    `_taken`: parts of this subscription that were taken, `_told` of them are known to the voter. `_patient_until`: by
    then the voter that we follow has to name a coordinator; None while it does. `_avoided`: voters that were no good,
    each until then or until none is left; `_left`: the one whose link broke, until another is followed.
    `_searching_since`: we have nobody to follow. `_alone_since`: no voter that our ledger names is linked; after a
    while anybody linked is asked, since the voters may be others by now: a host may be enrolled, or come back, when
    all founders are gone. `_judged`: the snapshot that is whole and not decided on yet, `_behind` what came behind it.
    `_wanted`: the links last asked for; `_meets`: those that are awaited at a start were among them.
    """

    context: Context
    vouching: Vouching
    chronicle: Chronicle
    max_snapshot_bytes: int
    reached: Callable[[Instant], Collection[AgentId]]
    _arriving: Arriving = field(default_factory=Arriving)
    _judged: Snapshot | None = None
    _judged_until: float = float("inf")
    _behind: list[Ledger] = field(default_factory=list)
    _taken: int = 0
    _told: int = 0
    _voter: AgentId | None = None
    _followed_since: float = 0.0
    _call: int = 0
    _retry_at: float = 0.0
    _avoided: dict[AgentId, float] = field(default_factory=dict)
    _left: AgentId | None = None
    _searching_since: float | None = None
    _wanted: frozenset[AgentId] = frozenset()
    _patient_until: float | None = None
    _leaderless_since: float | None = None
    _alone_since: float | None = None
    _lost: bool = False
    _told_apart: bool = False
    _meets: bool = True
    _absent: frozenset[AgentId] = frozenset()
    _seek_at: float | None = None
    _pumped_at: float = float("-inf")

    def begin(self, when: Instant) -> None:
        """What is here is applied. An agent that needs no vote first meets the others: an older disk may have been put
        back.
        """
        context, state = self.context, self.context.state
        context.raft.await_peers(state.members.keys() - state.expelled - {context.id}, when.mono)
        self.want()

    def pump(self, when: Instant) -> None:
        """Follow the right voter, or nobody if we vote ourselves; and link with those that this needs."""
        self._pumped_at, absent = when.mono, self._absent
        self._seek(when)
        if self._is_fed:
            self._leaderless_since = self._alone_since = self._searching_since = None
            if self._absent == absent and not self._meets:
                return  # who counts and who is a member changes with a call of `want`
        else:
            self._notice_alone(when)
            self._choose(when)
            self._notice_searching(when)
        if self.wanted() != self._wanted:
            self.want()
        self._meets = bool(self.context.raft.awaited)

    def link_up(self, peer: AgentId) -> None:
        """If we coordinate, tell a host that isn't heard, or stays behind: to the host itself all may look well."""
        if peer in self._absent:
            self.context.send(peer, Unheard())

    def unheard(self, sender: AgentId, when: Instant) -> None:
        """A voter says that the one that we follow withholds something: try another, whoever is right.

        The coordinator may be a voter that our ledger doesn't name yet, as far as it was let through.
        """
        context = self.context
        blamed = self._voter not in (None, sender) and when.mono >= self._followed_since + BLAMELESS_S
        if blamed and (sender in context.raft.configuration.voters or sender == context.leader):
            self._give_up(when)

    def asked(self, sender: AgentId, index: int, when: Instant) -> None:
        """A voter asks what snapshot we have there: it was offered one that neither of us has got to. So the one that
        we follow leads us nowhere, and may need our word, which we can give once another one has led us on."""
        if sender == self._voter and index > self.context.raft.commit:
            self._give_up(when)

    def _choose(self, when: Instant) -> None:
        for voter in [voter for voter, until in self._avoided.items() if when.mono >= until]:
            del self._avoided[voter]
        impatient = self._patient_until is not None and when.mono >= self._patient_until
        if self._voter is not None and (impatient or when.mono >= self._judged_until):
            self._avoid(when)
        wanted = self._choice(when) if when.mono >= self._retry_at else self._voter
        if wanted == self._voter or self.context.state.index < self.context.raft.commit:
            return  # what is here is applied first: which history it is has to be told
        self._leave()
        if wanted is None:
            if self.context.raft.leader is not None:
                self._arriving.forget()  # a leader feeds this log now
            return

        def on_reply(reply: Reply | None, end: bool, at: Instant) -> None:
            self._on_reply(reply, end, at)

        self._voter = self.context.followed = wanted
        self._left, self._followed_since = None, when.mono
        self._patient_until = when.mono + SILENT_S
        arriving = self._arriving
        request = FollowLedger(
            index=self.context.raft.commit + 1,
            snapshot=arriving.index,
            digest=arriving.digest,
            offset=len(arriving.data),
            chain=self.context.state.chain,
        )
        self._call = self.context.call(wanted, request, on_reply)

    def want(self) -> None:
        """Ask for the links that are wanted; also when only the members' addresses changed."""
        self._wanted = self.wanted()
        self.context.emit(Want(peers=self._wanted))

    def wanted(self) -> frozenset[AgentId]:
        """Whom to link with: the voters, or the one to follow; every member once no voter is to be had; and, as
        coordinator, those without a link to any voter.
        """
        configuration, state, me = self.context.raft.configuration, self.context.state, self.context.id
        others = frozenset(state.members) if self._lost else self._absent & state.members.keys()
        others |= self.context.raft.awaited
        if me in configuration:
            return frozenset((*configuration.voters, *configuration.learners, *others)) - {me} - state.expelled
        voters = [voter for voter in configuration.voters if voter not in state.expelled]
        shunned = {voter for voter in voters if voter in self._avoided or voter == self._left or self._is_gone(voter)}
        every = self._judged is not None or self._searches_all
        links = links_for(me, voters, followed=self._voter, shunned=shunned, every=every)
        return (links | others) - {me} - state.expelled

    def _is_gone(self, voter: AgentId) -> bool:
        return self.context.swim.state_of(voter) in (MemberState.DEAD, MemberState.LEFT)

    @property
    def _searches_all(self) -> bool:
        since = self._searching_since
        return since is not None and self._pumped_at >= since + ALONE_S

    def _notice_searching(self, when: Instant) -> None:
        if self._voter is not None or self.context.id in self.context.raft.configuration:
            self._searching_since = None
        elif self._searching_since is None:
            self._searching_since = when.mono

    def hears(self, sender: AgentId, frame: Frame) -> bool:
        """Whether a frame of an agent that our ledger doesn't name (yet) is part of the ledger that we asked it for."""
        return sender == self._voter and isinstance(frame, ReplyFrame)

    @property
    def _is_fed(self) -> bool:
        """Whether a leader feeds this log, and nobody is followed: then there is nothing to do, which is the rule on
        voters.
        """
        raft = self.context.raft
        fed = self._voter is None and not self._lost and raft.leader is not None
        return fed and self.context.id in raft.configuration

    def _notice_alone(self, when: Instant) -> None:
        context, voters = self.context, self.context.raft.configuration.voters
        alone = context.raft.leader is None and (self._voter is None or self._lost)
        alone = alone and (voters != (context.id,) or context.raft.fenced)
        alone = alone and not any(voter in context.peers for voter in voters)
        if not alone:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = when.mono
        lost = self._alone_since is not None and when.mono >= self._alone_since + LEADERLESS_S
        self._lost = lost

    def _seek(self, when: Instant) -> None:
        absent: frozenset[AgentId] = frozenset()
        if not self.context.raft.is_leader:
            self._seek_at = None
        elif self._seek_at is None or when.mono < self._seek_at:
            self._seek_at = self._seek_at or when.mono + SEEK_S
            return
        else:
            self._seek_at = when.mono + SEEK_S
            absent = frozenset(self.context.state.members.keys() - set(self.reached(when)))
        self._absent = absent

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause."""
        retry_at, pumped_at, deadline = self._retry_at, self._pumped_at, float("inf")
        if retry_at > pumped_at:
            deadline = retry_at
        if self._leaderless_since is not None and pumped_at < self._leaderless_since + LEADERLESS_S < deadline:
            deadline = self._leaderless_since + LEADERLESS_S
        if self._patient_until is not None and pumped_at < self._patient_until < deadline:
            deadline = self._patient_until
        if pumped_at < self._judged_until < deadline:
            deadline = self._judged_until
        if self._alone_since is not None and pumped_at < self._alone_since + LEADERLESS_S < deadline:
            deadline = self._alone_since + LEADERLESS_S
        for until in self._avoided.values():
            if pumped_at < until < deadline:
                deadline = until
        if self._searching_since is not None:
            for tried_at in (self._searching_since + ALONE_S, self._searching_since + 2 * ALONE_S):
                if pumped_at < tried_at < deadline:
                    deadline = tried_at
        return deadline

    def _choice(self, when: Instant) -> AgentId | None:
        configuration = self.context.raft.configuration
        if self.context.id in configuration and not self._left_behind(when):
            return None
        voters = self._anybody if self._lost else configuration.voters
        linked = {voter for voter in voters if voter in self.context.peers}
        if linked <= self._avoided.keys() and self._has_tried_all(when):
            self._avoided.clear()
        return voter_for(self.context.id, linked - self._avoided.keys())

    @property
    def _anybody(self) -> Collection[AgentId]:
        """A linked agent to follow; if this host may have decided something alone, one that compares histories."""
        peers, fenced = self.context.peers, self.context.raft.fenced
        return [peer.id for peer in peers.values() if not fenced or peer.frames >= COMPARES_CHAINS]

    def _has_tried_all(self, when: Instant) -> bool:
        """Whether every voter that is there has had time to link; a voter itself is linked with all of them."""
        since, configuration = self._searching_since, self.context.raft.configuration
        tried = self.context.id in configuration or self._avoided.keys() >= set(configuration.voters)
        return tried or self._lost or (since is not None and when.mono >= since + 2 * ALONE_S)

    def _left_behind(self, when: Instant) -> bool:
        """Whether nobody has led us for long. An agent that was removed meanwhile hears nothing of that from any
        leader.
        """
        if self.context.raft.leader is not None:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = when.mono
        since = self._leaderless_since
        return since is not None and when.mono >= since + LEADERLESS_S

    def _avoid(self, when: Instant) -> None:
        if self._voter is not None:
            self._avoided[self._voter] = when.mono + AVOIDED_S
        self._leave()

    def _leave(self) -> None:
        self.context.hang_up(self._call)
        self._voter, self._call, self._patient_until = None, 0, None
        self.context.followed = self.context.told = None
        self._taken = self._told = 0
        self._forget_judged()

    def _on_reply(self, reply: Reply | None, end: bool, when: Instant) -> None:
        believed = isinstance(reply, Ledger) and self._take(reply, when)
        if believed and not end:
            self._tell_taken()
            return
        if reply is not None:
            self._notice_apart(reply, when)
            self._give_up(when)
        else:
            self._left = self._voter  # its link broke: the next one at once
            self._leave()

    def _notice_apart(self, reply: Reply, when: Instant) -> None:
        """Log it once: this host follows nobody, and somebody has to do something."""
        if not isinstance(reply, Failed) or reply.fault.kind != "conflict" or self._told_apart:
            return
        self._told_apart = True
        here, there = self.context.own_name, self.context.name_of(self._voter or "")
        what = f"{here} decided something alone and can't follow {there}: {reply.fault.what}; install {here} anew"
        self.chronicle.tell(when, "member", what, host=here)

    def _give_up(self, when: Instant) -> None:
        self._avoid(when)
        self._retry_at = when.mono + RETRY_S

    def _tell_taken(self) -> None:
        self._taken += 1
        if self._judged is None:
            self._tell()

    def _tell(self) -> None:
        if self._voter is not None and self._taken - self._told >= TAKEN_EVERY_PARTS:
            self._told = self._taken
            self.context.send(self._voter, TakenFrame(id=self._call, parts=self._taken))

    def _take(self, part: Ledger, when: Instant) -> bool:
        raft = self.context.raft
        try:
            if part.snapshot is not None:
                snapshot = self._arriving.add(part.snapshot, self.max_snapshot_bytes)
                if snapshot is not None:
                    self._judge(snapshot, when)
            if not are_readable(part.entries):
                return False
            if part.entries and self._judged is not None:
                if len(self._behind) == WINDOW_PARTS:
                    return False
                self._behind.append(part)
            elif part.entries:
                self._arriving.forget()
                raft.observe(part.entries, part.commit, when.mono)
        except ObservationRefused:
            return False
        if part.leader is not None:
            self.context.told, self._patient_until = Lead(part.leader, part.term), None
        else:
            self.context.told = None
            self._patient_until = self._patient_until or when.mono + SILENT_S
        return True

    def _judge(self, snapshot: Snapshot, when: Instant) -> None:
        self._forget_judged()
        self._judged, self._judged_until = snapshot, when.mono + UNDECIDED_S
        self.vouching.judge("voter", snapshot, self._decided, when)

    def _forget_judged(self) -> None:
        if self._judged is not None:
            self.vouching.forget(self._judged)
        self._judged, self._judged_until = None, float("inf")
        self._behind.clear()

    def _decided(self, snapshot: Snapshot, sound: bool | None, when: Instant) -> None:
        if snapshot is not self._judged:
            return
        behind = tuple(self._behind)
        self._forget_judged()
        raft = self.context.raft
        try:
            if sound:
                raft.observe_snapshot(snapshot, when.mono)
                for part in behind:
                    raft.observe(part.entries, part.commit, when.mono)
        except ObservationRefused:
            sound = False
        if sound:
            self._tell()
        else:
            self._give_up(when)
