"""The guards of tests/conftest.py, tried on tests that do what they forbid, in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

GUARDED = """
import asyncio, socket, subprocess, sys, threading, time
from pathlib import Path
import agent, pytest
from hypothesis import Phase, given, settings, strategies as st

KEPT = []
STOP = threading.Event()

def in_agent(source):
    scope = {}
    exec(compile(source, agent.__path__[0] + "/imagined.py", "exec"), scope)
    return scope["call"]

sleeping = in_agent("import time\\ndef call(): time.sleep(0.001)")
reading = in_agent(f"from pathlib import Path\\ndef call(): return Path({__file__!r}).read_text()")

async def forever():
    await asyncio.Event().wait()

async def test_leaves_a_task():
    KEPT.append(asyncio.create_task(forever(), name="stray"))
    await asyncio.sleep(0)

@settings(max_examples=1, phases=[Phase.generate])  # each example waits for the stray task
@given(st.integers())
async def test_leaves_a_task_in_a_property(number):
    KEPT.append(asyncio.create_task(forever(), name="stray"))

def test_leaves_a_thread():
    threading.Thread(target=STOP.wait, name="stray-thread", daemon=True).start()

def test_leaves_a_socket():
    KEPT.append(socket.create_server(("127.0.0.1", 0)))

def test_leaves_a_child():
    KEPT.append(subprocess.Popen(["sleep", "30"]))

def test_leaves_a_zombie():
    KEPT.append(subprocess.Popen(["true"]))

def test_other_tests_leaks_are_not_blamed_on_this_one():
    pass

async def test_cleans_up():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    async with server:
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        await asyncio.to_thread(time.monotonic)
    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    task.cancel()

@pytest.fixture
async def background():
    task = asyncio.create_task(forever())
    yield
    task.cancel()

async def test_with_a_fixture_that_cleans_up(background):
    pass

async def test_agent_code_sleeps():
    sleeping()

async def test_agent_code_reads_a_file():
    reading()

@given(st.integers())
async def test_agent_code_sleeps_in_a_property(number):
    sleeping()

async def test_agent_code_blocks_in_a_thread():
    await asyncio.to_thread(sleeping)
    assert await asyncio.to_thread(reading)

async def test_a_test_may_read_a_file():
    assert Path(__file__).read_text()

def test_agent_code_outside_a_loop_may_block():
    sleeping()

def test_the_end_of_what_is_left():
    STOP.set()
    for thing in KEPT:
        if isinstance(thing, subprocess.Popen):
            thing.kill()
            thing.wait()
        elif isinstance(thing, socket.socket):
            thing.close()
"""

SKIPPING = """
import pytest

def test_skips():
    pytest.skip("no such device here")

@pytest.mark.skip(reason="marked")
def test_is_marked():
    pass

@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    assert False
"""


def run(directory: Path, source: str, **environment: str) -> dict[str, str]:
    """Run tests in a pytest with the project's conftest; return "" or what was reported for each test's name."""
    (directory / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    (directory / "test_tried.py").write_text(source)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "MUSTER_", "COV_"))}
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--junitxml=out.xml"),
            *("-p", "no:cacheprovider", "-p", "no:schemathesis"),  # neither is wanted, and the second takes 1 s to load
        ],
        cwd=directory,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )
    report: dict[str, str] = {}
    for case in ET.parse(directory / "out.xml").iter("testcase"):
        texts = [f"{node.tag}: {node.get('message')} {node.text}" for node in case]
        report[case.get("name", "")] = report.get(case.get("name", ""), "") + "\n".join(texts)
    return report


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run(tmp_path_factory.mktemp("guarded"), GUARDED)


@pytest.mark.parametrize(
    ("test", "named"),
    [
        ("test_leaves_a_task", "task 'stray' running forever"),
        ("test_leaves_a_task_in_a_property", "task 'stray' running forever"),
        ("test_leaves_a_thread", "thread 'stray-thread' (daemon)"),
        ("test_leaves_a_socket", "SOCK_STREAM 127.0.0.1:"),
        ("test_leaves_a_child", "(sleep 30)"),
        ("test_leaves_a_zombie", "ended but never waited for"),
    ],
)
def test_what_a_test_leaves_behind_fails_it_by_name(guarded: dict[str, str], test: str, named: str) -> None:
    assert "left behind by this test" in guarded[test]
    assert named in guarded[test]


@pytest.mark.parametrize(
    ("test", "call"),
    [
        ("test_agent_code_sleeps", "time.sleep"),
        ("test_agent_code_sleeps_in_a_property", "time.sleep"),
        ("test_agent_code_reads_a_file", "io.open"),
    ],
)
def test_agent_code_that_blocks_the_loop_fails_the_test(guarded: dict[str, str], test: str, call: str) -> None:
    assert f"Blocking call to {call}" in guarded[test]


@pytest.mark.parametrize(
    "test",
    [
        "test_other_tests_leaks_are_not_blamed_on_this_one",
        "test_cleans_up",
        "test_with_a_fixture_that_cleans_up",
        "test_agent_code_blocks_in_a_thread",
        "test_a_test_may_read_a_file",
        "test_agent_code_outside_a_loop_may_block",
        "test_the_end_of_what_is_left",
    ],
)
def test_a_test_that_keeps_the_rules_passes(guarded: dict[str, str], test: str) -> None:
    assert guarded[test] == ""


def test_a_skip_stays_a_skip_by_default(tmp_path: Path) -> None:
    report = run(tmp_path, SKIPPING)
    assert report["test_skips"].startswith("skipped:")
    assert "no such device here" in report["test_skips"]
    assert report["test_is_marked"].startswith("skipped:")


def test_no_skip_turns_skips_into_failures_that_keep_their_reason(tmp_path: Path) -> None:
    report = run(tmp_path, SKIPPING, MUSTER_NO_SKIP="1")
    assert report["test_skips"].startswith("failure:")
    assert "no such device here" in report["test_skips"]
    assert report["test_is_marked"].startswith(("failure:", "error:"))
    assert report["test_fails_as_expected"].startswith("skipped:")


def test_no_skip_refuses_a_module_that_skips_itself(tmp_path: Path) -> None:
    source = "import pytest\npytest.importorskip('no_such_module_anywhere')\ndef test_a(): pass\n"
    (text,) = run(tmp_path, source, MUSTER_NO_SKIP="1").values()
    assert text.startswith("error:")
    assert "no_such_module_anywhere" in text
