"""Contents between agents: fetched from whoever has them, kept while the ledger names them, loaded where they may."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from agent import errors
from agent.instruction import sign_blob
from agent.model.api import ImageProgress
from agent.model.fault import error_of, fault_of
from agent.model.spec import MountedFile
from agent.model.stack import StackFile
from agent.node.driver import blobs as module
from agent.node.driver.blobs import GRACE_S, BlobService
from agent.node.driver.images import ImageService
from agent.node.driver.supplies import Supplies
from agent.node.messages import MAX_BLOB_WINDOW_BYTES, BlobPart, FetchBlob, LoadImage, Reply
from agent.storage.blobs import BlobStore
from agent.storage.stack_files import StackFiles
from tests.support.ledger import key_of_person, operator
from tests.support.replicas import spec, wanted

CONTENT = bytes(range(256)) * 3000  # three windows
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CLUSTER = "abcdefghijklmnop"


@dataclass
class World:
    """Agents' contents, joined as the peer link would; `down` can't be reached, `liars` send something else."""

    directory: Path
    services: dict[str, BlobService] = field(default_factory=dict)
    images: dict[str, ImageService] = field(default_factory=dict)
    loaded: dict[str, list[bytes]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    liars: set[str] = field(default_factory=set)
    asked: list[tuple[str, int]] = field(default_factory=list)
    named: dict[str, StackFile] = field(default_factory=dict)
    leader: str = "n1"

    async def agent(self, name: str, *, docker: bool = True) -> BlobService:
        service = BlobService(BlobStore(self.directory / name / "blobs"))
        service.driver = FakeDriver(self, name)  # type: ignore[assignment]  # the part of it that is used
        await asyncio.to_thread(service.store.open)
        self.services[name] = service
        self.images[name] = ImageService(service, Engine(self, name, docker))
        return service

    async def digests(self, name: str) -> frozenset[str]:
        return await asyncio.to_thread(self.services[name].store.digests)

    async def has(self, name: str, content: bytes = CONTENT) -> str:
        digest = hashlib.sha256(content).hexdigest()

        async def once() -> AsyncIterator[bytes]:
            yield content

        await self.services[name].put(digest, len(content), once())
        return digest


@dataclass
class Engine:
    world: World
    name: str
    takes_images: bool

    async def load_image(self, archive: Path) -> tuple[str, ...]:
        content = await asyncio.to_thread(archive.read_bytes)
        if content.startswith(b"broken"):
            raise errors.Unprocessable("Docker doesn't take the archive")
        self.world.loaded.setdefault(self.name, []).append(content)
        return ("web:1",)


@dataclass
class FakeDriver:
    world: World
    name: str

    @property
    def state(self) -> Any:
        names = sorted(self.world.services)
        return SimpleNamespace(
            cluster=CLUSTER,
            epoch=1,
            operators={"ann": operator("ann"), "eve": operator("eve", "operate")},
            members={name: SimpleNamespace(id=name, name=name) for name in names},
            signed={"": SimpleNamespace(stack=SimpleNamespace(files=self.world.named))},
        )

    @property
    def core(self) -> Any:
        configuration = SimpleNamespace(voters=("n1", "n2"))
        return SimpleNamespace(
            context=SimpleNamespace(
                id=self.name,
                own_name=self.name,
                state=self.state,
                leader=self.world.leader,
                peers=set(self.world.services) - {self.name},
                raft=SimpleNamespace(configuration=configuration),
                name_of=lambda agent: agent,
            )
        )

    @property
    def visits(self) -> Self:
        return self

    @property
    def requests(self) -> Self:
        return self

    @asynccontextmanager
    async def linked(self, peer: str) -> AsyncGenerator[None]:
        if peer in self.world.down:
            raise errors.Unreachable(f"no link with {peer}")
        yield

    async def call(self, peer: str, request: Any) -> AsyncGenerator[Reply]:
        services, images = self.world.services, self.world.images
        if isinstance(request, FetchBlob):
            self.world.asked.append((peer, request.offset))
        answers = services[peer].answer if isinstance(request, FetchBlob) else images[peer].answer
        try:
            async for reply in answers(self.name, request):
                if isinstance(reply, BlobPart) and peer in self.world.liars:
                    reply = BlobPart(offset=reply.offset, data=b"x" * len(reply.data))
                yield reply
        except errors.MusterError as error:
            raise error_of(fault_of(error)) from None


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    for name in ("n1", "n2", "n3"):
        await made.agent(name)
    return made


class TestFetching:
    async def test_it_comes_in_windows_from_the_member_that_has_it(self, world: World) -> None:
        await world.has("n3")
        told: list[int] = []
        await world.services["n2"].fetch(DIGEST, len(CONTENT), told.append)
        assert await asyncio.to_thread(world.services["n2"].store.path(DIGEST).read_bytes) == CONTENT
        assert told[-1] == len(CONTENT)
        offsets = [offset for peer, offset in world.asked if peer == "n3"]
        assert offsets == list(range(0, len(CONTENT), MAX_BLOB_WINDOW_BYTES))
        assert world.asked[0] == ("n1", 0), "the coordinator is asked first"

    async def test_two_who_want_it_at_once_fetch_it_once(self, world: World) -> None:
        await world.has("n1")
        await asyncio.gather(*(world.services["n2"].fetch(DIGEST, len(CONTENT), lambda _: None) for _ in range(4)))
        assert len(world.asked) == 3

    async def test_nobody_has_it(self, world: World) -> None:
        with pytest.raises(errors.NotFound, match="no member has it"):
            await world.services["n2"].fetch(DIGEST, len(CONTENT), lambda _: None)
        assert list((world.directory / "n2/blobs").iterdir()) == []

    async def test_who_could_not_be_asked_may_have_it(self, world: World) -> None:
        world.down = {"n3"}
        with pytest.raises(errors.Unreachable, match="no link with n3"):
            await world.services["n2"].fetch(DIGEST, len(CONTENT), lambda _: None)

    async def test_what_a_member_sends_instead_counts_for_nothing(self, world: World) -> None:
        await world.has("n1")
        await world.has("n3")
        world.liars = {"n1"}
        await world.services["n2"].fetch(DIGEST, len(CONTENT), lambda _: None)
        assert await asyncio.to_thread(world.services["n2"].store.path(DIGEST).read_bytes) == CONTENT

    async def test_a_member_with_less_than_announced_has_another_content(self, world: World) -> None:
        await world.has("n1")
        with pytest.raises(errors.Unreachable, match="less of it"):
            await world.services["n2"].fetch(DIGEST, len(CONTENT) + 1, lambda _: None)

    async def test_nothing_is_asked_for_an_empty_content(self, world: World) -> None:
        await world.services["n2"].fetch(hashlib.sha256().hexdigest(), 0, lambda _: None)
        assert world.asked == []

    async def test_a_cut_fetch_leaves_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        await world.has("n1")

        def cut(_: int) -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await world.services["n2"].fetch(DIGEST, len(CONTENT), cut)
        assert list((world.directory / "n2/blobs").iterdir()) == []

    async def test_uploads_have_a_bound(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_UPLOADS", 0)
        with pytest.raises(errors.TooMany):
            await world.has("n1")


class TestKeeping:
    async def test_what_nobody_names_goes_after_its_grace(self, world: World) -> None:
        await world.has("n1")
        service = world.services["n1"]
        await service.keep(100.0)
        await service.keep(100.0 + GRACE_S - 1)
        assert await world.digests("n1") == {DIGEST}
        await service.keep(100.0 + GRACE_S)
        assert await world.digests("n1") == set()

    async def test_what_is_named_stays_and_who_asks_begins_the_grace_anew(self, world: World) -> None:
        await world.has("n1")
        service = world.services["n1"]
        world.named = {"conf": StackFile(digest=DIGEST, size=len(CONTENT))}
        for now in (0.0, GRACE_S, 2 * GRACE_S):
            await service.keep(now)
        world.named = {}
        await service.keep(3 * GRACE_S)
        await service.size(DIGEST)
        await service.keep(4 * GRACE_S)
        assert await world.digests("n1") == {DIGEST}

    async def test_voters_fetch_what_the_ledger_names_and_others_do_not(self, world: World) -> None:
        await world.has("n1")
        world.named = {"conf": StackFile(digest=DIGEST, size=len(CONTENT))}
        for service in world.services.values():
            await service.keep(0.0)
        assert {name for name in world.services if await world.digests(name)} == {"n1", "n2"}


class TestSupplies:
    def supplies(self, world: World, name: str = "n2") -> Supplies:
        service = world.services[name]
        return Supplies(service, StackFiles(world.directory / name, service.store))

    async def test_a_replicas_files_lie_there_before_it_starts_and_fetching_lays_nothing(self, world: World) -> None:
        await world.has("n1")
        one = spec(files=(MountedFile(path="certs/a", digest=DIGEST, size=len(CONTENT), mode=0o600),))
        supplies, seen = self.supplies(world), list[tuple[str, str]]()
        supplies.want(wanted(one))
        await supplies.fetch(one, lambda step, detail: seen.append((step, detail)))
        laid = world.directory / "n2/stacks/shop/certs/a"
        assert not laid.exists()
        assert seen[0] == ("pulling", "file ./certs/a")
        assert seen[-1] == ("pulling", f"file ./certs/a: 100 % of {len(CONTENT)} bytes")
        await supplies.lay(one, lambda step, detail: None)
        assert laid.read_bytes() == CONTENT
        await supplies.sweep({"shop"})
        assert laid.exists()
        await supplies.sweep(())
        assert not laid.exists()

    async def test_a_missing_content_names_the_file_and_what_to_do(self, world: World) -> None:
        one = spec(files=(MountedFile(path="certs/a", digest=DIGEST, size=9, mode=0o600),))
        with pytest.raises(errors.NotFound, match=r"file \./certs/a of the plan isn't with any member") as missing:
            await self.supplies(world).lay(one, lambda step, detail: None)
        assert "Deploy it again" in missing.value.fix


class TestLoading:
    def token(self, *hosts: str, operator_name: str = "ann", content: bytes = CONTENT, **changes: Any) -> str:
        fields: dict[str, Any] = {"cluster": CLUSTER, "epoch": 1, "use": "image", "now_s": time.time(), "hosts": hosts}
        digest = hashlib.sha256(content).hexdigest()
        key = key_of_person(operator_name)
        return sign_blob(key, operator_name=operator_name, digest=digest, size=len(content), **(fields | changes))

    async def load(self, world: World, token: str, through: str = "n1") -> dict[str, ImageProgress]:
        async with aclosing(world.images[through].load(token)) as told:
            return {progress.host: progress async for progress in told}

    async def test_every_host_loads_it_and_keeps_no_archive(self, world: World) -> None:
        await world.has("n1")
        last = await self.load(world, self.token())
        assert {host: progress.step for host, progress in last.items()} == dict.fromkeys(("n1", "n2", "n3"), "loaded")
        assert last["n2"].images == ("web:1",)
        assert world.loaded == {name: [CONTENT] for name in ("n1", "n2", "n3")}
        assert [await world.digests(name) for name in world.services] == [set()] * 3

    async def test_only_the_hosts_that_the_operator_named_load_it(self, world: World) -> None:
        await world.has("n1")
        assert (await self.load(world, self.token("n2"))).keys() == {"n2"}
        assert world.loaded.keys() == {"n2"}

    async def test_a_host_verifies_the_token_itself(self, world: World) -> None:
        await world.has("n1")
        bad = {
            "not named": self.token("n3"),
            "may not": self.token(operator_name="eve"),
            "a file": self.token(use="file"),
            "old": self.token(now_s=1_700_000_000.0),
            "another cluster": self.token(epoch=2),
        }
        for why, token in bad.items():
            with pytest.raises(errors.MusterError):
                pytest.fail(f"{why}: {await anext(world.images['n2'].answer('n1', LoadImage(token=token)))}")
        assert world.loaded == {}

    async def test_one_host_that_fails_leaves_the_others_done_and_the_archive_for_another_try(
        self, world: World
    ) -> None:
        await world.has("n1")
        world.down = {"n3"}
        last = await self.load(world, self.token())
        assert {host: progress.step for host, progress in last.items()} == {
            "n1": "loaded",
            "n2": "loaded",
            "n3": "failed",
        }
        assert "no link with n3" in last["n3"].what
        assert await world.digests("n1") == {DIGEST}

    async def test_a_host_without_docker_is_skipped_unless_it_was_named(self, world: World) -> None:
        await world.agent("n4", docker=False)
        await world.has("n1")
        assert (await self.load(world, self.token()))["n4"].step == "skipped"
        await world.has("n1")
        assert (await self.load(world, self.token("n4")))["n4"].step == "failed"

    async def test_what_the_engine_refuses_is_told(self, world: World) -> None:
        await world.has("n1", b"broken")
        last = await self.load(world, self.token("n2", content=b"broken"))
        assert (last["n2"].step, last["n2"].what) == ("failed", "Docker doesn't take the archive")

    async def test_a_name_that_no_member_has_or_an_archive_that_was_not_sent_is_refused(self, world: World) -> None:
        with pytest.raises(errors.NotFound, match="doesn't have the archive"):
            await self.load(world, self.token())
        await world.has("n1")
        with pytest.raises(errors.Unprocessable, match="no member is called n9"):
            await self.load(world, self.token("n1", "n9"))
