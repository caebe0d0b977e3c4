"""Finding a member, trusting it, reading from it, and going on with another."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.client import Client, Endpoint, home_client, parse_address, socket_client, transport
from agent.client import client as client_module
from agent.client.clock import RESOLUTION_S, ClusterClock
from agent.client.endpoints import candidates
from agent.client.race import NEXT_AFTER_S, Race
from agent.errors import InputError, MusterError, NotFound, Unreachable
from agent.home import ClusterFile, KnownMember, open_home, remember
from agent.model.events import LogLine
from agent.model.status import Health
from tests.support.fake_node import FakeCluster, event, line
from tests.support.shop import open_shop
from tests.support.waiting import wait_for


async def opened(cluster: FakeCluster, *, via: str | None = None, others: bool = False) -> Client:
    return await asyncio.to_thread(home_client, cluster.home, via=via, others=others)


async def follow_logs(client: Client, found: list[str]) -> None:
    """Every line that comes, until it is cancelled."""
    async with aclosing(client.logs("shop", follow=True)) as lines:
        async for each in lines:
            found.append(each.line)


async def test_reads_answer_with_models(client: Client, running: FakeCluster) -> None:
    open_shop(running)
    assert (await client.health()).ok
    assert (await client.status()).health_score == 100.0
    assert [member.name for member in (await client.members()).members] == ["n1", "n2", "n3"]
    assert (await client.stack("shop")).revision == 1
    assert (await client.target("stack:shop")).by == "ann"
    with pytest.raises(NotFound) as missing:
        await client.stack("none")
    assert missing.value.fix == "Stacks here: shop."


async def test_a_member_that_is_gone_is_passed_over(client: Client, running: FakeCluster) -> None:
    await client.status()
    for name in ("n1", "n2"):
        await running.nodes.pop(name).server.close()
    assert (await client.health()).name == "n3"
    assert (await client.status()).cluster.name == "lab"


async def test_when_nobody_answers_each_address_is_named_with_why(client: Client, running: FakeCluster) -> None:
    ports = [node.server.port for node in running.nodes.values()]
    await running.close()
    with pytest.raises(Unreachable) as error:
        await client.status()
    for name, port in zip(("n1", "n2", "n3"), ports, strict=True):
        assert f"{name} (127.0.0.1:{port}): connection refused" in error.value.what
    assert "systemctl status muster-agent" in error.value.fix


async def test_a_home_without_members_says_what_to_do(cluster: FakeCluster) -> None:
    async with await opened(cluster) as client:
        with pytest.raises(Unreachable, match="no member's address is known"):
            await client.status()


async def test_another_clusters_agent_gets_no_token(cluster: FakeCluster, tmp_path: Path) -> None:
    other = await asyncio.to_thread(FakeCluster, tmp_path / "other", "x1")
    async with other.running():
        port = other.nodes["x1"].server.port
        async with await opened(cluster, via=f"127.0.0.1:{port}") as client:
            with pytest.raises(Unreachable, match="certificate isn't of this cluster") as error:
                await client.status()
        assert "other clusters' hosts" in error.value.fix
        assert other.nodes["x1"].records == []


async def test_a_certificate_of_the_cluster_that_names_no_agent_is_refused_before_anything_is_sent(
    running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_SAN", re.compile("nobody"))
    async with await opened(running) as client:
        with pytest.raises(Unreachable, match="doesn't name an agent"):
            await client.status()
    assert all(node.records == [] for node in running.nodes.values())


async def test_an_agent_that_the_home_does_not_know_is_refused_at_an_address_of_the_home(
    running: FakeCluster,
) -> None:
    members = [
        msgspec.structs.replace(member, id="a" * 26) for member in running.home.cluster.members if member.name == "n1"
    ]
    home = await asyncio.to_thread(remember, running.home, members=members)
    async with await asyncio.to_thread(home_client, home) as client:
        with pytest.raises(Unreachable, match="doesn't know as a member"):
            await client.status()


async def test_via_is_asked_and_nobody_else(running: FakeCluster) -> None:
    for via in ("n2", f"127.0.0.1:{running.nodes['n2'].server.port}"):
        async with await opened(running, via=via) as client:
            assert (await client.health()).name == "n2"
    await running.nodes.pop("n2").server.close()
    async with await opened(running, via="n2") as client:
        with pytest.raises(Unreachable, match=r"no agent answered: n2 \(127\.0\.0\.1:\d+\): [^;]*") as error:
            await client.status()
        assert "Only n2 was asked, as --via says." in error.value.fix
    async with await opened(running, via="127.0.0.1:1") as client:
        with pytest.raises(Unreachable) as error:
            await client.status()
        assert error.value.fix.startswith("This home knows no member 127.0.0.1:1, so it was asked as an address;")
    assert all(node.records == [] for node in running.nodes.values())


async def test_via_comes_first_where_every_member_is_asked(running: FakeCluster) -> None:
    async with await opened(running, via="n2", others=True) as client:
        assert (await client.health()).name == "n2"
        assert {each.survivor.name for each in await client.recoveries()} == {"n1", "n2", "n3"}
    await running.nodes.pop("n2").server.close()
    async with await opened(running, via="n2", others=True) as client:
        assert (await client.health()).name in ("n1", "n3")


async def test_the_last_good_member_is_asked_first_next_time(running: FakeCluster) -> None:
    async with await opened(running, via="n3") as client:
        await client.health()
    async with await opened(running) as client:
        assert (await client.health()).name == "n3"


async def test_a_member_on_the_majoritys_side_is_preferred(running: FakeCluster) -> None:
    for name in ("n1", "n3"):
        running.nodes[name].node.leader = None
    async with await opened(running, via="n1", others=True) as client:
        assert (await client.connect()).label == "n2"


async def test_a_member_without_a_coordinator_is_better_than_none(running: FakeCluster) -> None:
    for node in running.nodes.values():
        node.node.leader = None
    async with await opened(running) as client:
        assert not (await client.health()).ok


async def test_a_host_that_swallows_packets_delays_by_a_quarter_of_a_second(running: FakeCluster) -> None:
    with socket.socket() as silent:  # accepts in the kernel and never shakes hands
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with await opened(running, via=f"127.0.0.1:{silent.getsockname()[1]}", others=True) as client:
            began = time.monotonic()
            await client.health()
            assert NEXT_AFTER_S <= time.monotonic() - began < 4.0


async def test_who_waits_for_long_is_told_once_whom_for(
    running: FakeCluster, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.client.client.SILENT_S", 0.05)
    monkeypatch.setattr("agent.client.http.CONNECT_TIMEOUT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        via = f"127.0.0.1:{silent.getsockname()[1]}"
        async with await asyncio.to_thread(home_client, running.home, via=via, notice=notices.append) as client:
            for _ in range(2):
                with pytest.raises(Unreachable):
                    await client.health()
    assert notices == [f"no answer yet; still trying {via}"]


async def test_what_members_say_of_addresses_is_kept_in_the_home(client: Client, running: FakeCluster) -> None:
    moved = {id_: msgspec.structs.replace(m, address="192.0.2.9") for id_, m in running.ledger.state.members.items()}
    running.ledger.state = msgspec.structs.replace(running.ledger.state, members=moved)
    await client.members()
    home = await asyncio.to_thread(open_home, running.home.path)
    assert {member.address for member in home.cluster.members} == {"192.0.2.9"}


async def test_a_home_that_cannot_be_written_works_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MusterError("can't be written: Read-only file system")

    monkeypatch.setattr(client_module, "remember", refuse)
    monkeypatch.setattr(client_module, "write_file", refuse)
    assert len((await client.members()).members) == 3


async def test_the_local_socket_reads_without_a_home_and_signs_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    await cluster.start("n1", socket=path)
    try:
        async with socket_client(path) as client:
            assert (await client.status()).cluster.name == "lab"
            with pytest.raises(InputError) as error:
                await client.submit("remove", "stack:shop", None)  # type: ignore[arg-type]  # never looked at
            assert "--home" in error.value.fix
    finally:
        await cluster.close()
    async with socket_client(path) as client:
        with pytest.raises(Unreachable):
            await client.status()


async def test_an_answer_over_the_bound_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await client.connect()
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 10)
    with pytest.raises(MusterError, match="more than 10 bytes"):
        await client.status()


async def test_events_come_as_they_happen_and_go_on_with_another_member(client: Client, running: FakeCluster) -> None:
    client.prefer("n1")
    running.nodes["n1"].node.kept = [event(1, "first")]
    found: list[str] = []

    async def listen() -> None:
        async with aclosing(client.events(recent=True)) as events:
            async for each in events:
                found.append(each.what)

    task = asyncio.create_task(listen())
    try:
        await wait_for(lambda: found == ["first"])
        await running.nodes.pop("n1").server.close()
        await wait_for(lambda: any(node.node.listeners for node in running.nodes.values()))
        for node in running.nodes.values():
            node.node.tell(event(1, "second"))
        await wait_for(lambda: found == ["first", "second"])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_kept_events_end_without_following(client: Client, running: FakeCluster) -> None:
    for node in running.nodes.values():
        node.node.kept = [event(1, "a"), event(2, "b")]
    async with aclosing(client.events(follow=False)) as events:
        assert [each.what async for each in events] == ["a", "b"]


async def test_logs_go_on_behind_the_last_line_of_each_replica(client: Client, running: FakeCluster) -> None:
    open_shop(running)

    def at(second: int, text: str, **more: Any) -> LogLine:
        return msgspec.structs.replace(line(text, **more), at=f"2024-01-15T10:30:{second:02d}Z")

    client.prefer("n1")
    first = [at(1, "a"), at(2, "b"), at(1, "x", slot=2)]
    for node in running.nodes.values():
        node.node.lines = first if node is running.nodes["n1"] else [*first, at(3, "c"), at(2, "y", slot=2)]
    found: list[str] = []

    task = asyncio.create_task(follow_logs(client, found))
    try:
        await wait_for(lambda: found == ["a", "b", "x"])
        await running.nodes.pop("n1").server.close()
        await wait_for(lambda: len(found) == 5)
        assert sorted(found[3:]) == ["c", "y"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_logs_of_nothing_are_an_error_at_once(client: Client) -> None:
    with pytest.raises(NotFound):
        async with aclosing(client.logs("none")) as lines:
            _ = [each async for each in lines]


def test_the_clusters_clock_comes_from_date_and_small_differences_are_none() -> None:
    clock = ClusterClock()
    clock.heard("Mon, 15 Jan 2024 10:30:00 GMT", 1705314600.0)
    assert clock.offset_s == 0.0
    clock.heard("Mon, 15 Jan 2024 10:30:00 GMT", 1705314600.0 - 90)
    assert clock.now(1705314510.0) == pytest.approx(1705314600.5)
    assert clock.wrong
    clock.heard("Mon, 15 Jan 2024 10:30:00 GMT", 1705314600.0 + 10)
    assert not clock.wrong
    before = clock.offset_s
    for junk in (None, "", "yesterday", "Mon, 99 Jan 2024 10:30:00 GMT"):
        clock.heard(junk, 0.0)
    assert clock.offset_s == before
    assert RESOLUTION_S < 10


async def test_a_wrong_clock_is_told_once_and_tokens_go_by_the_clusters(
    running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    client = await asyncio.to_thread(home_client, running.home, notice=notices.append)
    real = time.time

    class Wrong:
        @staticmethod
        def time() -> float:
            return real() - 7200

    monkeypatch.setattr(client_module, "time", Wrong)
    async with client:
        assert (await client.status()).cluster.name == "lab"  # the access token is valid there
        await client.members()
    assert len(notices) == 1
    assert "behind" in notices[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", ("n1", None)),
        ("n1:9998", ("n1", 9998)),
        ("10.0.0.1", ("10.0.0.1", None)),
        ("[fe80::1]:99", ("fe80::1", 99)),
        ("[::1]", ("::1", None)),
        ("fe80::1", ("fe80::1", None)),
    ],
)
def test_addresses_as_people_write_them(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":1", "n1:", "n1:0", "n1:65536", "n1:x", "-oProxyCommand=x", "a b", "http://n1", "n1/x", "a" * 400, "[::1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_address(text)
    assert error.value.where == "--via"


def test_candidates_are_only_via_or_the_last_and_then_the_rest() -> None:
    members = tuple(KnownMember(id=letter * 26, name=letter, address=f"10.0.0.{n}") for n, letter in enumerate("abc"))
    cluster = ClusterFile(id="a" * 16, name="lab", members=members)
    assert [each.label for each in candidates(cluster)] == ["a", "b", "c"]
    assert [each.label for each in candidates(cluster, last="c")] == ["c", "a", "b"]
    assert [each.label for each in candidates(cluster, via="b", last="c", others=True)] == ["b", "c", "a"]
    assert [each.label for each in candidates(cluster, via="b", last="c")] == ["b"]
    (named,) = candidates(cluster, via="10.9.9.9:7")
    assert (named.address, named.port, named.id) == ("10.9.9.9", 7, None)
    assert candidates(None) == ()


async def test_a_defect_in_a_probe_is_not_taken_for_a_silent_host() -> None:
    async def probe(endpoint: Endpoint) -> Health:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Race(probe, lambda health: health.ok).run([Endpoint(address="a")], {})


async def test_lines_without_times_do_not_come_again(client: Client, running: FakeCluster) -> None:
    open_shop(running)
    client.prefer("n1")
    for node in running.nodes.values():
        node.node.lines = [msgspec.structs.replace(line(text), at="") for text in ("a", "b")]
    found: list[str] = []

    task = asyncio.create_task(follow_logs(client, found))
    try:
        await wait_for(lambda: found == ["a", "b"])
        await running.nodes.pop("n1").server.close()
        await wait_for(lambda: any(node.node.following for node in running.nodes.values()))
        assert found == ["a", "b"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
