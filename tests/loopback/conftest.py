"""Real agents as subprocesses on loopback addresses.

`cluster` is one cluster for the whole session: whole when a test begins, and made whole again for the next one by
whoever needs it. `web` has the example deployed there. Tests that change how agents start make clusters of their own
with `make_cluster`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bootstrap.local import LocalCluster
from tests.loopback.world import EXAMPLE, READY_TIMEOUT_S, end, replicas, wait_healthy
from tests.support.agents import Desk
from tests.support.leaks import leaked_since, snapshot
from tests.support.namespace import leave_network

LIVE: list[LocalCluster] = []  # clusters that outlive a test; their agents are children of this process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs real agents."""
    here = f"{Path(__file__).parent}/"
    for item in items:  # thousands from elsewhere too, so nothing slow
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.loopback)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """As everywhere, but agents of the shared cluster may have been started anew."""
    before = snapshot()
    yield
    agents = {f"child process {pid} " for cluster in LIVE for name in cluster.names if (pid := cluster.pid(name))}
    if any(not name.startswith(tuple(agents)) for name in snapshot().beyond(before)):
        leaked = [name for name in leaked_since(before) if not agents or not name.startswith(tuple(agents))]
        if leaked:
            pytest.fail("left behind by this test: " + "; ".join(leaked), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _network(worker_id: str) -> None:
    """Agents and workloads take fixed ports and broadcast: workers beside each other need a network each."""
    if worker_id != "master":
        leave_network()


@pytest.fixture(scope="session", autouse=True)
def _python3() -> Iterator[None]:
    """Plans say `python3`: let that be this one, where PATH has a shim that starts shells to find one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield


@contextmanager
def outliving(directory: Path) -> Iterator[LocalCluster]:
    """A cluster of three that outlives a test, not started yet."""
    cluster = LocalCluster.create(directory, 3, api_port=0, runtimes=("process",))
    LIVE.append(cluster)
    try:
        yield cluster
    finally:
        LIVE.remove(cluster)
        end(cluster)


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with outliving(tmp_path_factory.mktemp("shared")) as cluster:
        yield cluster


@pytest.fixture
def cluster(_shared: LocalCluster) -> LocalCluster:
    """Three agents that see each other, whatever the test before did to them."""
    _shared.up()
    _shared.wait_ready(timeout_s=READY_TIMEOUT_S)
    return _shared


@pytest.fixture
def desk(cluster: LocalCluster) -> Desk:
    """The operator's."""
    return Desk(cluster)


@pytest.fixture
def web(desk: Desk) -> Desk:
    """The example's three web servers, all healthy."""
    placed = {replica.host for replica in replicas(desk.cluster.status("n1"), "web").values()}
    if placed and len(placed) < 3:
        desk.run("remove", "web", "--yes")  # a test before lost a host for so long that its replica moved
    if len(placed) < 3:
        desk.run("deploy", str(EXAMPLE))
    wait_healthy(desk.cluster, "web", 3)
    return desk


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., LocalCluster]]:
    """Clusters of this test's own, with the arguments of `LocalCluster.create`."""
    made: list[LocalCluster] = []

    def make(count: int = 2, **options: Any) -> LocalCluster:
        directory = tmp_path / f"c{len(made) + 1}"
        made.append(LocalCluster.create(directory, count, api_port=0, runtimes=("process",), **options))
        return made[-1]

    yield make
    for cluster in made:
        end(cluster)
