"""The driver: effects in order, time after sockets, and an end that leaves nobody waiting."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from agent import errors
from agent.host import Desired
from agent.model.expulsion import Expulsion
from agent.model.instruction import InstructionResult
from agent.node.driver import loop
from agent.node.effects import BeginEpoch, Serve, Unserve
from agent.node.messages import Alive, CallFrame, CancelFrame, RaftFrame
from agent.raft import RaftTiming, Snapshot
from agent.raft.messages import Append, AppendResponse, Heartbeat, PreVote, Vote, VoteResponse
from tests.node.cluster import stack
from tests.node.driver.parts import ASKED, Bench, bench, signed_deploy, signed_expulsion
from tests.support.waiting import wait_for


def acknowledged(at: Bench) -> int:
    """How often n2 was told that its entries are here."""
    return sum(isinstance(frame.message, AppendResponse) for frame in at.frames_to("n2", RaftFrame))


# Effects


async def test_an_instruction_is_answered_after_the_disk_has_it() -> None:
    async with bench() as at:
        await at.coordinate()
        at.disk.open.clear()
        asked = asyncio.create_task(at.driver.requests.submit(*signed_deploy(stack())))
        await wait_for(lambda: at.log[-1] == "write", what="the entry is being written")
        assert not asked.done()
        at.disk.open.set()
        result = await asked
        assert isinstance(result, InstructionResult)
        assert result.outcome == "applied"


async def test_a_vote_leaves_only_after_it_is_on_the_disk() -> None:
    """Raft fig. 3.1: votedFor is persistent before the answer."""
    async with bench(voters=3) as at:
        at.driver.start()
        at.link("n2")
        at.disk.open.clear()
        at.says("n2", RaftFrame(message=Vote(term=5, last_index=1, last_term=0)))
        await wait_for(lambda: "write" in at.log, what="the vote is being written")
        answers = at.frames_to("n2", RaftFrame)
        assert not [frame for frame in answers if isinstance(frame.message, VoteResponse)]
        at.disk.open.set()
        await wait_for(lambda: at.frames_to("n2", RaftFrame)[len(answers) :], what="the vote is told")
        assert at.disk.disk.hard_state.term == 5
        told = next(
            i for i, done in enumerate(at.log) if isinstance(done, RaftFrame) and isinstance(done.message, VoteResponse)
        )
        assert at.log.index("written") < told


async def test_inputs_of_one_turn_share_one_flush() -> None:
    async with bench(voters=3) as at:
        at.driver.start()
        for name in ("n2", "n3"):
            at.link(name)
        assert not at.wire.sent
        await asyncio.sleep(0)
        assert not at.driver.core.context.effects


async def test_who_follows_does_what_the_coordinator_says_without_another_turn_of_the_loop() -> None:
    async with bench(voters=3) as at:
        at.driver.start()
        at.link("n2")
        word = RaftFrame(message=Append(term=1, prev_index=1, prev_term=0, commit=1, entries=()))
        at.says("n2", word)
        await wait_for(lambda: acknowledged(at), what="the term is on the disk")
        before = acknowledged(at)
        at.driver.frame(at.id("n2"), word)
        assert acknowledged(at) == before  # more may have come with it
        at.driver.frames_over()
        assert acknowledged(at) == before + 1


async def test_who_coordinates_takes_together_what_the_others_say_in_one_turn() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        await wait_for(lambda: not at.driver._flushing)
        at.says("n2", CancelFrame(id=7))
        assert at.driver._flushing


async def test_the_hands_get_what_the_ledger_wants_at_the_start() -> None:
    async with bench() as at:
        at.driver.start()
        await wait_for(lambda: at.hands.wanted)
        assert at.hands.wanted[0].desired == Desired(), "nothing is deployed"


async def test_an_expelled_agent_is_cut_off_by_the_wire() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n3")
        await at.driver.requests.submit(*signed_expulsion(at.id("n3")))
        await wait_for(lambda: at.wire.expelled == [at.id("n3")])


async def test_that_peers_refuse_it_as_expelled_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as at:
        for name in ("n2", "n3", "n2"):
            at.driver.expelled(at.id(name), "", b"")
    (said,) = [record.getMessage() for record in caplog.records if "expelled" in record.getMessage()]
    assert said.startswith("n2 says that this host was expelled: `bootstrap install hosts.txt --limit n1`")


async def test_an_expulsion_that_is_proven_is_kept_and_ends_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as at:
        kept: list[Expulsion] = []
        at.driver.on_expelled = kept.append
        at.driver.expelled(at.id("n2"), "", b"")
        assert not kept
        for _ in range(2):
            at.driver.expelled(at.id("n3"), *signed_expulsion(at.id("n1"), "stolen"))
        assert [(each.by, each.reason) for each in kept] == [("ann", "stolen")]
        await wait_for(lambda: at.hands.wanted and not at.hands.wanted[-1].desired.stacks)
        said = [record.getMessage() for record in caplog.records if "expelled" in record.getMessage()]
        assert len(said) == 2, "what one says, then what is known"
        assert said[1].startswith("this host was expelled from the cluster, by ann at ")


async def test_what_peers_ask_the_host_goes_to_who_serves_it() -> None:
    async with bench() as at:
        await at.coordinate()
        seen: list[Serve | Unserve] = []
        at.driver.on_serve = seen.append
        at.driver.on_unserve = seen.append
        at.link("n2")
        at.says("n2", CallFrame(id=3, request=ASKED))
        at.says("n2", CancelFrame(id=3))
        at.unlink("n2")
        peer = at.id("n2")
        want = [Serve(peer=peer, call=3, request=ASKED), Unserve(peer=peer, call=3), Unserve(peer=peer)]
        await wait_for(lambda: seen == want)


async def test_a_full_queue_is_told_to_who_sends() -> None:
    async with bench() as at:
        await at.coordinate()
        assert at.driver.send(at.id("n2"), Alive())
        at.wire.room = False
        assert not at.driver.send(at.id("n2"), Alive())


# Time


async def test_timers_of_consensus_fire() -> None:
    fast = RaftTiming(
        heartbeat_s=0.01,
        election_timeout_min_s=0.03,
        election_timeout_max_s=0.06,
        link_loss_delay_min_s=0.0,
        link_loss_delay_max_s=0.01,
    )
    async with bench(voters=3, timing=fast) as at:
        at.driver.start()
        at.link("n2")
        await wait_for(lambda: [f for f in at.frames_to("n2", RaftFrame) if isinstance(f.message, PreVote)])


async def test_the_sockets_are_heard_before_a_timer_is_believed() -> None:
    async with bench() as at:
        await at.coordinate()
        seen: list[bool] = []
        real = at.driver.core.on_deadline
        at.wire.drained = lambda: seen.append(False)
        at.driver.core.on_deadline = lambda when: (seen.append(True), real(when))[1]  # type: ignore[method-assign, func-returns-value]  # watched
        early = at.driver._loop.time()
        at.driver._on_timer(early)
        assert seen == []  # nothing was due: deadlines move away, and the timer stays
        at.driver.core.deadlines = lambda: {"raft": early}  # type: ignore[method-assign]  # now something is
        at.driver._on_timer(early)
        assert seen == [False, True]


async def test_a_heartbeat_puts_a_timer_off_that_would_soon_wake_the_agent_for_nothing() -> None:
    async with bench(voters=3) as at:
        at.driver.start()
        at.link("n2")
        at.says("n2", RaftFrame(message=Heartbeat(term=1, commit=0, round=1)))
        await wait_for(lambda: at.frames_to("n2", RaftFrame), what="the heartbeat was answered")
        now = asyncio.get_running_loop().time()
        for early, put_off in ((now + 10 * loop.SOON_S, False), (now + loop.SOON_S / 2, True)):
            assert at.driver._timer is not None
            at.driver._timer.cancel()
            at.driver._timer = asyncio.get_running_loop().call_at(early, lambda: None)
            at.driver.core.deadline = lambda: now + 100.0  # type: ignore[method-assign]  # nothing has to happen soon
            at.says("n2", RaftFrame(message=Heartbeat(term=1, commit=0, round=2)))
            assert (at.driver._timer.when() == now + 100.0) == put_off


async def test_a_late_timer_lets_the_sockets_speak_first() -> None:
    """The loop stood still: asyncio runs due timers before what the sockets brought meanwhile."""
    async with bench() as at:
        await at.coordinate()
        order: list[str] = []
        real = at.driver.core.on_deadline
        at.driver.core.on_deadline = lambda when: (order.append("timer"), real(when))[1]  # type: ignore[method-assign, func-returns-value]  # watched
        at.driver._on_timer(at.driver._loop.time() - loop.LATE_S * 2)
        asyncio.get_running_loop().call_soon(order.append, "socket")
        await wait_for(lambda: "timer" in order)
        assert order[:2] == ["socket", "timer"]


async def test_who_only_says_that_it_lives_sets_no_timer_and_runs_nothing() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        await wait_for(lambda: not at.driver._flushing)
        timer, peer = at.driver._timer, at.id("n2")
        heard = at.driver.core.context.swim.members()[peer].last_heard
        at.says("n2", Alive())
        assert at.driver._timer is timer
        assert not at.driver._flushing
        assert at.driver.core.context.swim.members()[peer].last_heard != heard


# The end


async def test_a_disk_error_ends_the_agent() -> None:
    async with bench() as at:
        await at.coordinate()
        at.disk.error = errors.StorageError("the disk is full")
        with pytest.raises(errors.Unreachable):
            await at.driver.requests.submit(*signed_deploy(stack()))
        assert isinstance(at.driver.failed.exception(), errors.StorageError)


async def test_a_broken_invariant_under_an_input_ends_the_agent() -> None:
    async with bench() as at:
        await at.coordinate()
        broken = errors.InvariantBroken("a test broke it")

        def frame(*_: object) -> None:
            raise broken

        at.driver.core.frame = frame  # type: ignore[method-assign, assignment]  # as a bug would
        at.says("n2", CancelFrame(id=1))
        assert at.driver.failed.exception() is broken


async def test_nothing_is_done_after_a_failure() -> None:
    async with bench() as at:
        await at.coordinate()
        at.driver.fail(errors.InvariantBroken("elsewhere"))
        at.driver.fail(errors.InvariantBroken("a second one changes nothing"))
        before = len(at.log)
        at.link("n2")
        at.says("n2", CallFrame(id=1, request=ASKED))
        at.driver.listen(True)
        await asyncio.sleep(0.01)
        assert len(at.log) == before
        assert not at.driver.core.context.peers
        assert str(at.driver.failed.exception()) == "elsewhere"


async def test_nothing_runs_after_a_stop() -> None:
    async with bench() as at:
        await at.coordinate()
        await at.driver.stop(1.0)
        before = len(at.log)
        at.link("n2")
        assert not at.driver.send(at.id("n2"), Alive())
        with pytest.raises(errors.Unreachable):
            await at.driver.requests.submit(*signed_deploy(stack()))
        with pytest.raises(errors.Unreachable):
            await at.driver.requests.status()
        await asyncio.sleep(0.01)
        assert len(at.log) == before


async def test_the_last_writes_are_waited_for() -> None:
    async with bench() as at:
        await at.coordinate()
        at.disk.open.clear()
        asked = asyncio.create_task(at.driver.requests.submit(*signed_deploy(stack())))
        await wait_for(lambda: at.log[-1] == "write")
        stopping = asyncio.create_task(at.driver.stop(5.0))
        await asyncio.sleep(0.01)
        assert not stopping.done()
        at.disk.open.set()
        await stopping
        assert at.log[-1] == "written"
        with suppress(errors.Unreachable):
            await asked


async def test_an_epoch_that_is_about_to_begin_is_waited_for() -> None:
    async with bench() as at:
        await at.coordinate()
        at.disk.open.clear()
        snapshot = Snapshot(index=9, term=9, configuration=at.driver.core.context.raft.configuration, data=b"")
        at.driver.core.context.emit(BeginEpoch(snapshot=snapshot, what="epoch 2 begins"))
        at.driver.flush()
        await wait_for(lambda: at.driver.ended)
        stopping = asyncio.create_task(at.driver.stop(5.0))
        await asyncio.sleep(0.01)
        assert not stopping.done()
        at.disk.open.set()
        await stopping
        assert at.log[-1] == "begun"


async def test_a_stop_doesnt_wait_longer_than_its_grace() -> None:
    async with bench() as at:
        await at.coordinate()
        at.disk.open.clear()
        asked = asyncio.create_task(at.driver.requests.submit(*signed_deploy(stack())))
        await wait_for(lambda: at.log[-1] == "write")
        async with asyncio.timeout(2.0):
            await at.driver.stop(0.05)
        with pytest.raises(errors.Unreachable):
            await asked


async def test_a_coordinator_hands_over_before_it_stops() -> None:
    async with bench(voters=3) as at:
        at.driver.start()
        at.link("n2")
        at.link("n3")

        def won() -> bool:
            at.vote_for_it("n2")
            return at.driver.core.context.leads

        await wait_for(won)
        stopping = asyncio.create_task(at.driver.stop(5.0))
        await asyncio.sleep(0)
        assert not stopping.done()
        term = at.driver.core.context.raft.term
        at.says("n2", RaftFrame(message=Append(term=term + 1, prev_index=1, prev_term=0, commit=1, entries=())))
        async with asyncio.timeout(2.0):
            await stopping


async def test_an_agent_that_failed_is_stopped_without_its_core() -> None:
    async with bench() as at:
        await at.coordinate()
        at.driver.fail(errors.InvariantBroken("broken"))
        at.driver.core.leave = lambda when: pytest.fail("it is broken")  # type: ignore[method-assign]  # watched
        await at.driver.stop(1.0)
