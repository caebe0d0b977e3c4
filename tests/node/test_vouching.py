"""Snapshots are believed when a majority of the voters has the same (agent.node.vouching)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.instruction import encode_body, sign_instruction
from agent.model.instruction import Expel, Scale
from agent.node.disk import SETTLES_S
from agent.node.followers import WINDOW_PARTS
from agent.node.instant import Instant
from agent.node.messages import CallFrame, Frame, GetSnapshotName, Ledger, RaftFrame, ReplyFrame, SnapshotNameIs
from agent.node.names import KEPT_NAMES
from agent.node.subscriptions import RETRY_S
from agent.node.vouching import ANSWER_S, ASK_AGAIN_S, SILENT_S, Source, Vouching, is_vouched_for
from agent.raft import Configuration, Snapshot
from agent.raft.messages import Append, Heartbeat, InstallSnapshot
from agent.raft.quorum import majority
from agent.state import Evidence, decode_snapshot, encode_snapshot
from tests.node.cluster import OFTEN, Cluster, Node
from tests.support.ledger import START_MS, key_of_person

IDS = "abcdefg"
SAME, ANOTHER = "5" * 64, "a" * 64
voters_of = st.sets(st.sampled_from(IDS), min_size=1, max_size=5)
told_by = st.dictionaries(st.sampled_from(IDS[1:]), st.sampled_from([SAME, ANOTHER, ""]))
silent_of = st.sets(st.sampled_from(IDS[1:]))


def are_few(some: set[str], voters: set[str]) -> bool:
    """Whether the other voters are a majority without `some`, or `some` is one of at least two that could be asked."""
    others = voters - {"a"}
    return (len(voters - some) >= majority(len(voters)) and some != others) or len(some) < min(2, len(others))


class TestTheRule:
    """`a` asks."""

    @given(voters_of, told_by)
    def test_a_majority_with_the_same_decides(self, voters: set[str], told: dict[str, str]) -> None:
        same = [voter for voter in voters - {"a"} if told.get(voter) == SAME]
        if len(same) >= majority(len(voters)):
            assert is_vouched_for(SAME, "a", voters, voters, told, ()) is True

    @given(voters_of, told_by)
    def test_while_nobody_is_gone_so_few_that_the_others_are_a_majority_never_do(
        self, voters: set[str], told: dict[str, str]
    ) -> None:
        same = {voter for voter in voters - {"a"} if told.get(voter) == SAME}
        if are_few(same, voters):
            assert is_vouched_for(SAME, "a", voters, voters, told, ()) is not True

    @given(voters_of, told_by, silent_of)
    def test_nothing_is_believed_that_nobody_has(self, voters: set[str], told: dict[str, str], gone: set[str]) -> None:
        nobody = {agent: has for agent, has in told.items() if has != SAME}
        assert is_vouched_for(SAME, "a", voters, voters, nobody, gone) is not True

    @given(voters_of, told_by, silent_of)
    def test_a_strangers_word_counts_once_all_voters_are_gone(
        self, voters: set[str], told: dict[str, str], gone: set[str]
    ) -> None:
        by_voters = [voter for voter in voters - {"a"} if told.get(voter) == SAME]
        if is_vouched_for(SAME, "a", voters, voters, told, gone) is True:
            assert by_voters or voters - {"a"} <= gone

    @given(voters_of, silent_of, st.data())
    def test_of_voters_that_are_there_and_have_nothing_some_are_needed(
        self, voters: set[str], gone: set[str], data: st.DataObject
    ) -> None:
        """However long they say so: one that lies where nobody takes snapshots is believed by nobody."""
        others = voters - {"a"}
        liars = data.draw(st.sets(st.sampled_from(IDS[1:])))
        told = {agent: SAME if agent in liars else "" for agent in others - gone | liars}
        if are_few(others & (liars | gone), voters):
            assert is_vouched_for(SAME, "a", voters, voters, told, gone) is not True

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
            ("abcd", {"b": SAME, "c": ""}, "d", True),
            ("abcd", {"b": SAME, "c": SAME, "d": ""}, "", True),
            ("abcd", {"b": SAME, "c": "", "d": ""}, "", None),
            ("abcd", {"b": SAME, "c": ANOTHER}, "d", False),
            ("abcde", {"b": SAME, "c": ""}, "de", True),
            ("abcde", {"b": SAME, "c": "", "d": ""}, "e", None),
            ("abcde", {"b": SAME, "c": ANOTHER}, "de", None),
            ("bcd", {"b": SAME, "c": ANOTHER}, "d", None),
            ("bcd", {"e": SAME}, "bcd", True),
            ("bcd", {"e": SAME, "f": ANOTHER}, "bcd", None),
            ("bcd", {"e": SAME, "b": ""}, "cd", None),
            ("bcd", {"e": SAME, "b": SAME}, "c", True),
            ("ab", {"b": SAME}, "", True),
            ("b", {"b": ANOTHER}, "", False),
        ],
        ids=[
            "one of the two others is gone",
            "the other isn't there yet",
            "the other has another one",
            "half of four may have it, and the rest is behind as we are",
            "half of four have it",
            "fewer",
            "half of four may have it, and the rest contradicts",
            "the rest of a majority is behind as we are",
            "too many are there and have none",
            "who is there contradicts, and a majority may agree",
            "the same for an observer",
            "all voters that we know are gone",
            "and those that came instead disagree",
            "a stranger's word, and a voter is there",
            "the same, and that voter has it too",
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
            ("xbc", {"x": SAME, "e": ""}, "bc", None),
            ("xyz", {"x": SAME, "y": SAME, "b": "", "c": "", "e": ""}, "", True),
        ],
        ids=[
            "its voters",
            "one of them is gone",
            "not there yet",
            "too few",
            "invented",
            "contradicted",
            "a stranger and those that are gone, and a voter is there",
            "all were replaced",
        ],
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
        cluster.will_arrive(receiver, lambda: receiver.up.frame(liar.id, lied, receiver.when))
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
    known = away.up.context.state.index
    cluster.crash(away.name)
    more()
    told: list[Frame] = []
    lying(cluster, coordinator, told)
    cluster.start(away.name)
    cluster.run(3.0)
    assert told
    assert away.up.drops["snapshot"] >= 1
    assert any("doesn't take a snapshot" in event.what for event in away.events)
    assert away.up.context.state.index <= known, "as it was"
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
    known = observer.up.context.state.index
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
    assert observer.up.context.state.index <= known, "as it was"
    cluster.lost = lambda sender, to, frame: False
    for voter, answer in answers:
        observer.up.frame(voter.id, answer, observer.when)
    cluster.settle()
    assert observer.up.context.state.chain == cluster.elect().up.context.state.chain


def test_an_agent_knows_its_newest_snapshots_by_name_also_after_a_restart() -> None:
    cluster = Cluster(3, compaction=OFTEN)
    node = cluster.elect()
    more = works(cluster, 3)
    for _ in range(KEPT_NAMES + 4):
        more()
    names = dict(node.up._vouching.names._by_index)
    newest = node.up.context.raft.snapshot
    assert newest is not None
    assert len(names) == KEPT_NAMES
    assert max(names) == newest.index
    assert all(other.up._vouching.names._by_index == names for other in cluster.followers)
    cluster.run(SETTLES_S * 2)
    cluster.crash(node.name)
    cluster.start(node.name)
    assert node.up._vouching.names._by_index == names


def hearing_no_commit(cluster: Cluster, deaf: Node) -> None:
    """`deaf` stores all that comes, and hears no more of what is committed."""
    known, told = deaf.up.context.raft.commit, list[Frame]()

    def hold_back(sender: str, to: str, frame: Frame) -> bool:
        if to != deaf.name or frame in told or not isinstance(frame, RaftFrame):
            return False
        message = frame.message
        if not isinstance(message, Append | Heartbeat) or message.commit <= known:
            return False
        less = replace(frame, message=replace(message, commit=known))
        told.append(less)
        cluster.will_arrive(deaf, lambda: deaf.up.frame(cluster.n(sender).id, less, deaf.when))
        return True

    cluster.lost = hold_back


@pytest.mark.parametrize("restarted", [False, True])
def test_a_voter_that_was_away_gets_on_beside_one_that_has_not_heard_of_its_expulsion(restarted: bool) -> None:
    """What the one ahead offers the other doesn't have; whatever that one offers, the one ahead had once."""
    cluster = Cluster(3, compaction=OFTEN)
    ahead = cluster.elect()
    away, expelled = cluster.followers
    more = works(cluster, 6)
    cluster.crash(away.name)
    more()
    hearing_no_commit(cluster, expelled)
    more()
    assert cluster.expel(expelled.name, at=ahead.name).outcome == "applied"
    cluster.lost = lambda sender, to, frame: False
    assert ahead.up.context.raft.first_index > expelled.up.context.state.index + 1
    cluster.run(1.0)
    if restarted:
        cluster.crash(ahead.name)
        cluster.start(ahead.name)
    cluster.start(away.name)
    cluster.until(lambda: expelled.id in away.up.context.state.expelled, within_s=30.0)
    cluster.until(lambda: expelled.id not in away.up.context.raft.configuration)
    request = ahead.deploy("blog")
    cluster.until(lambda: request in ahead.answers)
    assert ahead.result(request).outcome == "applied"


class Judge:
    """A voter of three that judges what the test offers; it proves itself, and only the others' word is missing."""

    def __init__(self) -> None:
        self.cluster = Cluster(3, compaction=OFTEN)
        leader = self.cluster.elect()
        works(self.cluster, 6)()
        self.node, self.other = self.cluster.followers
        self.leader = leader
        self.vouching = Vouching(
            self.node.up.context, self.node.up.chronicle, lambda _snapshot: self.node.up.context.state
        )
        self.told: list[tuple[Snapshot, bool | None]] = []
        newest = leader.up.context.raft.snapshot
        assert newest is not None
        self.sound = newest

    def judge(self, snapshot: Snapshot, source: Source = "leader") -> None:
        self.vouching.judge(source, snapshot, lambda judged, sound, _when: self.told.append((judged, sound)), self.when)

    @property
    def when(self) -> Instant:
        return self.node.when

    def later(self) -> Snapshot:
        """One that nobody has, at an entry that is still to come."""
        return replace(self.sound, index=self.node.up.context.raft.commit + 100)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / ASK_AGAIN_S) + 1):
            self.vouching.pump(self.when)
            self.cluster.settle()
            self.vouching.pump(self.when)
            self.cluster.run(ASK_AGAIN_S)


def is_question(frame: Frame) -> bool:
    return isinstance(frame, CallFrame) and isinstance(frame.request, GetSnapshotName)


@pytest.fixture
def judge() -> Judge:
    return Judge()


def asked_now(judge: Judge) -> list[str]:
    judge.node.sent.clear()
    judge.vouching.pump(judge.when)
    judge.cluster.settle()
    return [judge.cluster.by_id(send.to).name for send in judge.node.sent if is_question(send.frame)]


def test_whoever_the_snapshot_proves_to_be_expelled_has_no_say(judge: Judge) -> None:
    """It has come no further, or lies: either would hold up the others for ever."""
    state, target, body = judge.node.up.context.state, f"member:{judge.other.id}", encode_body(Expel())
    token = sign_instruction(
        key_of_person("ann"),
        operator_name="ann",
        cluster=state.cluster,
        epoch=state.epoch,
        act="expel",
        target=target,
        revision=1,
        body_bytes=body,
        now_s=START_MS / 1000,
    )
    proof = Evidence(act="expel", target=target, revision=1, token=token, body=body)
    judge.vouching.proves = lambda _snapshot: replace(state, evidence={f"{target}/1": proof})
    judge.other.up._vouching.names.note(judge.sound.index, ANOTHER)
    judge.judge(judge.sound, "voter")
    judge.run(0.0)
    assert judge.told == [(judge.sound, True)]


def test_a_question_that_got_lost_is_asked_anew(judge: Judge) -> None:
    """Where nobody knows the asker yet it is dropped without a word; and who has it is not gone."""
    judge.cluster.lost = lambda sender, to, frame: to == judge.other.name and is_question(frame)
    judge.judge(judge.later())
    judge.run(ANSWER_S / 2)
    judge.cluster.lost = lambda sender, to, frame: False
    judge.run(ANSWER_S)
    (case,) = judge.vouching._cases.values()
    assert case.told.keys() == {judge.leader.id, judge.other.id}
    judge.run(SILENT_S * 2)
    assert judge.told == []


def test_who_has_a_link_again_is_asked_at_once(judge: Judge) -> None:
    judge.cluster.lost = lambda sender, to, frame: to == judge.other.name and is_question(frame)
    judge.judge(judge.later())
    assert judge.other.name in asked_now(judge)
    judge.vouching.link_up(judge.other.id)
    assert judge.other.name in asked_now(judge)


def test_what_one_source_offers_takes_nothing_from_the_other(judge: Judge) -> None:
    never, comes = judge.later(), judge.sound
    judge.judge(comes, "voter")
    judge.judge(never, "leader")
    judge.run(0.0)
    assert judge.told == [(comes, True)]
    judge.judge(replace(never, index=never.index + 1), "leader")
    assert [case.snapshot.index for case in judge.vouching._cases.values()] == [never.index + 1]


@pytest.mark.parametrize("how", ["the log has passed it", "another term has begun"])
def test_a_leaders_snapshot_that_nobody_needs_any_more_may_be_offered_again(judge: Judge, how: str) -> None:
    offered = judge.later()
    judge.judge(offered)
    judge.run(0.0)
    if how == "another term has begun":
        judge.leader.hand_over(judge.other)
    else:
        (case,) = judge.vouching._cases.values()
        case.snapshot = offered = replace(offered, index=judge.node.up.context.raft.commit)
    judge.run(0.0)
    assert judge.told == [(offered, None)]
    assert judge.vouching.deadline() == float("inf")


def test_a_leader_that_names_ever_other_voters_fills_no_memory(judge: Judge) -> None:
    for number in range(5):
        voters = (f"nobody{number}{more}" for more in range(60))
        judge.judge(replace(judge.later(), configuration=Configuration.of(tuple(voters))))
        judge.run(0.0)
    assert judge.vouching._silent_since.keys() <= set(judge.node.up.context.raft.configuration.voters)


def test_a_voter_whose_disk_went_back_keeps_none_from_its_snapshot() -> None:
    """It has forgotten what it took, and says nothing; the two others are a majority and go on."""
    cluster = Cluster(3, compaction=OFTEN)
    coordinator = cluster.elect()
    away, victim = cluster.followers
    cluster.run(1.0)
    older = copy.deepcopy(victim.disk)
    works(cluster, 6)()
    cluster.run(1.0)
    cluster.cut(away.name)
    for name in ("blog", "wiki", "mail", "chat"):
        assert coordinator.result(coordinator.deploy(name)).outcome == "applied"
    cluster.run(1.0)
    cluster.crash(victim.name)
    victim.disk = older
    cluster.start(victim.name)
    cluster.mend()
    cluster.until(lambda: victim.up.context.raft.fenced)
    assert away.up.context.state.index < coordinator.up.context.raft.first_index - 1, "it needs a snapshot"
    cluster.run(SILENT_S + 4.0)
    assert away.up.context.state.chain == coordinator.up.context.state.chain
