"""The hosting loop: with a runtime in memory for what it decides, with real processes for how fast it is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from agent import errors
from agent.host import Desired, HostObservation, Refused
from agent.model.report import ObservedReplica
from agent.model.stack import HealthCommand, HealthProbe
from agent.node.driver import hosting as hosting_module
from agent.node.driver.acting import MAX_PARALLEL_REPLICAS
from agent.node.driver.hosting import Hosting
from agent.node.effects import Reconcile
from agent.runtime.process import ProcessRuntime
from agent.runtime.protocol import RawLine, Runtime
from tests.support.fake_runtime import FakeRuntime
from tests.support.replicas import AGENT, CLUSTER, key, process_spec, spec, wanted
from tests.support.waiting import wait_for

BACK_WITHIN_S = 1.0  # a killed replica; noticing takes milliseconds, the rest is a loaded machine


NOTHING = ObservedReplica(stack="", service="", slot=0, state="unknown", revision=0, spec_hash="")


class Host:
    """A hosting loop and what it told."""

    def __init__(self, runtimes: Sequence[Runtime], directory: Path) -> None:
        self.told: list[HostObservation] = []
        self.hosting = Hosting(runtimes, publish_address="127.0.0.1", data_dir=directory, on_observed=self.told.append)

    def want(self, desired: Desired, applied: int = 1) -> None:
        self.hosting.set_desired(Reconcile(desired=desired, applied=applied))

    async def round(self, applied: int) -> None:
        """A look in which nothing is wanted; what was tidied up behind the one before is done."""
        self.want(wanted(), applied)
        await wait_for(lambda: self.now.applied == applied)

    @property
    def now(self) -> HostObservation:
        return self.hosting.observation

    def replica(self, service: str = "web", slot: int = 1) -> ObservedReplica:
        """As it was told last; NOTHING when it wasn't."""
        return next((each for each in self.now.replicas if (each.service, each.slot) == (service, slot)), NOTHING)

    async def until(self, state: str, service: str = "web", slot: int = 1) -> ObservedReplica:
        def reached() -> ObservedReplica | None:
            found = self.replica(service, slot)
            return found if found.state == state else None

        found = await wait_for(reached, what=f"{service}.{slot} {state}; it is {self.replica(service, slot)}")
        assert found is not None
        return found

    def states(self, service: str = "web") -> list[str]:
        """The states that were told, without repetitions."""
        found: list[str] = []
        for observation in self.told:
            for each in observation.replicas:
                if each.service == service and (not found or found[-1] != each.state):
                    found.append(each.state)
        return found


@asynccontextmanager
async def hosting(runtime: Runtime, directory: Path, *others: Runtime) -> AsyncIterator[Host]:
    host = Host((runtime, *others), directory)
    await host.hosting.open()
    try:
        yield host
    finally:
        await host.hosting.close()


@pytest.fixture
def engine() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
async def host(engine: FakeRuntime, tmp_path: Path) -> AsyncIterator[Host]:
    async with hosting(engine, tmp_path) as made:
        yield made


class TestWithAnEngineInMemory:
    async def test_before_it_knows_what_is_wanted_it_touches_nothing(self, engine: FakeRuntime, host: Host) -> None:
        engine.put(spec())
        await wait_for(lambda: host.now.runtimes)
        assert engine.calls == []
        assert host.now.applied == 0

    async def test_what_is_wanted_runs_and_is_told_with_the_index_it_is_for(
        self, engine: FakeRuntime, host: Host
    ) -> None:
        host.want(wanted(spec(), spec("api")), applied=17)
        await host.until("healthy")
        await host.until("healthy", "api")
        assert engine.running() == ["shop-api-1", "shop-web-1"]
        assert host.now.applied == 17
        assert host.states() == ["pending", "starting", "healthy"] or host.states() == ["starting", "healthy"]

    async def test_an_index_that_changes_nothing_here_is_told_all_the_same(self, host: Host) -> None:
        host.want(wanted(), applied=1)
        await wait_for(lambda: host.now.applied == 1)
        host.want(wanted(), applied=2)
        await wait_for(lambda: host.now.applied == 2)

    async def test_an_update_replaces_and_a_removal_removes(self, engine: FakeRuntime, host: Host) -> None:
        host.want(wanted(spec()))
        await host.until("healthy")
        host.want(wanted(spec(command=("new",), revision=2)))
        await wait_for(lambda: host.replica().revision == 2 and engine.running() == ["shop-web-1"])
        host.want(wanted())
        await wait_for(lambda: not host.now.replicas)
        assert engine.workloads == {}
        await wait_for(lambda: (frozenset(), frozenset()) in engine.tidied)

    async def test_a_new_revision_of_the_same_spec_is_only_told(self, engine: FakeRuntime, host: Host) -> None:
        host.want(wanted(spec()))
        await host.until("healthy")
        calls = list(engine.calls)
        host.want(wanted(spec(revision=2)))
        await wait_for(lambda: host.replica().revision == 2)
        assert engine.calls == calls

    async def test_what_ended_is_started_again_and_counted_and_its_last_words_are_told(
        self, engine: FakeRuntime, host: Host
    ) -> None:
        host.want(wanted(spec()))
        await host.until("healthy")
        engine.output = [RawLine(at="", stream="stderr", line="out of cheese")]
        engine.end(key())
        await wait_for(lambda: host.replica().restarts == 1)
        engine.end(key())  # the second end within a minute waits before its restart
        await host.until("backoff")
        await wait_for(lambda: host.replica().reason == "ended with code 1 | out of cheese")
        await wait_for(lambda: host.replica().restarts == 2)

    async def test_a_failure_is_never_told_without_the_last_words(self, engine: FakeRuntime, host: Host) -> None:
        engine.output = [RawLine(at="", stream="stderr", line="out of cheese")]
        host.want(wanted(spec()))
        for _ in range(3):
            await wait_for(engine.running)
            engine.end(key())
        await host.until("failed")
        reasons = [each.reason for told in host.told for each in told.replicas if each.state == "failed"]
        assert set(reasons) == {"ended with code 1 | out of cheese"}

    async def test_three_failed_starts_are_failed_for_the_rollout_to_see(self, engine: FakeRuntime, host: Host) -> None:
        engine.fail_start = [errors.MusterError("bad config") for _ in range(3)]
        host.want(wanted(spec()))
        failed = await host.until("failed")
        assert (failed.reason, failed.revision) == ("bad config", 1)
        assert len([call for call in engine.calls if call[0] == "start"]) == 3
        assert "healthy" not in host.states()

    async def test_a_missing_image_fails_at_once_and_the_predecessor_keeps_running(
        self, engine: FakeRuntime, host: Host
    ) -> None:
        host.want(wanted(spec()))
        await host.until("healthy")
        engine.fail_prepare = [errors.NotFound("no such image")]
        host.want(wanted(spec(command=("new",), revision=2)))
        failed = await host.until("failed")
        assert (failed.reason, failed.revision) == ("no such image", 2)
        assert engine.running() == ["shop-web-1"]
        host.want(wanted(spec(revision=3)))  # the rollout goes back
        assert (await host.until("healthy")).revision == 3
        assert [call[0] for call in engine.calls] == ["start", "prepare"]

    async def test_a_taken_port_is_told_until_another_is_assigned(self, engine: FakeRuntime, host: Host) -> None:
        engine.fail_start = [errors.PortTaken((8443,)), errors.PortTaken((8443,))]
        host.want(wanted(spec(ports=(8443,))))
        await wait_for(lambda: [conflict.host_port for conflict in host.now.busy_ports] == [8443])
        host.want(wanted(spec(ports=(8444,))))
        await host.until("healthy")
        assert host.now.busy_ports == ()

    async def test_the_engine_is_asked_what_it_is_by_sweeps_and_when_it_was_away_and_not_at_each_change(
        self, engine: FakeRuntime, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def available() -> bool:
            return any(each.available for each in host.now.runtimes)

        await wait_for(available)
        monkeypatch.setattr(hosting_module, "SWEEP_INTERVAL_S", 3600.0)
        host.want(wanted(spec()))
        await host.until("healthy")
        before = engine.asked
        engine.end(key("web"))
        await wait_for(lambda: host.replica().restarts == 1 and host.replica().state == "healthy")
        assert engine.asked == before
        engine.away = True
        engine.hint()
        await wait_for(lambda: not available())
        engine.away = False
        engine.hint()
        await wait_for(available)
        assert engine.asked > before

    async def test_an_engine_that_is_away_says_nothing_about_its_replicas(
        self, engine: FakeRuntime, host: Host
    ) -> None:
        host.want(wanted(spec()))
        await host.until("healthy")
        engine.away = True
        engine.hint()
        await wait_for(lambda: not host.now.runtimes[0].available)
        assert host.replica().state == "healthy"
        host.want(wanted(spec(), spec("api")))
        waiting = await host.until("pending", "api")
        assert waiting.reason.startswith("docker isn't available")
        assert ("start", "shop/api.1") not in engine.calls
        engine.away = False
        engine.hint()
        await host.until("healthy", "api")

    async def test_what_an_engine_could_not_tidy_up_is_tried_again(self, engine: FakeRuntime, host: Host) -> None:
        nothing = (frozenset[str](), frozenset[str]())
        engine.away = True
        engine.hint()
        await wait_for(lambda: host.now.runtimes and not host.now.runtimes[0].available)
        host.want(wanted(), applied=1)
        await wait_for(lambda: host.now.applied == 1)
        assert engine.tidied == []
        engine.still_used, engine.away = True, False
        engine.hint()
        await wait_for(lambda: nothing in engine.tidied, what="a try once the engine is back")
        engine.still_used = False
        engine.tidied.clear()
        engine.hint()
        await wait_for(lambda: nothing in engine.tidied, what="another one, as something was still used")
        engine.tidied.clear()
        for applied in (2, 3):
            await host.round(applied)
        assert engine.tidied == [], "and no more once it is done"

    async def test_volumes_of_a_removed_stack_go_though_the_host_is_busy_until_nobody_wants_that_any_more(
        self, engine: FakeRuntime, host: Host
    ) -> None:
        other = spec("api", key=key("api", stack="other"))
        engine.hold.clear()
        host.want(wanted(other, delete_volumes_of=frozenset({"shop"})), applied=1)
        await wait_for(lambda: host.now.applied == 1 and engine.calls)
        host.want(wanted(other), applied=2)
        await wait_for(lambda: host.now.applied == 2)
        assert engine.tidied == []
        engine.hold.set()
        await wait_for(lambda: (frozenset({"other"}), frozenset({"shop"})) in engine.tidied)
        engine.tidied.clear()
        host.want(wanted(spec(), other), applied=3)
        await host.until("healthy")
        assert engine.tidied == [], "nothing of theirs is to go"
        host.want(wanted(spec()), applied=4)
        await wait_for(lambda: engine.tidied == [(frozenset({"shop"}), frozenset())])
        assert engine.running() == ["shop-web-1"], "it is there again, and keeps what it has"

    async def test_a_start_is_seen_by_its_answer_without_a_look_at_all_that_runs(
        self, engine: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent.node.driver.hosting.SWEEP_INTERVAL_S", 600.0)
        async with hosting(engine, tmp_path) as host:
            host.want(wanted(), applied=1)
            await wait_for(lambda: host.now.applied == 1)
            host.want(wanted(spec(), spec("api")), applied=2)
            await host.until("healthy")
            await host.until("healthy", "api")
        assert engine.looks == 1

    async def test_an_engine_that_never_comes_does_not_have_another_tidied_up_again_and_again(
        self, engine: FakeRuntime, tmp_path: Path
    ) -> None:
        other = FakeRuntime("process")
        engine.away = True
        async with hosting(engine, tmp_path, other) as host:
            for applied in (1, 2, 3):
                await host.round(applied)
        assert len(other.tidied) == 1
        assert engine.tidied == []

    async def test_a_start_that_takes_long_is_cut_when_it_is_no_longer_wanted(
        self, engine: FakeRuntime, host: Host
    ) -> None:
        engine.hold.clear()
        host.want(wanted(spec()))
        await wait_for(lambda: engine.running_at_once == 1)
        host.want(wanted())
        await wait_for(lambda: engine.running_at_once == 0)
        await wait_for(lambda: not host.now.replicas)
        assert engine.workloads == {}

    async def test_a_look_from_before_an_action_ended_starts_nothing_twice(
        self, engine: FakeRuntime, host: Host
    ) -> None:
        engine.hold.clear()
        host.want(wanted(spec()))
        await wait_for(lambda: engine.running_at_once == 1)
        engine.slow_look.clear()  # it has seen nothing yet, and says so only after the start has ended
        engine.hint()
        await wait_for(lambda: engine.looking == 1)
        engine.hold.set()
        await wait_for(lambda: engine.running() == ["shop-web-1"])
        engine.slow_look.set()
        await host.until("healthy")
        assert engine.calls == [("start", "shop/web.1")]
        assert host.replica().restarts == 0

    async def test_replicas_are_started_in_parallel_within_the_bound(self, engine: FakeRuntime, host: Host) -> None:
        engine.hold.clear()
        many = [spec("web", slot) for slot in range(1, MAX_PARALLEL_REPLICAS + 5)]
        host.want(wanted(*many))
        await wait_for(lambda: engine.running_at_once == MAX_PARALLEL_REPLICAS)
        engine.hold.set()
        await wait_for(lambda: len(engine.running()) == len(many))
        assert engine.most_at_once == MAX_PARALLEL_REPLICAS

    async def test_what_the_policy_refuses_is_failed_with_its_reason(self, host: Host) -> None:
        host.want(wanted(refused=(Refused(key=key(), revision=4, reason="the policy says no"),)))
        failed = await host.until("failed")
        assert (failed.reason, failed.revision) == ("the policy says no", 4)

    async def test_a_runtime_that_the_host_has_not_is_failed(self, host: Host) -> None:
        host.want(wanted(process_spec("web", "true")))
        assert (await host.until("failed")).reason == "this host has no process runtime"

    async def test_stopped_is_stopped_and_can_be_wanted_again(self, engine: FakeRuntime, host: Host) -> None:
        host.want(wanted(spec()))
        await host.until("healthy")
        host.want(wanted(stopped=(spec(),)))
        await host.until("stopped")
        assert engine.running() == []
        host.want(wanted(spec()))
        await host.until("healthy")

    async def test_logs_of_a_replica_that_was_only_placed_say_that_it_has_not_run(self, host: Host) -> None:
        host.want(wanted(stopped=(spec(),)))
        with pytest.raises(errors.NotFound, match="hasn't run here yet"):
            await anext(host.hosting.logs(key()))

    async def test_logs_of_a_replica_that_is_not_here_are_not_found(self, host: Host) -> None:
        with pytest.raises(errors.NotFound):
            await anext(host.hosting.logs(key()))


async def test_closing_leaves_workloads_running_and_the_next_one_finds_them_well(
    engine: FakeRuntime, tmp_path: Path
) -> None:
    async with hosting(engine, tmp_path) as first:
        first.want(wanted(spec()))
        await first.until("healthy")
    assert engine.running() == ["shop-web-1"]
    later = FakeRuntime()
    later.workloads = engine.workloads
    async with hosting(later, tmp_path) as second:
        second.want(wanted(spec()))
        await second.until("healthy")
        assert second.states() == ["healthy"]
        assert later.calls == []


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Host]:
    runtime = ProcessRuntime(
        cluster=CLUSTER, agent=AGENT, data_dir=tmp_path, publish_address="127.0.0.1", use_systemd=False
    )
    async with hosting(runtime, tmp_path) as made:
        yield made
        made.want(wanted())
        await wait_for(lambda: not made.now.replicas)


class TestWithRealProcesses:
    async def test_a_killed_replica_comes_back_at_once(self, processes: Host) -> None:
        processes.want(wanted(process_spec("web", "sleep", "60")))
        first = await processes.until("healthy")
        begun = time.monotonic()
        os.kill(int(first.container_id.split(":")[0]), signal.SIGKILL)

        def back() -> bool:
            return processes.replica().container_id not in ("", first.container_id)

        await wait_for(back)
        assert time.monotonic() - begun < BACK_WITHIN_S
        assert (await processes.until("healthy")).restarts == 1

    async def test_a_crash_loop_never_looks_healthy_and_is_failed_with_its_last_words(self, processes: Host) -> None:
        crashing = process_spec("web", "/bin/sh", "-c", "echo no database >&2; exit 7")
        processes.want(wanted(crashing))
        failed = await processes.until("failed")
        assert "healthy" not in processes.states()
        assert failed.reason.startswith("ended with code 7")
        await wait_for(lambda: "no database" in processes.replica().reason)

    async def test_its_check_makes_it_healthy_and_unhealthy(self, processes: Host, tmp_path: Path) -> None:
        well = tmp_path / "well"
        check = HealthCommand(test=("CMD", "test", "-e", str(well)), interval_ms=50, timeout_ms=5000, retries=2)
        processes.want(wanted(process_spec("web", "sleep", "60", health_check=check)))
        assert (await processes.until("starting")).state == "starting"
        well.touch()
        first = await processes.until("healthy")
        well.unlink()

        def restarted() -> bool:
            return processes.replica().container_id not in ("", first.container_id)

        await wait_for(restarted)
        assert "unhealthy" in processes.states() or "stopping" in processes.states()
        well.touch()
        await processes.until("healthy")

    async def test_a_probe_of_a_port_that_nobody_opens_keeps_it_starting(self, processes: Host) -> None:
        probe = HealthProbe(kind="tcp", container_port=9)
        processes.want(wanted(process_spec("web", "sleep", "60", health=probe)))
        await wait_for(lambda: "connection refused" in processes.replica().reason)
        assert (await processes.until("starting")).reason == "127.0.0.1:9: connection refused"

    @pytest.mark.parametrize("kind", ["tcp", "http"])
    async def test_a_probe_also_asks_the_address_that_the_program_is_told(
        self, processes: Host, kind: Literal["tcp", "http"]
    ) -> None:
        with socket.create_server(("127.0.0.2", 0)) as free:
            port = free.getsockname()[1]
        serve = (sys.executable, "-m", "http.server", "--bind", "127.0.0.2", str(port))
        probe = HealthProbe(kind=kind, container_port=port)
        processes.want(wanted(process_spec("web", *serve, health=probe, facts={"MUSTER_HOST": "127.0.0.2"})))
        await processes.until("healthy")

    async def test_a_probe_says_all_addresses_that_refused(self, processes: Host) -> None:
        probe = HealthProbe(kind="tcp", container_port=9)
        processes.want(wanted(process_spec("web", "sleep", "60", health=probe, facts={"MUSTER_HOST": "127.0.0.2"})))
        await wait_for(lambda: "connection refused" in processes.replica().reason)
        assert processes.replica().reason == "127.0.0.1:9 and 127.0.0.2:9: connection refused"

    async def test_logs_can_be_followed_over_a_restart(self, processes: Host) -> None:
        processes.want(wanted(process_spec("web", "/bin/sh", "-c", "echo up; sleep 60")))
        first = await processes.until("healthy")
        seen = 0

        async def read() -> None:
            nonlocal seen
            async for line in processes.hosting.logs(key(), follow=True):
                assert line.line == "up"
                seen += 1
                if seen == 1:
                    os.kill(int(first.container_id.split(":")[0]), signal.SIGKILL)
                if seen == 2:
                    return

        await asyncio.wait_for(read(), 10)
