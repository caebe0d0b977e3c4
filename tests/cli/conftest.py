"""The command in this process, against a cluster of fake agents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import run
from tests.support.fake_node import FakeCluster


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)

    @property
    def problem(self) -> Any:
        """The problem on standard error."""
        return json.loads(self.err.splitlines()[-1])


Agent = Callable[..., Awaitable[Said]]


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path, "n1", "n2")


@pytest.fixture
async def running(cluster: FakeCluster) -> AsyncIterator[FakeCluster]:
    async with cluster.running():
        yield cluster


@pytest.fixture
def agent(cluster: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Agent:
    """`await agent("status", "--json")`, with the cluster's home."""
    monkeypatch.setenv("MUSTER_HOME", str(cluster.home.path))

    async def call(*args: str) -> Said:
        capsys.readouterr()
        code = await asyncio.to_thread(run, args)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call
