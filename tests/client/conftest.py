"""A cluster of fake agents with real TLS, and a client with the operator's home."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.client import Client, home_client
from tests.support.fake_node import FakeCluster


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path, "n1", "n2", "n3")


@pytest.fixture
async def running(cluster: FakeCluster) -> AsyncIterator[FakeCluster]:
    async with cluster.running():
        yield cluster


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
async def client(running: FakeCluster, notices: list[str]) -> AsyncIterator[Client]:
    async with await asyncio.to_thread(home_client, running.home, notice=notices.append) as made:
        yield made
