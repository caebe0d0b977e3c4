"""Which two hosts can't reach each other, and in which direction.

A pair is judged by what both ends say: each tells whom it can connect to and whose datagrams come. One end's word is
enough to know a direction; a host that nobody can reach is one finding, not one for each pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from msgspec import Struct

from agent.model.doctor import Connects, Examination, Finding, HostAnswer, PeerSight
from agent.model.types import AgentId

MEETS: dict[Connects, str] = {
    "yes": "connects",
    "refused": "refused",
    "silent": "no answer",
    "no-route": "no route",
}


class _Host(Struct, frozen=True):
    """A member as the answers show it; `seen` is its own word about the others, None without one."""

    id: AgentId
    name: str
    address: str
    peer_port: int
    seen: dict[AgentId, PeerSight] | None
    opens: tuple[str, ...] = ()


def pair_findings(answers: Sequence[HostAnswer]) -> Iterator[Finding]:
    """Hosts that don't answer, and pairs that can't reach each other both ways."""
    hosts = _hosts(answers)
    silent = {host.id for host in hosts.values() if host.seen is None and _reached_by_nobody(host, hosts)}
    for host in sorted((hosts[id_] for id_ in silent), key=lambda host: host.name):
        yield _unreached(host, hosts)
    for answer in answers:
        if answer.examination is None and answer.id not in silent:
            yield Finding(
                severity="error",
                check="agent",
                where=answer.host,
                what=f"didn't answer: {answer.what}",
                fix=answer.fix or f"Ask it itself: `sudo agent doctor` on {answer.host}.",
            )
    ordered = sorted(hosts.values(), key=lambda host: host.name)
    for one, other in combinations(ordered, 2):
        if one.id not in silent and other.id not in silent:
            yield from _tcp(one, other)
            yield from _udp(one, other)


def _hosts(answers: Sequence[HostAnswer]) -> dict[AgentId, _Host]:
    """By id; those that only others know are there too, and nobody is there of whom nobody knows where it is."""
    exams = [answer.examination for answer in answers if answer.examination is not None and answer.examination.running]
    found: dict[AgentId, _Host] = {}
    for exam in exams:
        for peer in exam.peers:
            found.setdefault(peer.id, _Host(peer.id, peer.name, peer.address, peer.peer_port, None))
    for exam in exams:
        if exam.id is not None:
            found[exam.id] = _examined(exam.id, exam)
    return found


def _examined(id_: AgentId, exam: Examination) -> _Host:
    enrolled = exam.enrolled
    return _Host(
        id_,
        exam.name,
        enrolled.address if enrolled is not None else exam.name,
        int(exam.config.get("peer_port", 9998)),
        {peer.id: peer for peer in exam.peers},
        tuple(command for firewall in exam.firewalls for command in firewall.commands),
    )


def _sight(of: _Host, on: _Host) -> PeerSight | None:
    return of.seen.get(on.id) if of.seen is not None else None


def _reached_by_nobody(host: _Host, hosts: dict[AgentId, _Host]) -> bool:
    sights = [sight for other in hosts.values() if (sight := _sight(other, host)) is not None]
    return all(sight.connects != "yes" and not sight.linked for sight in sights)


def _unreached(host: _Host, hosts: dict[AgentId, _Host]) -> Finding:
    told = [
        f"{other.name}: {MEETS[sight.connects]}"
        for other in sorted(hosts.values(), key=lambda other: other.name)
        if (sight := _sight(other, host)) is not None
    ]
    return Finding(
        severity="error",
        check="network",
        where=host.name,
        what=f"nobody reaches it on {host.address}:{host.peer_port} ({', '.join(told)})",
        fix=f"Is it on? On {host.name}: `systemctl status muster-agent`, then `sudo agent doctor`.",
    )


def _tcp(one: _Host, other: _Host) -> Iterator[Finding]:
    there, back = _sight(one, other), _sight(other, one)
    known = [sight for sight in (there, back) if sight is not None]
    if not known or all(sight.connects == "yes" for sight in known):
        return
    if any(sight.connects == "yes" or sight.linked for sight in known):
        for source, target, sight in ((one, other, there), (other, one, back)):
            if sight is not None and sight.connects != "yes":
                yield Finding(
                    severity="warning",
                    check="network",
                    where=f"{source.name} to {target.name}",
                    what=f"can't connect to {target.address}:{target.peer_port} ({MEETS[sight.connects]}); "
                    "the other way works, which is enough for their link",
                    fix=_open("tcp", source, target, sights=(sight,)),
                )
        return
    yield Finding(
        severity="error",
        check="network",
        where=f"{one.name} and {other.name}",
        what=f"can't reach each other on {one.peer_port}/tcp: "
        + ", ".join(_told(*way) for way in ((one, other, there), (other, one, back))),
        fix=_open("tcp", one, other, both=True, sights=known),
    )


def _told(source: _Host, target: _Host, sight: PeerSight | None) -> str:
    return f"{source.name} to {target.name}: {MEETS[sight.connects] if sight is not None else 'not known'}"


def _udp(one: _Host, other: _Host) -> Iterator[Finding]:
    """A direction is known by who should have heard."""
    to_other, to_one = _sight(other, one), _sight(one, other)
    deaf = [
        (source, target)
        for source, target, sight in ((one, other, to_other), (other, one, to_one))
        if sight is not None and not sight.heard_udp
    ]
    if len(deaf) == 2:
        yield Finding(
            severity="error",
            check="network",
            where=f"{one.name} and {other.name}",
            what=f"hear nothing of each other on {one.peer_port}/udp, either way: failures are noticed late",
            fix=_open("udp", one, other, both=True),
        )
    for source, target in deaf if len(deaf) == 1 else ():
        yield Finding(
            severity="error",
            check="network",
            where=f"{source.name} to {target.name}",
            what=f"{target.name} hears nothing of {source.name} on {target.peer_port}/udp: failures are noticed late",
            fix=_open("udp", source, target),
        )


def _open(protocol: str, source: _Host, target: _Host, *, both: bool = False, sights: Sequence[PeerSight] = ()) -> str:
    """The very command where a firewall of theirs is known to be in the way, else where to look."""
    ends = (source, target) if both else (target,)
    for end in ends:
        if end.opens:
            return f"On {end.name}: " + "; ".join(f"`{command}`" for command in end.opens)
    port = target.peer_port
    if sights and all(sight.connects == "refused" for sight in sights):
        names = " and ".join(sorted({end.name for end in ends}))
        return (
            f"No agent listens, or a firewall rejects: `systemctl status muster-agent`, `nft list ruleset` on {names}."
        )
    arrow = "in both directions" if both else f"towards {target.name}"
    names = " and ".join(end.name for end in ends)
    return (
        f"Let {port}/{protocol} through between {source.address} and {target.address}, {arrow}. Look at "
        f"`nft list ruleset` on {names} and at what is between them: "
        f"`tcpdump -ni any {protocol} port {port}` shows what arrives."
    )
