"""Snapshots are believed when a majority of the voters has the same (agent.node.vouching)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.model.instruction import Scale
from agent.node.followers import WINDOW_PARTS
from agent.node.messages import CallFrame, Frame, GetSnapshotName, Ledger, RaftFrame, ReplyFrame, SnapshotNameIs
from agent.node.subscriptions import RETRY_S
from agent.node.vouching import KEPT_NAMES, SILENT_S, is_vouched_for
from agent.raft.messages import InstallSnapshot
from agent.raft.quorum import majority
from agent.state import decode_snapshot, encode_snapshot
from tests.node.cluster import OFTEN, Cluster, Node

IDS = "abcdefg"
SAME, ANOTHER = "5" * 64, "a" * 64
voters_of = st.sets(st.sampled_from(IDS), min_size=1, max_size=5)
told_by = st.dictionaries(st.sampled_from(IDS[1:]), st.sampled_from([SAME, ANOTHER, ""]))
silent_of = st.sets(st.sampled_from(IDS[1:]))


class TestTheRule:
    """`a` asks."""

    @given(voters_of, told_by)
    def test_a_majority_with_the_same_decides(self, voters: set[str], told: dict[str, str]) -> None:
        same = [voter for voter in voters - {"a"} if told.get(voter) == SAME]
        if len(same) >= majority(len(voters)):
            assert is_vouched_for(SAME, "a", voters, voters, told, ()) is True

    @given(voters_of, told_by)
    def test_while_nobody_is_gone_a_minority_never_does(self, voters: set[str], told: dict[str, str]) -> None:
        same = [voter for voter in voters - {"a"} if told.get(voter) == SAME]
        if len(same) < majority(len(voters)) and len(voters - {"a"}) >= majority(len(voters)):
            assert is_vouched_for(SAME, "a", voters, voters, told, ()) is not True

    @given(voters_of, told_by, silent_of)
    def test_nothing_is_believed_that_nobody_has(self, voters: set[str], told: dict[str, str], gone: set[str]) -> None:
        nobody = {agent: has for agent, has in told.items() if has != SAME}
        assert is_vouched_for(SAME, "a", voters, voters, nobody, gone) is not True

    @given(voters_of, told_by, silent_of)
    def test_more_that_have_the_same_never_speak_against_it(
        self, voters: set[str], told: dict[str, str], gone: set[str]
    ) -> None:
        if is_vouched_for(SAME, "a", voters, voters, told, gone) is True:
            for agent in told:
                assert is_vouched_for(SAME, "a", voters, voters, {**told, agent: SAME}, gone) is True

    @pytest.mark.parametrize(
        ("voters", "told", "silent", "sound"),
        [
            ("abc", {"b": SAME}, "c", True),
            ("abc", {"b": SAME, "c": ""}, "", None),
            ("abc", {"b": SAME, "c": ANOTHER}, "", False),
            ("abcde", {"b": SAME, "c": ""}, "de", True),
            ("abcde", {"b": SAME, "c": "", "d": ""}, "e", None),
            ("abcde", {"b": SAME, "c": ANOTHER}, "de", None),
            ("bcd", {"b": SAME, "c": ANOTHER}, "d", None),
            ("bcd", {"e": SAME}, "bcd", True),
            ("bcd", {"e": SAME, "f": ANOTHER}, "bcd", None),
            ("ab", {"b": SAME}, "", True),
            ("b", {"b": ANOTHER}, "", False),
        ],
        ids=[
            "one of the two others is gone",
            "the other isn't there yet",
            "the other has another one",
            "the rest of a majority is behind as we are",
            "too many are there and have none",
            "who is there contradicts, and a majority may agree",
            "the same for an observer",
            "all voters that we know are gone",
            "and those that came instead disagree",
            "two voters",
            "one voter",
        ],
    )
    def test_cases(self, voters: str, told: dict[str, str], silent: str, sound: bool | None) -> None:
        assert is_vouched_for(SAME, "a", set(voters), set(voters), told, set(silent)) is sound

    @pytest.mark.parametrize(
        ("offered", "told", "silent", "sound"),
        [
            ("abc", {"b": SAME, "c": SAME, "e": ""}, "", True),
            ("abc", {"b": SAME, "e": ""}, "c", True),
            ("abc", {"b": SAME, "c": "", "e": ""}, "", None),
            ("ab", {"b": SAME, "c": "", "e": ""}, "", None),
            ("abx", {"b": SAME, "c": "", "e": ""}, "x", None),
            ("abc", {"b": SAME, "c": SAME, "e": ANOTHER}, "", False),
        ],
        ids=["its voters", "one of them is gone", "not there yet", "too few", "invented", "contradicted"],
    )
    def test_of_voters_that_we_do_not_know_as_such(
        self, offered: str, told: dict[str, str], silent: str, sound: bool | None
    ) -> None:
        """We know a, b, c and e; e was removed since, and is behind as we are."""
        assert is_vouched_for(SAME, "a", "abce", offered, told, set(silent)) is sound


def works(cluster: Cluster, times: int) -> Callable[[], None]:
    """The coordinator's ledger grows with each call."""
    revision = 1

    def more() -> None:
        nonlocal revision
        node = cluster.elect()
        if revision == 1:
            node.deploy()
        for _ in range(times):
            revision += 1
            scale = cluster.signed("scale", "stack:shop", Scale(services={"web": revision % 5}), rev=revision)
            assert node.result(node.submit(*scale)).outcome == "applied"

    return more


def doctored(data: bytes) -> bytes:
    """Signed all the way, and a stack's replicas aren't where everybody else knows them."""
    state = decode_snapshot(data)
    return encode_snapshot(replace(state, chain=hashlib.sha256(data).hexdigest()))


def lying(cluster: Cluster, liar: Node, told: list[Frame]) -> None:
    """What `liar` sends of snapshots tells another past."""

    def lie(sender: str, to: str, frame: Frame) -> bool:
        if sender != liar.name or frame in told:
            return False
        match frame:
            case RaftFrame(message=InstallSnapshot() as chunk) if chunk.data:
                data = doctored(chunk.data)
                lied: Frame = replace(frame, message=replace(chunk, data=data, total=len(data)))
            case ReplyFrame(reply=Ledger(snapshot=part) as ledger) if part is not None:
                data = doctored(part.data)
                digest = hashlib.sha256(data).hexdigest()
                part = replace(part, data=data, total=len(data), digest=digest)
                lied = replace(frame, reply=replace(ledger, snapshot=part))
            case _:
                return False
        told.append(lied)
        receiver = cluster.n(to)
        cluster._queue.append(lambda: receiver.up.frame(liar.id, lied, receiver.when) and None)
        return True

    cluster.lost = lie


def test_an_observer_goes_to_another_voter_for_a_snapshot_that_the_others_have_too() -> None:
    cluster = Cluster(4, compaction=OFTEN)
    cluster.elect()
    observer = next(node for node in cluster.alive if node.id not in node.up.context.raft.configuration.voters)
    more = works(cluster, 6)
    cluster.crash(observer.name)
    more()
    told: list[Frame] = []
    cluster.start(observer.name)
    liar = next(
        cluster.by_id(send.to)
        for send in observer.sent
        if isinstance(send.frame, CallFrame) and isinstance(send.frame.request, GetSnapshotName)
    )
    cluster.crash(observer.name)
    observer.disk = type(observer.disk)(observer.disk.genesis)
    lying(cluster, liar, told)
    cluster.start(observer.name)
    cluster.run(RETRY_S + 1.0)
    assert observer.up.context.state.chain == cluster.elect().up.context.state.chain


def test_a_voter_that_was_away_believes_no_coordinator_alone() -> None:
    cluster = Cluster(3, compaction=OFTEN)
    coordinator = cluster.elect()
    away = cluster.followers[0]
    more = works(cluster, 6)
    cluster.crash(away.name)
    more()
    told: list[Frame] = []
    lying(cluster, coordinator, told)
    cluster.start(away.name)
    cluster.run(3.0)
    assert told
    assert away.up.drops["snapshot"] >= 1
    assert any("doesn't take a snapshot" in event.what for event in away.events)
    assert away.up.context.state.index < OFTEN.every_entries, "as it was"
    cluster.crash(coordinator.name)
    cluster.start(coordinator.name)
    cluster.lost = lambda sender, to, frame: False
    cluster.run(SILENT_S + 3.0)
    assert away.up.context.state.chain == cluster.elect().up.context.state.chain


def test_with_the_third_voter_dead_the_coordinators_word_is_enough_after_a_while() -> None:
    """Else two of three, which are a majority, would go on no more."""
    cluster = Cluster(3, compaction=OFTEN)
    coordinator = cluster.elect()
    away, dies = cluster.followers
    more = works(cluster, 6)
    cluster.crash(away.name)
    more()
    cluster.crash(dies.name)
    cluster.start(away.name)
    cluster.run(SILENT_S + 4.0)
    assert away.up.context.state.chain == coordinator.up.context.state.chain
    assert cluster.elect().result(cluster.elect().deploy("blog")).outcome == "applied"


def test_what_is_committed_while_a_snapshot_is_judged_comes_behind_it() -> None:
    cluster = Cluster(4, compaction=OFTEN)
    cluster.elect()
    observer = next(node for node in cluster.alive if node.id not in node.up.context.raft.configuration.voters)
    more = works(cluster, 2)
    cluster.crash(observer.name)
    for _ in range(3):
        more()
    answers: list[tuple[Node, Frame]] = []

    def is_late(sender: str, to: str, frame: Frame) -> bool:
        if isinstance(frame, ReplyFrame) and isinstance(frame.reply, SnapshotNameIs):
            answers.append((cluster.n(sender), frame))
            return True
        return False

    cluster.lost = is_late
    cluster.start(observer.name)
    cluster.run(0.1)
    for _ in range(WINDOW_PARTS):
        more()
    assert observer.up.context.state.index < OFTEN.every_entries, "as it was"
    cluster.lost = lambda sender, to, frame: False
    for voter, answer in answers:
        observer.up.frame(voter.id, answer, observer.when)
    cluster.settle()
    assert observer.up.context.state.chain == cluster.elect().up.context.state.chain


def test_an_agent_knows_its_newest_snapshots_by_name_and_after_a_restart_the_one_on_its_disk() -> None:
    cluster = Cluster(3, compaction=OFTEN)
    node = cluster.elect()
    more = works(cluster, 3)
    for _ in range(KEPT_NAMES + 4):
        more()
    names = node.up._vouching._names
    newest = node.up.context.raft.snapshot
    assert newest is not None
    assert len(names) == KEPT_NAMES
    assert max(names) == newest.index
    assert all(other.up._vouching._names == names for other in cluster.followers)
    cluster.crash(node.name)
    cluster.start(node.name)
    assert node.up._vouching._names == {newest.index: names[newest.index]}
