"""The process runtime with real processes: found again, never mistaken, gone when told, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent import errors
from agent.model.workload import Workload
from agent.runtime import proc
from agent.runtime.process import ProcessRuntime
from agent.runtime.records import Records
from tests.support.replicas import AGENT, CLUSTER, OTHER_AGENT, key, process_spec
from tests.support.waiting import wait_for, wait_for_sync

NOTICED_WITHIN_S = 0.3


def quiet(step: str, detail: str) -> None:
    """Nobody watches the progress."""


def runtime_in(directory: Path, agent: str = AGENT) -> ProcessRuntime:
    return ProcessRuntime(
        cluster=CLUSTER, agent=agent, data_dir=directory, publish_address="127.0.0.1", use_systemd=False
    )


@asynccontextmanager
async def opened(directory: Path, agent: str = AGENT) -> AsyncIterator[ProcessRuntime]:
    runtime = runtime_in(directory, agent)
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ProcessRuntime]:
    async with opened(tmp_path) as made:
        yield made
        for workload in await made.observe():
            await made.remove(workload.id)


def pid_of(workload: Workload) -> int:
    return int(workload.id.split(":")[0])


async def runs(pid: int) -> bool:
    return await asyncio.to_thread(proc.start_time, pid) is not None


async def gone(pid: int) -> bool:
    return not await runs(pid)


async def state_of(runtime: ProcessRuntime, workload: Workload) -> Workload | None:
    return next((each for each in await runtime.observe() if each.id == workload.id), None)


async def until_exited(runtime: ProcessRuntime, workload: Workload) -> Workload:
    async def exited() -> Workload | None:
        now = await state_of(runtime, workload)
        return now if now is not None and now.state == "exited" else None

    found = await wait_for(exited)
    assert found is not None
    return found


async def lines_of(runtime: ProcessRuntime, workload: Workload, tail: int | None = None) -> list[str]:
    return [line.line async for line in runtime.logs(workload.id, tail=tail, since=None, follow=False)]


class TestStart:
    async def test_it_runs_in_its_stacks_directory_with_its_environment_and_arguments(
        self, runtime: ProcessRuntime, tmp_path: Path
    ) -> None:
        spec = process_spec(
            "web",
            "/bin/sh",
            "-c",
            'pwd; echo "$GREETING $MUSTER_LISTEN_80"; echo ${GREETING} $${HOME}',
            environment={"GREETING": "hello"},
            facts={"MUSTER_LISTEN_80": "8080"},
        )
        ended = await until_exited(runtime, await runtime.start(spec, quiet))
        home = os.environ.get("HOME", "")
        assert await lines_of(runtime, ended) == [str(tmp_path / "stacks/shop"), "hello 8080", f"hello {home}"]
        assert (ended.exit_code, ended.reason) == (0, "ended with code 0")

    async def test_the_agents_own_environment_stays_its_own(
        self, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MUSTER_SECRET_OF_THE_AGENT", "x")
        ended = await until_exited(runtime, await runtime.start(process_spec("web", "env"), quiet))
        assert "MUSTER_SECRET_OF_THE_AGENT=x" not in await lines_of(runtime, ended)

    async def test_starting_what_runs_already_changes_nothing(self, runtime: ProcessRuntime) -> None:
        spec = process_spec("web", "sleep", "60")
        first = await runtime.start(spec, quiet)
        assert (await runtime.start(spec, quiet)).id == first.id
        assert len(await runtime.observe()) == 1

    async def test_a_missing_program_is_said_and_nothing_is_left(self, runtime: ProcessRuntime, tmp_path: Path) -> None:
        with pytest.raises(errors.NotFound, match="no program 'no-such-program'"):
            await runtime.start(process_spec("web", "no-such-program"), quiet)
        assert await runtime.observe() == ()

    async def test_a_file_that_cannot_be_executed_is_said_and_nothing_is_left(
        self, runtime: ProcessRuntime, tmp_path: Path
    ) -> None:
        script = tmp_path / "broken"
        script.write_text("not a program and no #! line")
        script.chmod(0o755)
        with pytest.raises(errors.MusterError, match="can't be started"):
            await runtime.start(process_spec("web", str(script)), quiet)
        assert await runtime.observe() == ()

    async def test_a_port_that_something_listens_on_is_port_taken(self, runtime: ProcessRuntime) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            spec = process_spec("web", "sleep", "60", ports=(port,))
            with pytest.raises(errors.PortTaken) as taken:
                await runtime.start(spec, quiet)
        assert taken.value.ports == (port,)
        assert await runtime.observe() == ()
        await runtime.start(spec, quiet)


class TestEnd:
    @pytest.mark.parametrize("adopted", [False, True])
    async def test_an_end_is_noticed_at_once(self, tmp_path: Path, adopted: bool) -> None:
        async with opened(tmp_path) as first:
            workload = await first.start(process_spec("web", "sleep", "60"), quiet)
            if not adopted:
                await self.killed_is_noticed(first, workload)
        if adopted:
            async with opened(tmp_path) as second:
                await second.observe()
                await self.killed_is_noticed(second, workload)

    async def killed_is_noticed(self, runtime: ProcessRuntime, workload: Workload) -> None:
        changes = aiter(runtime.changes())
        begun = time.monotonic()
        os.kill(pid_of(workload), signal.SIGKILL)
        assert await asyncio.wait_for(anext(changes), 5) == key("web")
        took = time.monotonic() - begun
        ended = await state_of(runtime, workload)
        assert ended is not None
        assert (ended.state, ended.exit_code, ended.reason) == ("exited", 137, "ended by SIGKILL")
        assert took <= NOTICED_WITHIN_S
        await runtime.remove(workload.id)

    async def test_stop_is_sigterm_first(self, runtime: ProcessRuntime) -> None:
        script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
        spec = process_spec("web", "/bin/sh", "-c", script)
        workload = await runtime.start(spec, quiet)
        await wait_for(lambda: lines_of(runtime, workload))
        await runtime.stop(workload.id)
        ended = await state_of(runtime, workload)
        assert ended is not None
        assert ended.exit_code == 3
        assert await lines_of(runtime, workload) in (
            ["up", "bye"],
            ["up", "bye", "Terminated"],
        )  # its shell may add that

    async def test_after_the_grace_it_is_sigkill(self, runtime: ProcessRuntime) -> None:
        script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
        spec = process_spec("web", "/bin/sh", "-c", script, stop_grace_ms=100)
        workload = await runtime.start(spec, quiet)
        await wait_for(lambda: lines_of(runtime, workload))
        await runtime.stop(workload.id)
        ended = await state_of(runtime, workload)
        assert ended is not None
        assert ended.exit_code == 137

    async def test_what_it_started_goes_with_it_even_out_of_another_session(
        self, runtime: ProcessRuntime, tmp_path: Path
    ) -> None:
        note = tmp_path / "child"
        spec = process_spec("web", "/bin/sh", "-c", f"setsid sleep 61 & echo $! > {note}; exit 1")
        await until_exited(runtime, await runtime.start(spec, quiet))
        child = int(note.read_text())
        await wait_for(lambda: gone(child))

    async def test_stop_and_remove_of_what_is_gone_are_fine(self, runtime: ProcessRuntime) -> None:
        workload = await runtime.start(process_spec("web", "sleep", "60"), quiet)
        for _ in range(2):
            await runtime.stop(workload.id)
        for _ in range(2):
            await runtime.remove(workload.id)
        await runtime.stop(workload.id)
        assert await runtime.observe() == ()


class TestAdoption:
    async def test_a_closed_runtime_leaves_it_running_and_the_next_one_finds_it(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as first:
            workload = await first.start(process_spec("web", "sleep", "60"), quiet)
        assert await runs(pid_of(workload))
        async with opened(tmp_path) as second:
            assert await second.observe() == (workload,)
            await second.stop(workload.id)
            await second.remove(workload.id)

    async def test_it_outlives_an_agent_that_is_killed_and_nothing_of_it_is_touched(self, tmp_path: Path) -> None:
        agent = f"""
import asyncio, pathlib, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.runtime.test_process import quiet, runtime_in
from tests.support.replicas import process_spec
async def main():
    runtime = runtime_in(pathlib.Path({str(tmp_path)!r}))
    await runtime.open()
    await runtime.start(process_spec("web", "/bin/sh", "-c", "while :; do echo tick; sleep 0.05; done"), quiet)
    print("started", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", agent, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert await child.stdout.readline() == b"started\n"
        child.kill()
        await child.wait()
        async with opened(tmp_path) as runtime:
            (found,) = await runtime.observe()
            assert found.state == "running"
            before = len(await lines_of(runtime, found))

            async def writes_on() -> bool:
                return len(await lines_of(runtime, found)) > before

            await wait_for(writes_on)
            os.kill(pid_of(found), signal.SIGKILL)
            ended = await until_exited(runtime, found)
            assert ended.exit_code is None
            assert "isn't known" in ended.reason
            await runtime.remove(found.id)

    async def test_another_process_with_the_same_pid_is_not_taken_for_it(self, tmp_path: Path) -> None:
        bystander = await asyncio.create_subprocess_exec("sleep", "60")
        try:
            async with opened(tmp_path) as runtime:
                workload = await runtime.start(process_spec("web", "sleep", "60"), quiet)
                await runtime.stop(workload.id)
                records = Records(tmp_path / "processes")
                record = await asyncio.to_thread(records.read, key())
                assert record is not None
                reused = replace(record, pid=bystander.pid, start=record.start + 10**6, ended=False, exit_code=None)
                await asyncio.to_thread(records.write, reused)
                (found,) = await runtime.observe()
                assert found.state == "exited"
                await asyncio.to_thread(records.write, reused)
                await runtime.stop(found.id)
                await runtime.remove(found.id)
            assert bystander.returncode is None
            assert await runs(bystander.pid)
        finally:
            bystander.kill()
            await bystander.wait()

    async def test_after_a_reboot_nothing_is_taken_for_it(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as runtime:
            workload = await runtime.start(process_spec("web", "sleep", "60"), quiet)
            records = Records(tmp_path / "processes")
            record = await asyncio.to_thread(records.read, key())
            assert record is not None
            await asyncio.to_thread(records.write, replace(record, boot="another", run="another"))
            (found,) = await runtime.observe()
            assert found.state == "exited"
            os.kill(pid_of(workload), signal.SIGKILL)
            await runtime.remove(found.id)
        with suppress(ChildProcessError):
            await asyncio.to_thread(os.waitpid, pid_of(workload), 0)

    async def test_a_start_that_was_cut_before_its_pid_was_written_is_found(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as runtime:
            workload = await runtime.start(process_spec("web", "sleep", "60"), quiet)
            records = Records(tmp_path / "processes")
            record = await asyncio.to_thread(records.read, key())
            assert record is not None
            await asyncio.to_thread(records.write, replace(record, pid=0, start=0))
        async with opened(tmp_path) as later:
            (found,) = await later.observe()
            assert (found.id, found.state) == (workload.id, "running")
            await later.remove(found.id)

    async def test_a_start_that_was_cut_before_the_process_leaves_nothing(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as runtime:
            workload = await runtime.start(process_spec("web", "true"), quiet)
            await until_exited(runtime, workload)
        records = Records(tmp_path / "processes")
        record = await asyncio.to_thread(records.read, key())
        assert record is not None
        await asyncio.to_thread(records.write, replace(record, pid=0, start=0, ended=False))
        async with opened(tmp_path) as later:
            assert await later.observe() == ()

    async def test_what_this_host_ran_under_an_earlier_identity_is_taken_over(self, tmp_path: Path) -> None:
        async with opened(tmp_path, OTHER_AGENT) as former:
            workload = await former.start(process_spec("web", "sleep", "60"), quiet)
        async with opened(tmp_path) as runtime:
            (taken,) = await runtime.observe()
            assert taken == workload
            await runtime.remove(taken.id)
        assert not await runs(pid_of(workload))

    async def test_records_of_another_agent_and_broken_ones_are_left_alone(self, tmp_path: Path) -> None:
        async with opened(tmp_path, OTHER_AGENT) as other, opened(tmp_path) as runtime:
            workload = await other.start(process_spec("web", "sleep", "60"), quiet)
            records = Records(tmp_path / "processes")
            record = await asyncio.to_thread(records.read, key())
            assert record is not None
            assert record.agent == OTHER_AGENT
            (tmp_path / "processes/shop.broken.1.json").write_text("{")
            assert await runtime.observe() == ()
            await runtime.remove(workload.id)
            assert await runs(pid_of(workload))
            await other.remove(workload.id)


class TestLogs:
    async def test_the_last_lines_of_each_stream(self, runtime: ProcessRuntime) -> None:
        spec = process_spec("web", "/bin/sh", "-c", "echo 1; echo 2; echo 3; echo oops >&2")
        ended = await until_exited(runtime, await runtime.start(spec, quiet))
        assert await lines_of(runtime, ended, tail=2) == ["2", "3", "oops"]

    async def test_following_ends_when_the_replica_is_removed(
        self, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent.runtime.process.REPLACED_WITHIN_S", 0.1)
        spec = process_spec("web", "/bin/sh", "-c", "echo one; sleep 0.3; echo two; sleep 60")
        workload = await runtime.start(spec, quiet)
        seen: list[str] = []
        async for line in runtime.logs(workload.id, tail=None, since=None, follow=True):
            seen.append(line.line)
            if line.line == "two":
                await runtime.remove(workload.id)
                await runtime.observe()
        assert seen == ["one", "two"]

    async def test_tidy_removes_logs_of_stacks_that_are_gone_and_files_only_when_told(
        self, runtime: ProcessRuntime, tmp_path: Path
    ) -> None:
        workload = await runtime.start(process_spec("web", "true"), quiet)
        await until_exited(runtime, workload)
        await runtime.tidy(frozenset(), frozenset({"shop"}))
        assert (tmp_path / "logs/shop").is_dir()
        await runtime.remove(workload.id)
        await runtime.tidy(frozenset({"shop"}), frozenset())
        assert (tmp_path / "logs/shop").is_dir()
        await runtime.tidy(frozenset(), frozenset())
        assert not (tmp_path / "logs/shop").exists()
        assert (tmp_path / "stacks/shop").is_dir()
        await runtime.tidy(frozenset(), frozenset({"shop"}))
        assert not (tmp_path / "stacks/shop").exists()


def test_a_program_name_with_spaces_and_parentheses_does_not_fool_the_start_time(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 2 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "60"])
    try:
        reference = subprocess.Popen(["/bin/sleep", "60"])
        try:
            started = wait_for_sync(lambda: proc.start_time(child.pid))
            other = proc.start_time(reference.pid)
            assert started is not None
            assert other is not None
            assert abs(started - other) < 1000
        finally:
            reference.kill()
            reference.wait()
    finally:
        child.kill()
        child.wait()
    assert proc.start_time(child.pid) is None
