"""Peers that aren't what they should be: each costs us little, is counted, and never gets a link."""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.instruction import new_key, sign_hello
from agent.model.identity import server_name
from agent.net import listener
from agent.net.frames import FRAMING_VERSION, MAX_FRAME_BYTES, Hello, Refused, decode_opening, encode_frame
from agent.net.tls import session_binding
from agent.node import versions
from agent.node.messages import CancelFrame
from agent.node.versions import FRAME_VERSION, OLDEST_FRAME_VERSION
from tests.net.nodes import Node, make_nodes, running
from tests.support.trust import Trust, pem
from tests.support.waiting import wait_for


@dataclass
class Raw:
    """A TLS connection and nothing else."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def tls(self) -> ssl.SSLObject:
        found = self.writer.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        return found

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Hello | Refused:
        """The peer's opening frame."""
        (size,) = struct.unpack(">I", await self.reader.readexactly(4))
        return decode_opening((await self.reader.readexactly(size))[1:])

    async def is_closed(self) -> bool:
        """Wait for the peer to close."""
        try:
            while await self.reader.read(65536):
                pass
        except (ssl.SSLError, ConnectionError):
            return True
        return True


def half_open(node: Node) -> int:
    """Inbound connections whose peer isn't known yet."""
    assert node.table._listener is not None
    return node.table._listener.half_open


@asynccontextmanager
async def connected(node: Node, context: ssl.SSLContext) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(
        node.host, node.port, ssl=context, server_hostname="x", ssl_shutdown_timeout=0.5
    )
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.fixture
def trust() -> Trust:
    return Trust()


@pytest.fixture
def nodes(tmp_path: Path, trust: Trust) -> list[Node]:
    return make_nodes(tmp_path, 3, trust)


def context_with(
    directory: Path, trust: Trust, certificate: str | None, key: ec.EllipticCurvePrivateKey
) -> ssl.SSLContext:
    """A client that trusts the cluster and shows this certificate, if any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=trust.anchor)
    if certificate is not None:
        path = directory / "shown.pem"
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_text(key.private_bytes(*form).decode() + certificate)
        context.load_cert_chain(path)
    return context


STRANGE_CERTIFICATES: dict[str, Callable[[Trust, ec.EllipticCurvePublicKey], str | None]] = {
    "none": lambda _, __: None,
    "another cluster's": lambda trust, key: pem(Trust(trust.cluster).certify(key, "a" * 26)),
    "two names": lambda trust, key: pem(
        trust.certify(key, "a" * 26, names=[server_name("a" * 26), server_name("b" * 26)])
    ),
    "no name": lambda trust, key: pem(trust.certify(key, "a" * 26, names=[])),
    "another suffix": lambda trust, key: pem(trust.certify(key, "a" * 26, names=["a" * 26 + ".agent.other"])),
    "no agent id": lambda trust, key: pem(trust.certify(key, "a" * 26, names=["n1.agent.muster"])),
}


@pytest.fixture(params=sorted(STRANGE_CERTIFICATES))
def strange(request: pytest.FixtureRequest, tmp_path: Path, trust: Trust) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = STRANGE_CERTIFICATES[request.param](trust, key.public_key())
    return context_with(tmp_path, trust, certificate, key)


async def test_a_certificate_that_names_no_single_agent_of_the_cluster_gets_no_link(
    nodes: list[Node], strange: ssl.SSLContext
) -> None:
    """The client may believe for a while that it is connected (TLS 1.3)."""
    me = nodes[0]
    async with running(me):
        try:
            async with connected(me, strange) as raw:
                hello = me.local_agent().hello(me.id, "0" * 64)
                await raw.send(encode_frame(hello))
                assert await raw.is_closed()
        except (ssl.SSLError, ConnectionError):
            pass
        await wait_for(lambda: me.table.counts["tls"] + me.table.counts["refused-identity"] == 1)
        assert me.ups == []


async def test_tls_1_2_is_not_spoken(nodes: list[Node]) -> None:
    me, other = nodes[:2]
    other.client_context.minimum_version = ssl.TLSVersion.TLSv1_2
    other.client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(me):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(me, other.client_context):
                pass


def hello_of(node: Node, to: Node, binding: str, **changes: object) -> Hello:
    return msgspec.structs.replace(node.local_agent().hello(to.id, binding), **changes)


async def test_a_recorded_hello_is_worthless_on_another_session(nodes: list[Node]) -> None:
    me, other = nodes[:2]
    async with running(me):
        async with connected(me, other.client_context) as raw:
            recorded = hello_of(other, me, session_binding(raw.tls))
            await raw.send(encode_frame(recorded))
            assert isinstance(await raw.answer(), Hello)
        await wait_for(lambda: not me.linked(other))
        async with connected(me, other.client_context) as raw:
            await raw.send(encode_frame(recorded))
            assert await raw.answer() == Refused(reason="hello")
            assert await raw.is_closed()
        assert len(me.ups) == 1


async def test_a_hello_for_another_agent_is_refused(nodes: list[Node]) -> None:
    me, other, third = nodes
    async with running(me), connected(me, other.client_context) as raw:
        await raw.send(encode_frame(hello_of(other, third, session_binding(raw.tls))))
        assert await raw.answer() == Refused(reason="hello")
        assert me.ups == []


async def test_a_stolen_tls_key_alone_opens_nothing(nodes: list[Node]) -> None:
    """The hello is signed by the key that the id is made of; here it is another member's, or a fresh one."""
    me, other, third = nodes
    async with running(me):
        for key in (third.identity.signing_key, new_key()):
            async with connected(me, other.client_context) as raw:
                binding = session_binding(raw.tls)
                token = sign_hello(key, audience=me.id, tls=binding, now_s=time.time())
                await raw.send(encode_frame(hello_of(other, me, binding, token=token)))
                assert await raw.answer() == Refused(reason="hello")
        assert me.ups == []
        assert me.table.counts["refused-hello"] == 2


async def test_a_hello_of_another_cluster_is_refused(nodes: list[Node]) -> None:
    me, other = nodes[:2]
    async with running(me), connected(me, other.client_context) as raw:
        await raw.send(encode_frame(hello_of(other, me, session_binding(raw.tls), cluster="a" * 16)))
        assert await raw.answer() == Refused(reason="cluster")


async def test_a_link_with_an_earlier_version_speaks_that_one(nodes: list[Node]) -> None:
    me, other = nodes[:2]
    async with running(me), connected(me, other.client_context) as raw:
        await raw.send(encode_frame(hello_of(other, me, session_binding(raw.tls), frames=OLDEST_FRAME_VERSION)))
        answer = await raw.answer()
        assert isinstance(answer, Hello)
        assert answer.frames == FRAME_VERSION
        await wait_for(lambda: [peer.frames for peer in me.ups] == [OLDEST_FRAME_VERSION])


async def test_a_version_that_is_no_longer_spoken_is_told_so(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    me, other = nodes[:2]
    monkeypatch.setattr(versions, "OLDEST_FRAME_VERSION", FRAME_VERSION)
    async with running(me), connected(me, other.client_context) as raw:
        await raw.send(encode_frame(hello_of(other, me, session_binding(raw.tls), frames=FRAME_VERSION - 1)))
        assert await raw.answer() == Refused(reason="version")
        assert me.ups == []
        assert me.table.counts["refused-version"] == 1


FIRST_FRAMES = {
    "an http request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a frame that would take all memory": struct.pack(">I", 0xFFFF_FFFF),
    "a frame over the bound for a hello": struct.pack(">IB", 9000, FRAMING_VERSION) + bytes(8999),
    "an empty frame": struct.pack(">I", 0) + b"x" * 8,
    "another version": struct.pack(">IB", 3, FRAMING_VERSION + 1) + b"\xc0\xc0",
    "no msgpack": struct.pack(">IB", 5, FRAMING_VERSION) + b"\xc1\xc1\xc1\xc1",
    "deep msgpack": struct.pack(">IB", 5001, FRAMING_VERSION) + b"\x91" * 5000,
    "a frame instead of a hello": encode_frame(CancelFrame(id=1)),
}


@pytest.mark.parametrize("first", sorted(FIRST_FRAMES))
async def test_a_first_frame_that_isnt_a_hello_ends_the_connection(nodes: list[Node], first: str) -> None:
    me, other = nodes[:2]
    async with running(me), connected(me, other.client_context) as raw:
        await raw.send(FIRST_FRAMES[first])
        assert await raw.is_closed()
        await wait_for(lambda: me.table.counts["refused-protocol"] == 1)
        assert me.ups == []


async def test_whoever_says_nothing_is_cut_in_every_stage(nodes: list[Node]) -> None:
    me, other = nodes[:2]
    async with running(me):
        silent_reader, silent_writer = await asyncio.open_connection(me.host, me.port)
        async with connected(me, other.client_context) as raw:
            await raw.send(b"\x00")  # one byte of a frame, then nothing
            began = asyncio.get_running_loop().time()
            assert await raw.is_closed()
            assert await silent_reader.read() == b""
            assert asyncio.get_running_loop().time() - began < 3 * me.timing.handshake_timeout_s
        silent_writer.close()
        await silent_writer.wait_closed()
        await wait_for(lambda: half_open(me) == 0)
        assert me.ups == []


async def test_a_hello_byte_by_byte_gets_no_more_time(nodes: list[Node]) -> None:
    me, other = nodes[:2]
    async with running(me), connected(me, other.client_context) as raw:
        data = encode_frame(hello_of(other, me, session_binding(raw.tls)))

        async def trickle() -> None:
            for byte in data:
                await raw.send(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await raw.is_closed()
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        assert me.ups == []


async def test_one_address_cant_keep_all_others_out(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_HALF_OPEN_PER_ADDRESS", 3)
    me, other = nodes[:2]
    async with running(me, other):
        streams = [await asyncio.open_connection(me.host, me.port, local_addr=("127.0.0.66", 0)) for _ in range(8)]
        await wait_for(lambda: me.table.counts["address"] == 5)
        other.knows(me)
        await wait_for(lambda: other.linked(me))
        for _, writer in streams:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in streams), return_exceptions=True)


async def test_connections_that_prove_nothing_are_bounded_together(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_HALF_OPEN", 4)
    me = nodes[0]
    async with running(me):
        streams = [
            await asyncio.open_connection(me.host, me.port, local_addr=(f"127.0.0.{100 + n}", 0)) for n in range(6)
        ]
        await wait_for(lambda: me.table.counts["half-open"] == 2)
        for _, writer in streams:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in streams), return_exceptions=True)
        await wait_for(lambda: half_open(me) == 0, what="they are forgotten again")


async def test_a_linked_peer_that_sends_an_oversized_frame_loses_its_link(nodes: list[Node]) -> None:
    me, other = nodes[:2]
    async with running(me), connected(me, other.client_context) as raw:
        await raw.send(encode_frame(hello_of(other, me, session_binding(raw.tls))))
        assert isinstance(await raw.answer(), Hello)
        await raw.send(struct.pack(">IB", MAX_FRAME_BYTES + 1, FRAMING_VERSION))
        await wait_for(lambda: me.downs == [(other.id, "garbage")])


async def test_a_frame_of_a_later_version_is_dropped_alone(nodes: list[Node]) -> None:
    """A kind of frame that this version doesn't know; the link and the next frame are fine."""
    me, other = nodes[:2]
    unknown = b"\x81\xa4type\xa8tomorrow"
    async with running(me), connected(me, other.client_context) as raw:
        await raw.send(encode_frame(hello_of(other, me, session_binding(raw.tls))))
        assert isinstance(await raw.answer(), Hello)
        await raw.send(struct.pack(">IB", len(unknown) + 1, FRAMING_VERSION) + unknown)
        await raw.send(encode_frame(CancelFrame(id=3)))
        await wait_for(lambda: me.frames == [(other.id, CancelFrame(id=3))])
        assert me.table.counts["bad-frame"] == 1
        assert me.downs == []


@asynccontextmanager
async def impostor(
    node: Node, say: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
) -> AsyncIterator[tuple[str, int]]:
    """A server with the node's certificate that does something else than it should."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        say(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.77", 0, ssl=node.server_context, ssl_shutdown_timeout=0.5)
    host, port = server.sockets[0].getsockname()
    try:
        yield host, port
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", encode_frame(Refused(reason="busy"))])
async def test_a_client_is_up_only_after_the_servers_hello(nodes: list[Node], says: bytes) -> None:
    """TLS alone proves nothing: the server may be about to refuse us."""
    me, other = nodes[:2]
    async with running(me), impostor(other, lambda _, writer: writer.write(says)) as (host, port):
        me.table.want([other.id])
        me.table.hint(other.id, host, port)
        await wait_for(
            lambda: me.table.counts["dial-failed"] + me.table.counts["refused-protocol"] + me.table.counts["told-busy"]
        )
        assert me.ups == []


async def test_a_server_with_anothers_hello_isnt_believed(nodes: list[Node]) -> None:
    me, other, third = nodes

    def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        binding = session_binding(writer.get_extra_info("ssl_object"))
        writer.write(encode_frame(third.local_agent().hello(me.id, binding)))

    async with running(me), impostor(other, say) as (host, port):
        me.table.want([other.id])
        me.table.hint(other.id, host, port)
        await wait_for(lambda: me.table.counts["refused-hello"] >= 1)
        assert me.ups == []
