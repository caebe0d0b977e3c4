"""Replicas' ports that one host can't reach although the replica's own host can: something between them is closed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.doctor.pairs import MEETS
from agent.model.doctor import Examination, Finding, HostAnswer


def published_findings(answers: Sequence[HostAnswer]) -> Iterator[Finding]:
    """One for each port and host that can't reach it.

    Where the replica's own host can't either, its program doesn't listen: the status tells of that. Where that host
    doesn't answer, or the two can't speak at all, other findings say so.
    """
    exams = {
        answer.examination.id: answer.examination
        for answer in answers
        if answer.examination is not None and answer.examination.running and answer.examination.id is not None
    }
    for source in exams.values():
        for port in source.closed:
            target = exams.get(port.host)
            if target is None or target is source or "published ports" in target.unchecked:
                continue
            own = {(each.host, each.port) for each in target.closed}
            if (port.host, port.port) in own or not _speak(source, target):
                continue
            rule = f"ufw allow from {_address(source)} to any port {port.port} proto tcp"
            yield Finding(
                severity="error",
                check="network",
                where=f"{source.name} to {target.name}",
                what=f"can't connect to {port.replica} at port {port.port} ({MEETS[port.connects]}), though "
                f"{target.name} itself can",
                fix=f"A firewall between them is likely. On {target.name}: `nft list ruleset` shows the rules; "
                f"`{rule}` opens the port where ufw is in charge.",
            )


def _speak(source: Examination, target: Examination) -> bool:
    return any(peer.id == target.id and (peer.connects == "yes" or peer.linked) for peer in source.peers)


def _address(exam: Examination) -> str:
    return exam.enrolled.address if exam.enrolled is not None else exam.name
