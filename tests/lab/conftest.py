"""Fixtures of the lab's own tests. Those marked `lab` boot real hosts; they are skipped where none can boot."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab import Lab, state
from tests.lab.journals import _no_agent_ended_by_itself, pytest_runtest_makereport

__all__ = ["_no_agent_ended_by_itself", "pytest_runtest_makereport"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lab: boots real hosts (root, and the lab's base tree)")
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        os.environ[state.LABS_DIR] = str(state.labs_dir_of(worker))


@pytest.fixture(scope="session")
def lab_name() -> str:
    """Differs between test runs at the same time; `python -m tests.lab sweep` removes what a killed one left."""
    if reason := Lab.unavailable():
        pytest.skip(reason)
    return f"t{os.getpid()}"


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    """Three hosts with Docker and the demo image on n1, shared by the module: a test leaves them as it found them."""
    with Lab.up(3, name=lab_name) as lab:
        lab.hosts["n1"].load_image()
        yield lab


@pytest.fixture
def whole(lab: Lab) -> Iterator[Lab]:
    """The shared lab, for tests that break it: afterwards the network is healed and every host is on."""
    yield lab
    lab.heal()
    for host in lab.hosts.values():
        host.start()
