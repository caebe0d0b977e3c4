"""`agent doctor` against fake agents: what it prints, its exit code, its bundle, and hosts without an agent."""

from __future__ import annotations

import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.cli import doctor as doctor_module
from agent.cli.bundle import _quiet_status
from agent.cli.main import run
from agent.model.doctor import HostAnswer, LedgerSight, PortUse
from tests.cli.conftest import Agent
from tests.doctor.hosts import sees, well
from tests.support.fake_node import FakeCluster, event

PLANTED = "pl4nted-s3cret-value"


def give(cluster: FakeCluster, answers: list[HostAnswer]) -> None:
    """Every fake agent would answer with these."""
    for running in cluster.nodes.values():
        running.node.answers = answers


def two(**changes: Any) -> list[HostAnswer]:
    exams = {name: well(name, "n1", "n2") for name in ("n1", "n2")}
    exams["n2"] = replace(exams["n2"], **changes)
    return [HostAnswer(id=exam.id, host=name, examination=exam) for name, exam in exams.items()]


async def test_nothing_found_exits_0_and_says_what_was_looked_at(agent: Agent, running: FakeCluster) -> None:
    give(running, two())
    said = await agent("doctor")
    assert said.code == 0
    assert "n1: agent 0.1.0, Docker 24.0.7 overlay2" in said.out
    assert said.out.endswith("2 hosts looked at: nothing found\n")
    assert "n2: answered" in said.err


async def test_an_error_exits_3_with_the_fix_below_it(agent: Agent, running: FakeCluster) -> None:
    squatted = (PortUse(port=9998, protocol="udp", held_by="other", holder="pid 7 (nc)"),)
    give(running, two(ports=squatted))
    said = await agent("doctor")
    assert said.code == 3
    lines = said.out.splitlines()
    at = lines.index("error: n2: 9998/udp is held by pid 7 (nc)")
    assert lines[at + 1].startswith("  `sudo ss -lnpu 'sport = :9998'`")
    assert lines[-1] == "2 hosts looked at: 1 error"


async def test_warnings_alone_exit_0(agent: Agent, running: FakeCluster) -> None:
    give(running, two(memory_free_mib=1))
    said = await agent("doctor")
    assert said.code == 0
    assert "1 warning" in said.out


async def test_json_is_one_document_with_a_version(agent: Agent, running: FakeCluster) -> None:
    give(running, two(memory_free_mib=1))
    said = await agent("doctor", "--json")
    assert said.json["version"] == 1
    assert said.json["answered_by"] in ("n1", "n2")
    assert [finding["check"] for finding in said.json["findings"]] == ["memory"]
    assert {host["host"] for host in said.json["hosts"]} == {"n1", "n2"}


async def test_hosts_can_be_named_and_an_unknown_one_is_refused(agent: Agent, running: FakeCluster) -> None:
    give(running, two())
    assert [host["host"] for host in (await agent("doctor", "n2", "--json")).json["hosts"]] == ["n2"]
    said = await agent("doctor", "n9", "--json")
    assert (said.code, said.problem["detail"]) == (1, "no member is called n9")
    assert (await agent("doctor", "N 9")).code == 2


async def test_the_bundle_is_private_whole_and_without_secrets(
    agent: Agent, running: FakeCluster, tmp_path: Path
) -> None:
    file = tmp_path / "report.tar.gz"
    answers = two(log=(f"INFO token={PLANTED}", "INFO linked with n1"))
    give(running, answers)
    for node in running.nodes.values():
        node.node.kept = [event(1, f"web/web.1 on n1 is failed: it printed {PLANTED}", kind="replica")]
    said = await agent("doctor", "--bundle", str(file), "--json")
    assert said.code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    contents: dict[str, str] = {}
    with tarfile.open(file) as archive:
        for entry in archive.getmembers():
            reader = archive.extractfile(entry)
            assert reader is not None
            contents[entry.name.removeprefix("muster-doctor/")] = reader.read().decode()
    assert {"README.txt", "doctor.json", "status.json", "members.json", "events.json", "versions.json"} <= set(contents)
    assert "linked with n1" in contents["logs/n2.log"]
    assert json.loads(contents["doctor.json"])["version"] == 1
    assert "is failed" in contents["events.json"]
    everything = "".join(contents.values())
    assert PLANTED not in everything
    assert "PRIVATE KEY" not in everything
    before = file.read_bytes()
    again = await agent("doctor", "--bundle", str(file))
    assert again.code == 1
    assert "never overwritten" in again.err
    assert file.read_bytes() == before
    assert [name for name in os.listdir(tmp_path) if name.startswith(".report")] == []


@pytest.mark.parametrize("between", [": ", " | ", "\n"])
def test_what_a_program_said_behind_our_own_words_is_left_out(between: str) -> None:
    reason = f"ended with code 1{between}{PLANTED}{between}{PLANTED}"
    service = {"replicas": [{"reason": reason}]}
    problems = [{"where": "web/web.1", "what": f"failed on n1{between}{PLANTED}"}]
    status = {"stacks": [{"reason": reason, "services": [service]}], "problems": problems}
    quiet = json.dumps(_quiet_status(status))
    assert PLANTED not in quiet
    assert "ended with code 1" in quiet
    assert "failed on n1" in quiet


async def test_without_a_majority_the_hosts_are_asked_all_the_same(agent: Agent, running: FakeCluster) -> None:
    give(running, two())
    alone = [replace(answer, examination=_leaderless(answer)) for answer in two()]
    give(running, alone)
    for node in running.nodes.values():
        node.node.leader = None
    said = await agent("doctor")
    assert said.code == 3
    assert "error: cluster: no coordinator is known to n1, n2" in said.out


def _leaderless(answer: HostAnswer) -> Any:
    assert answer.examination is not None
    return replace(answer.examination, ledger=LedgerSight(term=3, commit=9, applied=9))


async def test_a_partitioned_pair_is_named(agent: Agent, running: FakeCluster) -> None:
    exams = {name: well(name, "n1", "n2") for name in ("n1", "n2")}
    for source, target in (("n1", "n2"), ("n2", "n1")):
        sees(exams, source, target, connects="silent", linked=False, heard_udp=False)
    give(running, [HostAnswer(id=exam.id, host=exam.name, examination=exam) for exam in exams.values()])
    said = await agent("doctor")
    assert said.code == 3
    assert "error: n1 and n2: can't reach each other on 9998/tcp" in said.out


def test_nobody_answers_on_a_machine_that_is_no_host(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_HOME", str(cluster.home.path))
    monkeypatch.setattr(doctor_module, "is_host", lambda: False)
    assert run(["doctor"]) == 4
    assert "no member's address is known" in capsys.readouterr().err


def test_on_a_host_without_an_agent_it_looks_at_what_can_be_seen(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_HOME", str(cluster.home.path))
    monkeypatch.setattr(doctor_module, "is_host", lambda: True)
    began = time.monotonic()
    assert run(["doctor", "--json"]) == 3
    assert time.monotonic() - began < 10
    document = json.loads(capsys.readouterr().out)
    (host,) = document["hosts"]
    assert host["examination"]["running"] is False
    whats = [finding["what"] for finding in document["findings"]]
    assert any(what.startswith("the agent isn't running") for what in whats)
    assert any("no member's address is known" in what for what in whats)


def test_that_a_host_has_no_cluster_home_is_nothing_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSTER_HOME", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(doctor_module, "is_host", lambda: True)
    assert run(["doctor", "--json"]) == 3
    whats = [finding["what"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert any(what.startswith("the agent isn't running") for what in whats)
    assert not any("cluster home" in what for what in whats)
