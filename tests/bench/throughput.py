"""How many signed instructions a cluster commits, beside etcd's puts: the same machine, disk, and client.

Three agents and three etcd members on loopback, both with fsync on. The client is one asyncio process with kept
HTTP connections to all three members: TLS and signatures made ahead for Muster, etcd's JSON gateway in plain HTTP for
etcd. All of it shares this machine's cores. Clients have addresses of their own, since an agent limits each address.

The promise is against plain etcd. What etcd does with TLS to its clients and between its members, as agents have it, is
measured behind it and only shown.
"""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp

from agent.client.transport import pinned_context
from agent.model.instruction import Cancel
from bootstrap.local import LocalCluster
from tests.bench.figures import Figure
from tests.bench.measures import SETTLE_S, pause, ready_cluster
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

CLIENTS = (1, 32)
WARM = 20  # requests of each client that aren't counted: connections, first checks
REQUESTS = {1: 400, 32: 60}  # of each client
RATIO = 0.5  # of etcd's puts: every instruction is a signature that each agent verifies
TURNS = 8  # addresses that one client takes turns with, to stay below what an agent allows one
ETCD_START_S = 20.0

Send = Callable[[int], Awaitable[None]]
"""Does one client's request of that number."""


def throughput(runs: int) -> list[Figure]:
    """Signed instructions committed a second by 1 and 32 clients, beside etcd's puts."""
    if shutil.which("etcd") is None:
        raise SystemExit("throughput measures etcd beside it: apt-get install etcd-server")
    figures = []
    with etcd() as puts, ready_cluster() as cluster:
        pause(SETTLE_S)
        for clients in CLIENTS:
            ours, theirs = [], []
            for run in range(runs):
                theirs.append(asyncio.run(_rate(clients, partial(put_clients, puts))))
                ours.append(asyncio.run(_rate(clients, partial(instruction_clients, cluster, run))))
            peer = Figure(name=f"etcd, puts, {clients} clients", unit="/s", values=theirs, digits=0)
            figures += [
                peer,
                Figure(
                    name=f"instructions committed, {clients} clients",
                    unit="/s",
                    values=ours,
                    target=RATIO * peer.median,
                    at_least=True,
                    digits=0,
                ),
            ]
    return figures + _encrypted(runs)


def _encrypted(runs: int) -> list[Figure]:
    """What etcd does with TLS, for comparison, where a certificate can be made."""
    if shutil.which("openssl") is None:
        return []
    with tempfile.TemporaryDirectory(prefix="muster-bench-tls-") as directory:
        tls = _Tls.make(Path(directory))
        with etcd(tls) as puts:
            pause(SETTLE_S)
            return [
                Figure(
                    name=f"etcd with TLS, puts, {clients} clients",
                    unit="/s",
                    values=[asyncio.run(_rate(clients, partial(put_clients, puts, tls=tls))) for _ in range(runs)],
                    digits=0,
                )
                for clients in CLIENTS
            ]


async def _rate(clients: int, make: Callable[[int, AsyncExitStack], Awaitable[list[Send]]]) -> float:
    """Requests a second, all clients together."""
    async with AsyncExitStack() as stack:
        sends = await make(clients, stack)
        await asyncio.gather(*(_run(send, 0, WARM) for send in sends))
        began = time.perf_counter()
        await asyncio.gather(*(_run(send, WARM, WARM + REQUESTS[clients]) for send in sends))
        return clients * REQUESTS[clients] / (time.perf_counter() - began)


async def _run(send: Send, first: int, end: int) -> None:
    for number in range(first, end):
        await send(number)


# Muster


async def instruction_clients(cluster: LocalCluster, run: int, clients: int, stack: AsyncExitStack) -> list[Send]:
    """Each changes a target of its own, through an agent of its own.

    `cancel` is stored, verified, applied and takes a revision like every act, and nothing is rolled out behind it.
    """
    desk = Desk(cluster)
    tls = pinned_context(desk.home.trust_anchor)
    base = REQUESTS[clients] + WARM
    sends: list[Send] = []
    for client in range(clients):
        name = f"bench{clients}-{run}-{client}"
        signed = [desk.sign("cancel", f"stack:{name}", number + 1, Cancel()) for number in range(base)]
        sessions = [
            await stack.enter_async_context(_session(f"127.0.{client + 1}.{turn + 1}")) for turn in range(TURNS)
        ]
        agent = cluster.names[client % len(cluster.names)]
        url = f"https://{cluster.address(agent)}:{cluster.layout.api_port}/api/v1/instructions"

        async def send(
            number: int,
            signed: list[tuple[str, bytes]] = signed,
            sessions: list[aiohttp.ClientSession] = sessions,
            url: str = url,
        ) -> None:
            token, body = signed[number]
            headers = {"Authorization": f"Bearer {token}"}
            session = sessions[number % len(sessions)]
            async with session.post(url, data=body, headers=headers, ssl=tls) as answer:
                assert answer.status == 200, await answer.text()

        sends.append(send)
    return sends


@asynccontextmanager
async def _session(source: str) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


# etcd

ADDRESSES = {"e1": "127.0.0.1", "e2": "127.0.0.2", "e3": "127.0.0.3"}


class _Tls(NamedTuple):
    """One certificate for all members, and its key."""

    certificate: str
    key: str

    @classmethod
    def make(cls, directory: Path) -> _Tls:
        made = cls(str(directory / "crt.pem"), str(directory / "key.pem"))
        names = ",".join(f"IP:{address}" for address in ADDRESSES.values())
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-subj", "/CN=etcd", "-addext", f"subjectAltName={names}"]
        subprocess.run([*command, "-keyout", made.key, "-out", made.certificate], check=True, capture_output=True)
        return made

    @property
    def arguments(self) -> list[str]:
        """etcd's: to clients one side is authenticated, as by an agent; between members both are."""
        pair = ["--cert-file", self.certificate, "--key-file", self.key]
        peers = ["--peer-cert-file", self.certificate, "--peer-key-file", self.key]
        return [*pair, *peers, "--peer-trusted-ca-file", self.certificate, "--peer-client-cert-auth"]

    @property
    def context(self) -> ssl.SSLContext:
        """For clients."""
        return ssl.create_default_context(cafile=self.certificate)


@contextmanager
def etcd(tls: _Tls | None = None) -> Iterator[list[str]]:
    """Three members on loopback, with the defaults but their addresses and `tls`; their client URLs."""
    scheme = "http" if tls is None else "https"
    peers = {name: f"{scheme}://{address}:23980" for name, address in ADDRESSES.items()}
    urls = {name: f"{scheme}://{address}:23979" for name, address in ADDRESSES.items()}
    context = tls.context if tls is not None else None
    with tempfile.TemporaryDirectory(prefix="muster-bench-etcd-") as directory:
        members = []
        try:
            for name in ADDRESSES:
                arguments = ["--name", name, "--data-dir", str(Path(directory) / name)]
                arguments += ["--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]]
                arguments += ["--listen-client-urls", urls[name], "--advertise-client-urls", urls[name]]
                arguments += ["--initial-cluster", ",".join(f"{peer}={url}" for peer, url in peers.items())]
                arguments += ["--log-level", "error", *(tls.arguments if tls is not None else [])]
                members.append(subprocess.Popen(["etcd", *arguments], stderr=subprocess.DEVNULL))
            well = partial(_is_healthy, context=context)
            wait_for_sync(lambda: all(map(well, urls.values())), ETCD_START_S, what="etcd is healthy")
            yield list(urls.values())
        finally:
            for member in members:
                member.terminate()
            for member in members:
                member.wait()


def _is_healthy(url: str, *, context: ssl.SSLContext | None) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1, context=context) as answer:
            return b"true" in answer.read()
    except OSError:
        return False


async def put_clients(urls: list[str], clients: int, stack: AsyncExitStack, *, tls: _Tls | None = None) -> list[Send]:
    """Each writes a key of its own, as long as an instruction with its token, through a member of its own."""
    session = await stack.enter_async_context(aiohttp.ClientSession())
    trusted = tls.context if tls is not None else True  # aiohttp's word for its default
    sends: list[Send] = []
    for client in range(clients):
        url = f"{urls[client % len(urls)]}/v3/kv/put"
        key = base64.b64encode(f"bench/{client}".encode()).decode()

        async def send(number: int, key: str = key, url: str = url) -> None:
            value = base64.b64encode(f"{number:05d}".encode() * 160).decode()
            async with session.post(url, json={"key": key, "value": value}, ssl=trusted) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()

        sends.append(send)
    return sends
