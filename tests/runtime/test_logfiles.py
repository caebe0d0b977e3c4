"""Rotation and reading of log files that somebody else writes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.logfiles import last_lines, read_logs, rotate, rotated, written


def test_a_file_over_its_size_is_copied_and_truncated_and_the_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    with path.open("ab", buffering=0) as writer:
        for round_ in range(5):
            writer.write(f"line {round_}\n".encode() * 3)
            assert rotate(path, max_bytes=10)
            assert path.stat().st_size == 0
        writer.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    assert rotated(path, 1).read_bytes() == b"line 4\n" * 3
    assert rotated(path, 2).read_bytes() == b"line 3\n" * 3
    assert not rotated(path, 3).exists()
    assert os.stat(rotated(path, 1)).st_mode & 0o777 == 0o600


def test_a_small_or_missing_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    assert not rotate(path)
    path.write_bytes(b"x")
    assert not rotate(path)


@given(
    sizes=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    tail=st.none() | st.integers(0, 15),
)
def test_the_tail_reaches_into_rotated_files(tmp_path_factory: object, sizes: list[int], tail: int | None) -> None:
    path = tmp_path_factory.mktemp("log") / "out.log"  # type: ignore[attr-defined]  # pytest's factory has no public type
    expected: list[bytes] = []
    for number, size in zip((2, 1, 0), sizes, strict=True):
        lines = [f"{number} {line}\n".encode() for line in range(size)]
        rotated(path, number).write_bytes(b"".join(lines))
        expected += lines
    wanted = expected if tail is None else expected[len(expected) - min(tail, len(expected)) :]
    lines, offset = last_lines(path, tail)
    assert (lines, offset) == (wanted, path.stat().st_size)


async def test_a_file_that_was_deleted_and_made_again_is_followed_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    path.write_bytes(b"one\n")
    with ThreadPoolExecutor(1) as executor:
        reading = read_logs(
            {"stdout": path}, executor, tail=None, since=None, before={}, follow=True, alive=lambda: True
        )
        async with aclosing(reading) as lines:
            assert (await anext(lines)).line == "one"
            with path.open("ab") as writer:
                writer.write(b"two\n")
            assert (await anext(lines)).line == "two"
            path.unlink()
            path.write_bytes(b"new\nest\n")
            assert [(await anext(lines)).line, (await anext(lines)).line] == ["new", "est"]


def test_what_earlier_runs_wrote_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    path.write_bytes(b"earlier\nrun\n")
    before = {stream: size for stream, (size, _) in written({"stdout": path, "stderr": tmp_path / "none"}).items()}
    assert before == {"stdout": 12}
    with path.open("ab") as writer:
        writer.write(b"this\none\n")
    assert last_lines(path, None, 12) == ([b"this\n", b"one\n"], 21)
    assert last_lines(path, 1, 12) == ([b"one\n"], 21)
    assert last_lines(path, None, 22) == ([b"earlier\n", b"run\n", b"this\n", b"one\n"], 21)
