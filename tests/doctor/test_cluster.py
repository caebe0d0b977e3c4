"""What is only wrong in comparison with the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.doctor import diagnose
from agent.doctor.cluster import CLOCK_ERROR_MS, CLOCK_WARNING_MS, LEDGER_LAG_ENTRIES, cluster_findings
from agent.doctor.diagnose import MAX_FINDINGS
from agent.model.doctor import Finding, LedgerSight, PortUse
from tests.doctor.hosts import answers, cluster, id_of, of


def found(changes: dict[str, dict[str, Any]] | None = None, /, **offsets: int) -> list[Finding]:
    exams = cluster("n1", "n2", "n3")
    for name, fields in (changes or {}).items():
        exams[name] = replace(exams[name], **fields)
    return list(cluster_findings(answers(*exams.values(), **offsets)))


@pytest.mark.parametrize(
    ("off_ms", "severity", "what"),
    [
        (CLOCK_WARNING_MS, "warning", "2.0 s ahead of"),
        (-CLOCK_WARNING_MS, "warning", "2.0 s behind"),
        (CLOCK_ERROR_MS, "error", "30.0 s ahead of"),
    ],
)
def test_a_clock_that_is_off_is_named(off_ms: int, severity: str, what: str) -> None:
    (finding,) = found(n2=off_ms)
    assert (finding.check, finding.where, finding.severity) == ("clock", "n2", severity)
    assert what in finding.what
    assert "timedatectl" in finding.fix


def test_the_one_who_asks_may_be_the_one_that_is_wrong() -> None:
    """Both others seem to be behind by as much: the middle of all is the cluster's time."""
    (finding,) = found(n2=-60_000, n3=-60_010)
    assert finding.where == "n1"
    assert "ahead of" in finding.what


def test_between_two_hosts_nobody_knows_whose_clock_is_wrong() -> None:
    exams = cluster("n1", "n2")
    (finding,) = cluster_findings(answers(*exams.values(), n2=9_000))
    assert finding.where == "n1 and n2"
    assert "n2 is ahead of n1" in finding.what


@given(st.lists(st.integers(-(10**7), 10**7), min_size=3, max_size=3))
def test_only_clocks_are_named_that_are_off_the_middle(offsets: list[int]) -> None:
    by_name = dict(zip(("n1", "n2", "n3"), offsets, strict=True))
    middle = sorted(offsets)[1]
    named = {finding.where for finding in of(found(**by_name), "clock")}
    assert named == {name for name, off in by_name.items() if abs(off - middle) >= CLOCK_WARNING_MS}


def test_versions_that_differ_are_told_with_who_has_which() -> None:
    (finding,) = found({"n3": {"agent_version": "0.2.0"}})
    assert (finding.check, finding.severity) == ("version", "warning")
    assert "0.1.0: n1, n2; 0.2.0: n3" in finding.what


def ledger(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"term": 3, "commit": 100, "applied": 100, "coordinator": id_of("n1")}
    return {"ledger": LedgerSight(**(fields | changes))}


def test_a_ledger_that_lags_is_named() -> None:
    assert found({"n1": ledger(commit=100 + LEDGER_LAG_ENTRIES)}) == []
    newest = LEDGER_LAG_ENTRIES + 101
    (finding,) = found({"n1": ledger(commit=newest, applied=newest), "n2": ledger(applied=newest)})
    assert (finding.where, finding.check) == ("n3", "ledger")


def test_nobody_coordinates_is_one_error_and_one_who_does_not_know_is_named() -> None:
    nobody = ledger(coordinator=None)
    (finding,) = found({"n1": nobody, "n2": nobody, "n3": nobody})
    assert (finding.severity, finding.where) == ("error", "cluster")
    (finding,) = found({"n2": nobody})
    assert (finding.severity, finding.where) == ("error", "n2")


def test_a_host_that_follows_an_earlier_coordinator_is_named() -> None:
    (finding,) = found({"n2": ledger(term=2, coordinator=id_of("n3"))})
    assert (finding.severity, finding.where) == ("warning", "n2")


def test_errors_come_first_and_there_is_an_end_to_findings() -> None:
    exams = cluster(*(f"n{number}" for number in range(1, 40)))
    squatted = tuple(PortUse(port=port, protocol="tcp", held_by="other") for port in range(1, 21))
    for name in exams:
        exams[name] = replace(exams[name], ports=squatted, memory_free_mib=1)
    findings = diagnose(answers(*exams.values()))
    assert len(findings) == MAX_FINDINGS
    assert {finding.severity for finding in findings} == {"error"}
