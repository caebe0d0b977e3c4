"""Who was away comes to believe the snapshot of a cluster that goes on, whoever was removed meanwhile without hearing
of it (agent.node.vouching): in all pasts of a small model, and in two of them played by real cores.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import combinations

from hypothesis import example, given
from hypothesis import strategies as st

from agent.node.machine import Compaction
from agent.node.vouching import is_vouched_for
from agent.raft import Configuration
from agent.raft.quorum import majority
from agent.state import EXPULSION_LEVEL
from tests.node.cluster import Cluster, Node
from tests.node.test_vouching import hearing_no_commit

NAME = "5" * 64
AWAY, LEADS, OTHERS = "a", "b", "cdefg"
MOST_LOST = 2
EVERY = 20  # entries between two snapshots

founders_of = st.sets(st.sampled_from(OTHERS[:3]), min_size=1).map(lambda others: frozenset({AWAY, LEADS, *others}))
hosts_of = st.sampled_from(OTHERS)
steps_of = st.lists(
    st.one_of(st.none(), st.tuples(st.sampled_from(("change", "send", "expel")), hosts_of)), max_size=20
)


@dataclass
class Past:
    """What `LEADS` did since `AWAY` went, which is a voter all the time: up to where each stored it, and heard that it
    is committed. `changes`: who votes from which entry on, as soon as it is stored (Raft §6). `expelled`: by which
    entry.
    """

    changes: list[tuple[int, frozenset[str]]]
    last: int = 0
    commit: int = 0
    stored: dict[str, int] = field(default_factory=lambda: dict.fromkeys((AWAY, *OTHERS), 0))
    heard: dict[str, int] = field(default_factory=lambda: dict.fromkeys((AWAY, *OTHERS), 0))
    expelled: dict[str, int] = field(default_factory=dict)

    @property
    def voters(self) -> frozenset[str]:
        return self.changes[-1][1]

    def voters_at(self, index: int) -> frozenset[str]:
        return next(voters for since, voters in reversed(self.changes) if since <= index)

    def change(self, host: str) -> None:
        """One at a time (thesis §4.1); what needs the one that is away is never committed."""
        voters = self.voters ^ {host}
        if self.changes[-1][0] <= self.commit and majority(len(voters)) < len(voters) <= 5:
            self.last += 1
            self.changes.append((self.last, voters))

    def expel(self, host: str) -> None:
        """It is told nothing from when that is committed, and leaves the voters by a change like any other."""
        if host not in self.expelled:
            self.last += 1
            self.expelled[host] = self.last

    def settle(self) -> None:
        """The last change is committed. One that isn't those whom it removes can undo: they may be elected."""
        for host in OTHERS:
            if host in self.voters and self.changes[-1][0] > self.commit:
                self.send(host)

    def send(self, host: str) -> None:
        """All entries, and up to where they are committed; who doesn't vote follows a voter."""
        if self.expelled.get(host, self.last + 1) <= self.commit:
            return
        up_to = self.last if host in self.voters else self.commit
        self.stored[host] = max(self.stored[host], up_to)
        self.heard[host] = max(self.heard[host], self.commit)
        stored = sorted((self.stored.get(voter, self.last) for voter in self.voters), reverse=True)
        self.commit = max(self.commit, stored[majority(len(stored)) - 1])

    def believers(self, index: int, lost: Collection[str]) -> set[str]:
        """Who has the snapshot at `index` in the end, which is all that the log begins with now."""
        there = {AWAY, *OTHERS} - set(lost)
        having = {LEADS} | {host for host in there if self.heard[host] >= index}
        having |= {host for host in there & self.voters if self.stored[host] >= index}
        offered = there - {host for host, since in self.expelled.items() if since <= self.commit}
        while more := {host for host in offered - having if self._believes(host, index, having, lost)}:
            having |= more
        return having

    def _believes(self, host: str, index: int, having: set[str], lost: Collection[str]) -> bool:
        known, offered = self.voters_at(self.stored[host]), self.voters_at(index)
        proven = {expelled for expelled, since in self.expelled.items() if since <= index}
        asked = (known | offered) - {host} - set(lost) - proven
        told = {voter: NAME if voter in having else "" for voter in asked}
        return is_vouched_for(NAME, host, known, offered, told, known & (proven | set(lost))) is True


UNAWARES: list[tuple[str, str] | None] = [
    ("change", "d"),
    ("send", "c"),
    ("send", "d"),
    ("expel", "c"),
    ("send", "d"),
    ("send", "c"),
    ("change", "c"),
    ("send", "d"),
    None,
    ("send", "d"),
]
"""`c` is expelled without hearing of it, and `d` votes in its place."""


@example(frozenset("abc"), UNAWARES)
@given(founders_of, steps_of)
def test_who_was_away_believes_what_a_majority_goes_on_with(
    founders: frozenset[str], steps: list[tuple[str, str] | None]
) -> None:
    """Whatever is lost then. Who was removed may be there, and know nothing of it or of what was committed."""
    past = Past([(0, founders)])
    for step in steps:
        match step:
            case None:
                past.last += 1
            case "change", host:
                past.change(host)
            case "expel", host:
                past.expel(host)
            case "send", host:
                past.send(host)
    past.settle()
    for lost in (lost for number in range(MOST_LOST + 1) for lost in combinations(OTHERS, number)):
        if len(past.voters.difference(lost)) >= majority(len(past.voters)):
            since = max((index for index in past.expelled.values() if index <= past.commit), default=1)
            for index in range(since, past.commit + 1):
                assert AWAY in past.believers(index, lost), (past, index, lost)


def propose(cluster: Cluster, leader: Node, *voters: Node) -> None:
    """Past the autopilot."""
    leader.up.context.raft.propose_configuration(Configuration.of([voter.id for voter in voters]), cluster.now)
    leader.up.on_deadline(leader.when)
    cluster.settle()


def write_up_to(leader: Node, index: int) -> None:
    """Instructions, whether or not anybody stores them."""
    raft = leader.up.context.raft
    for number in range(raft.last_index, 2 * index):
        if raft.last_index < index:
            leader.deploy(f"s{number}")
    assert raft.last_index >= index


def must_go_on(cluster: Cluster, leader: Node, away: Node, within_s: float) -> None:
    """`away` had to take a snapshot, and its word is needed from then on."""
    first = leader.up.context.raft.first_index
    assert first > away.up.context.raft.last_index + 1
    cluster.until(lambda: away.up.context.raft.commit >= first, within_s)
    request = leader.deploy("last")
    cluster.until(lambda: request in leader.answers)
    assert leader.result(request).outcome == "applied"


def test_of_four_voters_two_are_enough_where_one_was_removed_that_never_stored_the_entry() -> None:
    """Two stored it, of the three that are left, and one of these is lost: the others are a majority."""
    cluster = Cluster(5, compaction=Compaction(every_entries=EVERY, kept_entries=0))
    leader = cluster.elect()
    away, lost, removed, former = cluster.followers
    cluster.lost = lambda sender, to, frame: sender == away.name
    cluster.run(1.5)
    propose(cluster, leader, leader, away, lost, removed)  # which `away` hears, and the autopilot leaves: it is silent
    for node in (away, former):
        cluster.crash(node.name)
    cluster.lost = lambda sender, to, frame: False
    write_up_to(leader, EVERY - 3)
    cluster.cut(removed.name)
    write_up_to(leader, EVERY + 1)
    propose(cluster, leader, leader, away, lost)
    cluster.crash(lost.name)
    cluster.start(away.name)
    cluster.mend()
    must_go_on(cluster, leader, away, within_s=5.0)
    cluster.until(lambda: removed.id not in removed.up.context.raft.configuration)


def test_who_was_removed_unawares_follows_nobody_that_is_behind_too() -> None:
    """It stored the entry, and one that leads on has to tell it that this is committed: its word is needed."""
    cluster = Cluster(4, seed=1, compaction=Compaction(every_entries=EVERY, kept_entries=0))
    leader = cluster.elect()
    raft = leader.up.context.raft
    away, removed = (node for node in cluster.followers if node.id in raft.configuration)
    (joins,) = (node for node in cluster.followers if node.id not in raft.configuration)
    cluster.crash(away.name)
    write_up_to(leader, EVERY - 3)
    hearing_no_commit(cluster, removed)
    write_up_to(leader, EVERY + 1)
    for voters in ((leader, away, removed, joins), (leader, away, joins)):
        propose(cluster, leader, *voters)
        cluster.until(lambda: raft.configuration_committed)
    cluster.lost = lambda sender, to, frame: False
    cluster.crash(joins.name)
    cluster.start(away.name)
    must_go_on(cluster, leader, away, within_s=10.0)


def test_who_was_expelled_unawares_holds_up_no_snapshot_that_proves_it() -> None:
    """Another came to vote in its place, which is lost before the one that was away heard of either change."""
    cluster = Cluster(4, compaction=Compaction(every_entries=EVERY, kept_entries=0))
    leader = cluster.elect()
    raft = leader.up.context.raft
    away, expelled = (node for node in cluster.followers if node.id in raft.configuration)
    (joins,) = (node for node in cluster.followers if node.id not in raft.configuration)
    cluster.until(lambda: leader.up.context.state.level >= EXPULSION_LEVEL)
    known = away.up.context.raft.last_index
    cluster.crash(away.name)
    propose(cluster, leader, leader, away, expelled, joins)
    cluster.until(lambda: raft.configuration_committed)
    hearing_no_commit(cluster, expelled)
    assert cluster.expel(expelled.name, at=leader.name).outcome == "applied"
    propose(cluster, leader, leader, away, joins)
    cluster.until(lambda: raft.configuration_committed)
    write_up_to(leader, 2 * EVERY + 1)
    cluster.lost = lambda sender, to, frame: False
    cluster.crash(joins.name)
    cluster.start(away.name)
    assert raft.first_index > known + 1, "it has to take a snapshot"
    assert expelled.id not in expelled.up.context.state.expelled, "it is there, and doesn't know"
    cluster.until(lambda: expelled.id in away.up.context.state.expelled, within_s=10.0)
    request = leader.deploy("last")
    cluster.until(lambda: request in leader.answers)
    assert leader.result(request).outcome == "applied"
