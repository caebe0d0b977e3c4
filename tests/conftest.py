"""What holds for every test: the loop never blocks, nothing is left behind, and CI lets no test skip."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import hypothesis
import pytest

from tests.support.blocking import blocking_detector
from tests.support.leaks import leaked_since, leaked_tasks, snapshot

NO_SKIP = os.environ.get("MUSTER_NO_SKIP") == "1"

# No deadlines, and no complaint about slow generation: both measure how busy the machine is. The seed is drawn anew for
# each run in CI too, so that every run tests new cases; a failing one is printed as a blob that reproduces it.
hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    derandomize=False,
    print_blob=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "dev", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev")
)

# Looking for garbage takes a fifteenth of all time at Python's own 700.
gc.set_threshold(5000)

DETECTOR = blocking_detector()

# The modules that take longest: a worker that takes one of them last would end long after the others.
BEGIN_WITH = (
    "test_healing.py",
    "test_voters.py",
    "test_phases.py",
    "test_seed.py",
    "test_stacks.py",
    "test_local.py",
    "test_bad_ledgers.py",
    "test_doctor.py",
    "test_backup.py",
    "test_install_lab.py",
    "test_lab.py",
    "test_demo.py",
)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves threads, sockets or child processes; set up first, so it looks last."""
    before = snapshot()
    yield
    if leaked := leaked_since(before):
        pytest.fail("left behind by this test: " + "; ".join(leaked), pytrace=False)


@pytest.fixture
async def _no_tasks_left_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    if leaked := await leaked_tasks(before):
        pytest.fail("left behind by this test: " + "; ".join(leaked), pytrace=False)


@pytest.fixture(autouse=True)
def _loop_is_watched(request: pytest.FixtureRequest, _nothing_left_behind: None) -> Iterator[None]:
    """In async tests: code of ``agent`` may not block the loop, and no task may outlive the test's own fixtures."""
    test: Any = getattr(request.node, "obj", None)
    if hypothesis.is_hypothesis_test(test):
        test = test.hypothesis.inner_test
    if not inspect.iscoroutinefunction(test):
        yield
        return
    request.getfixturevalue("_no_tasks_left_behind")
    DETECTOR.activate()
    try:
        yield
    finally:
        DETECTOR.deactivate()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first; the order of the others, and of the tests in each, stays."""
    places = {name: place for place, name in enumerate(BEGIN_WITH)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: no look for garbage goes through them."""
    gc.freeze()


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that keeps its reason; an expected failure stays one."""
    if NO_SKIP and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"MUSTER_NO_SKIP=1 lets nothing skip. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report
