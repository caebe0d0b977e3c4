"""What is only wrong in comparison: clocks, versions, copies of the ledger, who coordinates."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from agent.model.doctor import Examination, Finding, HostAnswer

CLOCK_WARNING_MS = 2_000  # NTP keeps milliseconds; measured over a busy link it may look like a second
CLOCK_ERROR_MS = 30_000  # from there on `agent` warns too; tokens live for 300 s
LEDGER_LAG_ENTRIES = 1_000  # hosts are asked at different moments; busy ones are some hundreds apart


def cluster_findings(answers: Sequence[HostAnswer]) -> Iterator[Finding]:
    """Of the hosts whose agents answered."""
    asked = [answer for answer in answers if answer.examination is not None and answer.examination.running]
    exams = [answer.examination for answer in asked if answer.examination is not None]
    yield from _clocks(asked)
    yield from _versions(exams)
    yield from _coordinators(exams)
    yield from _lag(exams)


def _clocks(answers: list[HostAnswer]) -> Iterator[Finding]:
    """Against the middle of all; between two nobody can say which one is wrong."""
    if len(answers) < 2:
        return
    middle = statistics.median(answer.offset_ms for answer in answers)
    if len(answers) == 2:
        one, other = answers
        apart = one.offset_ms - other.offset_ms
        if abs(apart) >= CLOCK_WARNING_MS:
            ahead, behind = (one, other) if apart > 0 else (other, one)
            what = f"their clocks are {_seconds(apart)} apart: {ahead.host} is ahead of {behind.host}"
            yield _clock(f"{one.host} and {other.host}", what, abs(apart), "both")
        return
    for answer in answers:
        off = answer.offset_ms - middle
        if abs(off) >= CLOCK_WARNING_MS:
            what = f"its clock is {_seconds(off)} {'ahead of' if off > 0 else 'behind'} the cluster's"
            yield _clock(answer.host, what, abs(off), answer.host)


def _clock(where: str, what: str, off_ms: float, on: str) -> Finding:
    return Finding(
        severity="error" if off_ms >= CLOCK_ERROR_MS else "warning",
        check="clock",
        where=where,
        what=what,
        fix=f"On {on}: `timedatectl set-ntp true`; `timedatectl timesync-status` says whether a time server answers.",
    )


def _seconds(off_ms: float) -> str:
    return f"{abs(off_ms) / 1000:.1f} s"


def _versions(exams: list[Examination]) -> Iterator[Finding]:
    counts = Counter(exam.agent_version for exam in exams)
    if len(counts) > 1:
        by_version = sorted(counts)
        told = "; ".join(
            f"{version or 'unknown'}: {', '.join(sorted(e.name for e in exams if e.agent_version == version))}"
            for version in by_version
        )
        yield Finding(
            severity="warning",
            check="version",
            where="cluster",
            what=f"the agents are of {len(counts)} versions ({told})",
            fix="`bootstrap install hosts.txt` of the newest version brings all hosts to it.",
        )


def _coordinators(exams: list[Examination]) -> Iterator[Finding]:
    sights = [(exam, exam.ledger) for exam in exams if exam.ledger is not None]
    if not sights:
        return
    without = sorted(exam.name for exam, ledger in sights if ledger.coordinator is None)
    if len(without) == len(sights):
        yield Finding(
            severity="error",
            check="ledger",
            where="cluster",
            what=f"no coordinator is known to {', '.join(without)}: no majority of the voters is in touch",
            fix="`agent status` names the voters that are missing; start their agents, or fix the pairs named here.",
        )
        return
    for name in without:
        yield Finding(
            severity="error",
            check="ledger",
            where=name,
            what="knows no coordinator, though others do",
            fix=f"Fix what is said here of {name} and the voters; `journalctl -u muster-agent` there shows its links.",
        )
    newest = max(ledger.term for _, ledger in sights)
    current = {ledger.coordinator for _, ledger in sights if ledger.term == newest and ledger.coordinator is not None}
    for exam, ledger in sights:
        if ledger.coordinator is not None and current and ledger.coordinator not in current:
            yield Finding(
                severity="warning",
                check="ledger",
                where=exam.name,
                what=f"follows the coordinator of term {ledger.term}, others are in term {newest}",
                fix="Ask again in a few seconds; if it stays, look at its links: `agent members --via "
                + exam.name
                + "`.",
            )


def _lag(exams: list[Examination]) -> Iterator[Finding]:
    newest = max((exam.ledger.commit for exam in exams if exam.ledger is not None), default=0)
    for exam in exams:
        if exam.ledger is not None and newest - exam.ledger.applied > LEDGER_LAG_ENTRIES:
            yield Finding(
                severity="warning",
                check="ledger",
                where=exam.name,
                what=f"its ledger is {newest - exam.ledger.applied} entries behind",
                fix="Ask again: it should shrink. If not, look at its disk and links here, then "
                f"`systemctl restart muster-agent` on {exam.name}.",
            )
