"""All findings, the gravest first."""

from __future__ import annotations

from collections.abc import Sequence

from agent.doctor.cluster import cluster_findings
from agent.doctor.host import host_findings
from agent.doctor.pairs import pair_findings
from agent.doctor.published import published_findings
from agent.model.doctor import Finding, HostAnswer

_GRAVEST_FIRST = ("error", "warning", "note")

MAX_FINDINGS = 500  # nobody reads more; in a cluster of hundreds one broken switch makes thousands of pairs


def diagnose(answers: Sequence[HostAnswer]) -> tuple[Finding, ...]:
    """What is wrong on each host, between each two, and among all of them; at most MAX_FINDINGS."""
    found = [*pair_findings(answers), *published_findings(answers), *cluster_findings(answers)]
    for answer in answers:
        if answer.examination is not None:
            found += host_findings(answer.examination)
    found.sort(key=lambda finding: (_GRAVEST_FIRST.index(finding.severity), finding.where))
    return tuple(found[:MAX_FINDINGS])
