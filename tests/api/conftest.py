"""One member's API, over real TLS 1.3 on loopback."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.fake_node import FakeCluster, RunningNode


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path, "n1", "n2")


@pytest.fixture
async def running(cluster: FakeCluster, tmp_path: Path) -> AsyncIterator[RunningNode]:
    node = await cluster.start("n1", socket=tmp_path / "agent.sock")
    yield node
    await cluster.close()


@pytest.fixture
async def anonymous(cluster: FakeCluster, running: RunningNode) -> AsyncIterator[aiohttp.ClientSession]:
    """A client without a token."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=cluster.home.trust_anchor)
    connector = aiohttp.TCPConnector(ssl=context)
    base = f"https://127.0.0.1:{running.server.port}"
    async with aiohttp.ClientSession(base, connector=connector) as session:
        yield session


@pytest.fixture
async def client(cluster: FakeCluster, anonymous: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """A client with an access token of the operator."""
    anonymous.headers["Authorization"] = f"Bearer {cluster.access_token()}"
    return anonymous
