"""Errands on a real host: engines that are away, ports that something foreign has, programs that come late."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from agent import errors
from agent.host.errands import Endpoint, Preparation, Survey
from agent.host.ports import Held
from agent.model.errand import ErrandFinding
from agent.model.report import HostResources
from agent.model.stack import HealthProbe
from agent.node.driver import examining
from agent.node.driver.examining import DISK_RESERVE_MIB, Examiner
from tests.support.fake_runtime import FakeRuntime
from tests.support.replicas import key, spec
from tests.support.waiting import wait_for


class Desk:
    """An examiner over a fake engine. `held`: ports that our own workloads have."""

    def __init__(self) -> None:
        self.runtime = FakeRuntime()
        self.held: Held = {}
        self.changes = 0
        self.examiner = Examiner({"docker": self.runtime}, held=lambda: self.held, on_change=self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def only(self) -> ErrandFinding:
        (finding,) = self.examiner.findings
        return finding

    async def until(self, state: str) -> ErrandFinding:
        await wait_for(lambda: self.only.state == state, what=f"the errand to be {state}")
        return self.only


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    await made.examiner.close()


def preparation(*ports: int) -> Preparation:
    return Preparation(errand="e1", stack="shop", service="web", specs=(spec(ports=ports),))


def survey(port: int, probe: HealthProbe | None = None) -> Survey:
    endpoint = Endpoint(key=key(), address="127.0.0.1", port=port, probe=probe)
    return Survey(errand="e2", stack="shop", endpoints=(endpoint,))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_host_that_has_everything_is_ready_and_has_started_nothing(desk: Desk) -> None:
    desk.examiner.set([preparation()])
    await desk.until("ready")
    assert [call for call, _ in desk.runtime.calls] == ["prepare"]
    assert desk.changes >= 2


async def test_how_far_a_pull_is_shows(desk: Desk) -> None:
    desk.runtime.hold_prepare.clear()
    desk.examiner.set([preparation()])
    await wait_for(lambda: desk.only.detail == "1 of 1 layers", what="the pull's progress")
    desk.runtime.hold_prepare.set()
    await desk.until("ready")


async def test_an_image_that_cannot_be_had_is_told_with_what_to_do(desk: Desk) -> None:
    desk.runtime.fail_prepare.append(errors.NotFound("image app:1 isn't there", fix="Use `agent load`."))
    desk.examiner.set([preparation()])
    assert (await desk.until("failed")).detail == "image app:1 isn't there (Use `agent load`.)"


async def test_an_engine_that_is_away_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "ENGINE_ASKED_EVERY_S", 0.01)
    desk.runtime.away = True
    desk.examiner.set([preparation()])
    await asyncio.sleep(0)
    desk.runtime.away = False
    await desk.until("ready")


async def test_what_is_waited_for_is_told_at_once(desk: Desk) -> None:
    desk.runtime.away = True
    desk.examiner.set([preparation()])
    await wait_for(lambda: desk.only.detail)
    assert desk.only.state == "working"
    assert desk.only.detail.startswith("docker isn't available: no answer; it is given 10 s")
    assert "systemctl status docker" in desk.only.detail


async def test_an_engine_that_stays_away_fails_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "ENGINE_ASKED_EVERY_S", 0.01)
    monkeypatch.setattr(examining, "ENGINE_PATIENCE_S", 0.05)
    desk.runtime.away = True
    desk.examiner.set([preparation()])
    assert "docker isn't available" in (await desk.until("failed")).detail


async def test_a_full_disk_fails_it(desk: Desk) -> None:
    desk.runtime.has = HostResources(disk_free_mib=DISK_RESERVE_MIB - 1)
    desk.examiner.set([preparation()])
    assert f"{DISK_RESERVE_MIB - 1} MiB of disk are free" in (await desk.until("failed")).detail


async def test_a_foreign_port_is_reported_and_nothing_is_pulled_for_it(desk: Desk) -> None:
    desk.runtime.taken_ports.add(8443)
    desk.examiner.set([preparation(8443)])
    await wait_for(lambda: desk.examiner.conflicts, what="the conflict")
    assert [conflict.host_port for conflict in desk.examiner.conflicts] == [8443]
    assert desk.only.state == "working"
    assert desk.runtime.calls == []


async def test_a_port_that_our_own_predecessor_has_is_no_conflict(desk: Desk) -> None:
    desk.runtime.taken_ports.add(8443)
    desk.held = {(8443, "tcp"): frozenset({key()})}
    desk.examiner.set([preparation(8443)])
    await desk.until("ready")


async def test_a_conflict_outlives_the_errand_that_found_it(desk: Desk) -> None:
    desk.runtime.taken_ports.add(8443)
    desk.examiner.set([preparation(8443)])
    await wait_for(lambda: desk.examiner.conflicts, what="the conflict")
    desk.examiner.set([])
    assert desk.examiner.findings == ()
    assert desk.examiner.conflicts


async def test_an_errand_that_stays_is_not_begun_again(desk: Desk) -> None:
    desk.examiner.set([preparation()])
    await desk.until("ready")
    desk.examiner.set([preparation(), survey(free_port())])
    assert desk.examiner.findings[0].state == "ready"
    assert len(desk.runtime.calls) == 1


async def test_a_port_that_answers_is_reached(desk: Desk) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        desk.examiner.set([survey(server.sockets[0].getsockname()[1])])
        assert (await desk.until("ready")).detail == "2 requests to 1 ports, all answered"


async def test_a_program_that_listens_late_is_waited_for(desk: Desk) -> None:
    port = free_port()
    desk.examiner.set([survey(port)])
    await asyncio.sleep(0)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        await desk.until("ready")


async def test_a_closed_port_is_told_and_reached_once_it_opens(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "REACH_PATIENCE_S", 0.05)
    monkeypatch.setattr(examining, "SURVEY_AGAIN_S", 0.05)
    port = free_port()
    desk.examiner.set([survey(port)])
    (unreached,) = (await desk.until("failed")).unreached
    assert (unreached.service, unreached.slot, unreached.port) == ("web", 1, port)
    assert "connection refused" in unreached.reason
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        await desk.until("ready")


async def test_an_http_check_of_the_plan_has_to_be_answered_well(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "REACH_PATIENCE_S", 0.05)

    async def sick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(sick, "127.0.0.1", 0)
    async with server:
        probe = HealthProbe(kind="http", container_port=80)
        desk.examiner.set([survey(server.sockets[0].getsockname()[1], probe)])
        assert "answered 503" in (await desk.until("failed")).unreached[0].reason
