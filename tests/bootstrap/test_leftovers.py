"""What agents leave running is ended by the records that they keep of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agent.errors import InputError, MusterError
from bootstrap import processes
from bootstrap.leftovers import docker_answers, end_processes, remove_containers
from tests.support.waiting import wait_for_sync


def test_a_recorded_process_is_ended_and_forgotten(tmp_path: Path) -> None:
    run = os.urandom(16).hex()
    output = tmp_path / "output"
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    pid = processes.spawn(sleeper, environ={**os.environ, "MUSTER_RUN": run}, output=output)
    wait_for_sync(lambda: "up" in output.read_text())
    record = tmp_path / "processes" / "web.web.1.json"
    record.parent.mkdir()
    record.write_text(f'{{"run": "{run}", "pid": 1, "start": 5}}')
    end_processes([tmp_path, tmp_path / "another host without any"])
    assert not processes.has(pid, f"MUSTER_RUN={run}".encode())
    assert not record.exists()
    processes.reap(pid)


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    record = tmp_path / "processes" / "web.web.1.json"
    record.parent.mkdir()
    record.write_text("nonsense")
    with pytest.raises(InputError) as raised:
        end_processes([tmp_path])
    assert raised.value.where == str(record)


def test_an_engine_that_is_away_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    assert not docker_answers()
    with pytest.raises(MusterError, match="Docker doesn't answer"):
        remove_containers("a" * 16)
